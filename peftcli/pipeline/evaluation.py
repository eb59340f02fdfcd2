"""``peft eval``: the scores of a delta beside those of its un-tuned base."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from peftcli import files
from peftcli.data.datasets import load_data
from peftcli.data.rows import read_rows
from peftcli.errors import DataError, RecipeError
from peftcli.pipeline.devices import make_accelerator, precision
from peftcli.pipeline.measuring import Measurement, measure, writer_of
from peftcli.pipeline.opening import Opened, open_target
from peftcli.pipeline.progress import Progress
from peftcli.pipeline.reading import read
from peftcli.recipe.recipe import GenerationSection, TrainingSection

if TYPE_CHECKING:
    from peftcli.data.tables import Table
    from peftcli.data.tasks.task import Outcome
    from peftcli.training.evaluation import EvaluationSettings


@dataclass(frozen=True, kw_only=True)
class EvaluationRequest:
    """What to measure.

    Attributes:
        split: Which rows of the run's own data, or of data that has several splits.
        data: Files that are measured instead.
        predictions: Where to write one line of JSON per row.
        base: Whether the un-tuned base is measured too.
        batch_size: Examples per forward pass.
        metrics: Which; default: those of the run's recipe, or else the task's.
    """

    split: Literal["validation", "test", "train"] = "validation"
    data: list[str] | None = None
    predictions: Path | None = None
    base: bool = True
    batch_size: int = 64
    metrics: list[str] | None = None


def evaluate(target: Path, request: EvaluationRequest, progress: Progress) -> dict[str, Any]:
    """Measure a run, an artifact or a merged folder.

    Raises:
        ArtifactError: The target is damaged.
        DataError: The rows do not fit its task.
    """
    opened = open_target(target)
    table = rows_of(opened, request.split, request.data)
    metrics = _metrics(opened, request)
    progress.note(f"measuring {len(table):,} rows")
    base = None
    if request.base and opened.artifact is not None and all(m.trains for m in opened.artifact.methods):
        base = _measure(opened, table, replace(settings_of(opened, request.batch_size), virtual=None), metrics)
    opened.adapt()
    delta = _measure(opened, table, settings_of(opened, request.batch_size), metrics)
    if request.predictions:
        _write_predictions(request.predictions, opened, table, delta.outcomes)
    return {
        "target": str(target),
        "split": None if request.data else request.split,
        "n": len(table),
        "metrics": {"base": base and base.metrics, "delta": delta.metrics},
        "intervals": {"base": base and base.intervals, "delta": delta.intervals},
        "details": delta.details,
        "signatures": {name: opened.prepared.task.signature(name) for name in delta.intervals},
        "predictions": str(request.predictions) if request.predictions else None,
    }


def rows_of(opened: Opened, split: Literal["validation", "test", "train"], data: list[str] | None) -> Table:
    """Return rows of files, or a split of the run's own data.

    Raises:
        DataError: The files cannot be read, or their rows do not fit the task.
        RecipeError: There is no such split.
    """
    if data:
        table = read_rows(data, split)
        if problems := opened.prepared.task.problems(table):
            raise DataError(problems[:10])
        return table
    if opened.recipe is None:
        raise RecipeError(
            "there is no recipe beside this delta to say what its data is", hint="Name files with --data."
        )
    recipe = read(opened.recipe)
    splits = load_data(recipe.data, recipe.seed)
    if splits.stream and split == "train":
        what = "the training rows of this run are streamed, not held to be measured"
        raise RecipeError(what, where=str(opened.recipe), hint="Name files with --data.")
    found: Table | None = getattr(splits, split)
    if found is None:
        raise RecipeError(
            f"the recipe of this run has no {split} data",
            where=str(opened.recipe),
            hint="Name files with --data.",
        )
    return found


def settings_of(
    opened: Opened, batch_size: int, generation: GenerationSection | None = None, seed: int | None = None
) -> EvaluationSettings:
    """Return how rows are measured on this machine.

    Args:
        opened: Whose network goes to the device.
        batch_size: Examples per forward pass.
        generation: How texts are written; default: as the run's recipe says.
        seed: Of what is drawn; default: the recipe's.
    """
    from peftcli.training.evaluation import EvaluationSettings

    recipe = read(opened.recipe) if opened.recipe else None
    if generation is None:
        generation = recipe.evaluation.generation if recipe else GenerationSection()
    if seed is None:
        seed = recipe.seed if recipe else 0
    prepared = opened.prepared
    training = TrainingSection()
    accelerator = make_accelerator(training, prepared.dtype)
    prepared.base.network.to(accelerator.device)
    return EvaluationSettings(
        batch_size=batch_size,
        pad=prepared.pad,
        virtual=prepared.virtual,
        precision=precision(training, prepared.dtype),
        accelerator=accelerator,
        writer=writer_of(prepared, generation, seed),
    )


def _metrics(opened: Opened, request: EvaluationRequest) -> list[str] | None:
    if request.metrics is None and opened.recipe is not None:
        return read(opened.recipe).evaluation.metrics
    opened.prepared.task.check_metrics(request.metrics or ())
    return request.metrics


def _measure(opened: Opened, table: Table, settings: EvaluationSettings, metrics: list[str] | None) -> Measurement:
    prepared = opened.prepared
    return measure(prepared.base.network, prepared.task, prepared.encode(table), settings, metrics)


def _write_predictions(path: Path, opened: Opened, table: Table, outcomes: list[Outcome]) -> None:
    task = opened.prepared.task
    examples = opened.prepared.encode(table)
    lines = [
        json.dumps(task.describe(table.rows[example.row], outcome), ensure_ascii=False)
        for example, outcome in zip(examples, outcomes, strict=True)
    ]
    files.write_text(path, "\n".join(lines) + "\n")
