"""What a network is worth on rows: the metrics, how far they may be chance, and what is behind them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Any

from peftcli import files
from peftcli.data.metrics import is_module

if TYPE_CHECKING:
    from torch import nn

    from peftcli.data.examples import Examples
    from peftcli.data.tasks.task import Outcome, Task
    from peftcli.delta.delta import Delta
    from peftcli.pipeline.adapting import Prepared
    from peftcli.pipeline.training import Run
    from peftcli.recipe.recipe import GenerationSection
    from peftcli.training.evaluation import EvaluationSettings
    from peftcli.training.generation import Writer

BASE_SCORES = "base_scores.json"


@dataclass(frozen=True, kw_only=True)
class Measurement:
    """A network measured on rows.

    Attributes:
        metrics: By name; ``n`` is how many rows there were.
        intervals: By name: where 95 % of the values lie that other rows of the same kind would have given.
        details: What the task shows beside them, such as scores by class.
        outcomes: Of every row.
    """

    metrics: dict[str, float]
    intervals: dict[str, list[float]]
    details: dict[str, Any]
    outcomes: list[Outcome] = field(default_factory=list, repr=False)


def measure(
    network: nn.Module,
    task: Task,
    examples: Examples,
    settings: EvaluationSettings,
    metrics: Sequence[str] | None,
) -> Measurement:
    """Measure a network with everything that a report shows."""
    from peftcli.metrics.intervals import bootstrap
    from peftcli.training.evaluation import outcomes_of

    names = task.metric_names if metrics is None else metrics
    task.check_metrics(names)
    outcomes = outcomes_of(network, task, examples, settings, names)
    scored = task.scored(outcomes, [name for name in names if not is_module(name)])
    own = task.metrics(outcomes, [name for name in names if is_module(name)])
    return Measurement(
        metrics={**{name: one.value for name, one in scored.items()}, **own, "n": len(examples)},
        # One seed for all runs: the same rows are drawn, so that the intervals of two runs can be compared.
        intervals={name: list(bootstrap(one, seed=0)) for name, one in scored.items()},
        details=task.details(outcomes),
        outcomes=outcomes,
    )


def writer_of(prepared: Prepared, section: GenerationSection, seed: int) -> Writer | None:
    """Return how texts are written for ``prepared``; None where its task has none."""
    from peftcli.data.tasks.generating import Generating
    from peftcli.training.generation import Writer

    if not isinstance(prepared.task, Generating):
        return None
    return Writer(section=section, tokenizer=prepared.reader, positions=prepared.base.anatomy.max_positions, seed=seed)


def measure_delta(run: Run, delta: Delta, split: str) -> Measurement:
    """Measure ``delta`` on a split of the run's data."""
    return measure(delta.base.network, run.prepared.task, run.examples[split], run.settings, run.metrics)


def measure_base(run: Run, *, resume: bool) -> Measurement | None:
    """Measure the base before anything is attached: not every method equals it at the start."""
    from peftcli.pipeline.folders import CHECKPOINTS

    if not run.recipe.evaluation.base or "validation" not in run.examples:
        return None
    kept = run.folder / CHECKPOINTS / BASE_SCORES
    if resume and kept.exists():
        return Measurement(**files.read_json(kept))
    settings = replace(run.settings, virtual=None)
    network, task = run.prepared.base.network, run.prepared.task
    found = replace(measure(network, task, run.examples["validation"], settings, run.metrics), outcomes=[])
    if run.accelerator.is_main_process:
        kept.parent.mkdir(exist_ok=True)
        files.write_json(kept, asdict(found))
    return found


def quick_scores(run: Run, delta: Delta) -> dict[str, float]:
    """Return the metrics on the validation rows in the midst of training; no text is written but to select by."""
    from peftcli.data.tasks.generating import Generating
    from peftcli.training.evaluation import evaluate

    task, names = run.prepared.task, run.metrics
    if isinstance(task, Generating):
        names = [name for name in names if name == run.select or not task.asks_for_texts([name])]
    scores, _ = evaluate(delta.base.network, task, run.examples["validation"], run.settings, names)
    return scores
