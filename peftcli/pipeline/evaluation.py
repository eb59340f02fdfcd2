"""``peft eval``: the scores of a delta beside those of its un-tuned base."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from peftcli import files
from peftcli.data.datasets import load_data
from peftcli.data.rows import read_rows
from peftcli.errors import DataError, RecipeError
from peftcli.pipeline.devices import make_accelerator, precision
from peftcli.pipeline.measuring import Measurement, measure
from peftcli.pipeline.opening import Opened, open_target
from peftcli.pipeline.progress import Progress
from peftcli.pipeline.reading import read
from peftcli.recipe.recipe import TrainingSection

if TYPE_CHECKING:
    from peftcli.data.tables import Table
    from peftcli.data.tasks.task import Outcome


@dataclass(frozen=True, kw_only=True)
class EvaluationRequest:
    """What to measure.

    Attributes:
        split: Which rows of the run's own data.
        data: Files that are measured instead.
        predictions: Where to write one line of JSON per row.
        base: Whether the un-tuned base is measured too.
        batch_size: Examples per forward pass.
    """

    split: Literal["validation", "test", "train"] = "validation"
    data: list[str] | None = None
    predictions: Path | None = None
    base: bool = True
    batch_size: int = 64


def evaluate(target: Path, request: EvaluationRequest, progress: Progress) -> dict[str, Any]:
    """Measure a run, an artifact or a merged folder.

    Raises:
        ArtifactError: The target is damaged.
        DataError: The rows do not fit its task.
    """
    opened = open_target(target)
    table = _rows(opened, request)
    progress.note(f"measuring {len(table):,} rows")
    base = None
    if request.base and opened.artifact is not None:
        base = _measure(opened, table, request, virtual=False)
    opened.adapt()
    delta = _measure(opened, table, request, virtual=True)
    if request.predictions:
        _write_predictions(request.predictions, opened, table, delta.outcomes)
    return {
        "target": str(target),
        "split": None if request.data else request.split,
        "n": len(table),
        "metrics": {"base": base and base.metrics, "delta": delta.metrics},
        "intervals": {"base": base and base.intervals, "delta": delta.intervals},
        "details": delta.details,
        "predictions": str(request.predictions) if request.predictions else None,
    }


def _rows(opened: Opened, request: EvaluationRequest) -> Table:
    task = opened.prepared.task
    if request.data:
        table = read_rows(request.data)
        if problems := task.problems(table):
            raise DataError(problems[:10])
        return table
    if opened.recipe is None:
        raise RecipeError(
            "there is no recipe beside this delta to say what its data is", hint="Name files with --data."
        )
    recipe = read(opened.recipe)
    splits = load_data(recipe.data, recipe.seed)
    found: Table | None = getattr(splits, request.split)
    if found is None:
        raise RecipeError(
            f"the recipe of this run has no {request.split} data",
            where=str(opened.recipe),
            hint="Name files with --data.",
        )
    return found


def _measure(opened: Opened, table: Table, request: EvaluationRequest, *, virtual: bool) -> Measurement:
    from peftcli.training.evaluation import EvaluationSettings

    prepared = opened.prepared
    training = TrainingSection()
    accelerator = make_accelerator(training, prepared.dtype)
    prepared.base.network.to(accelerator.device)
    settings = EvaluationSettings(
        batch_size=request.batch_size,
        pad=prepared.pad,
        virtual=prepared.virtual if virtual else None,
        precision=precision(training, prepared.dtype),
        accelerator=accelerator,
    )
    return measure(prepared.base.network, prepared.task, prepared.encode(table), settings, None)


def _write_predictions(path: Path, opened: Opened, table: Table, outcomes: list[Outcome]) -> None:
    task = opened.prepared.task
    examples = opened.prepared.encode(table)
    lines = [
        json.dumps(task.describe(table.rows[example.row], outcome), ensure_ascii=False)
        for example, outcome in zip(examples, outcomes, strict=True)
    ]
    files.write_text(path, "\n".join(lines) + "\n")
