"""``peft predict``: what a trained delta says of rows, whether anybody knows what is right or not."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import ValidationError

from peftcli import files
from peftcli.data.rows import read_rows
from peftcli.data.tables import DataFile, Row, Table
from peftcli.errors import DataError, RecipeError
from peftcli.pipeline.evaluation import rows_of, settings_of
from peftcli.pipeline.opening import Opened, open_target
from peftcli.pipeline.progress import Progress
from peftcli.pipeline.reading import read
from peftcli.recipe.recipe import GenerationSection

if TYPE_CHECKING:
    from peftcli.data.tasks import Task
    from peftcli.data.tasks.generating import Generating
    from peftcli.training.evaluation import EvaluationSettings


@dataclass(frozen=True, kw_only=True)
class PredictionRequest:
    """What to predict.

    Attributes:
        split: Which rows of the run's own data.
        data: Files whose rows are taken instead; they need no answers.
        texts: Texts that are asked about instead.
        limit: At most so many rows, the first.
        base: Whether the un-tuned base answers instead of the delta.
        batch_size: Rows at once, where no text is written.
        generation: What is written otherwise than the run's recipe says, by the names of its keys.
        seed: Of what is drawn; default: the recipe's.
    """

    split: Literal["validation", "test", "train"] = "validation"
    data: list[str] | None = None
    texts: list[str] | None = None
    limit: int | None = None
    base: bool = False
    batch_size: int = 64
    generation: Mapping[str, Any] = field(default_factory=dict)
    seed: int | None = None


def predict(target: Path, request: PredictionRequest, progress: Progress) -> list[dict[str, Any]]:
    """Return an object for every row, in their order: where it stands, what was asked, what was said, what is known.

    Raises:
        ArtifactError: The target is damaged.
        DataError: The rows do not fit its task.
        RecipeError: The request contradicts itself, or the task writes no texts.
    """
    from peftcli.data.tasks.generating import Generating

    opened = open_target(target)
    task = opened.prepared.task
    if request.generation and not isinstance(task, Generating):
        name = next(iter(request.generation))
        raise RecipeError(f"{name} means nothing here: {task.name} writes no texts", hint="Leave the option out.")
    generation = _generation(opened, request.generation)
    table = _rows(opened, request)
    progress.note(f"predicting {len(table):,} rows")
    if not request.base:
        opened.adapt()
    elif opened.artifact is None:
        raise RecipeError("a merged folder has no base beside it", where=str(target), hint="Leave --base out.")
    if isinstance(task, Generating):
        settings = settings_of(opened, request.batch_size, generation, request.seed)
        return list(_written(opened, task, table, replace(settings, virtual=None) if request.base else settings))
    return list(_told(opened, task, table, request))


def write_predictions(path: Path, rows: list[dict[str, Any]]) -> None:
    """Write one line of JSON per row."""
    files.write_text(path, "".join(f"{line(row)}\n" for row in rows))


def line(row: Mapping[str, Any]) -> str:
    """Return a row as one line of JSON."""
    return json.dumps(row, ensure_ascii=False)


def _rows(opened: Opened, request: PredictionRequest) -> Table:
    task = opened.prepared.task
    if request.texts:
        found = [Row(task.asking(text), f"text {number}") for number, text in enumerate(request.texts, 1)]
        table = Table(found, [DataFile("the texts", "", len(found))])
    elif request.data:
        table = read_rows(request.data, request.split)
    else:
        table = rows_of(opened, request.split, None)
    return table if request.limit is None else table.taken(list(range(min(request.limit, len(table)))))


def _written(opened: Opened, task: Generating, table: Table, settings: EvaluationSettings) -> Iterator[dict[str, Any]]:
    from peftcli.training.evaluation import write

    prepared = opened.prepared
    assert task.max_length is not None, "preparing says it"
    examples = task.asked(table, prepared.reader, task.max_length, prepared.base.anatomy.vocabulary)
    for example, found in zip(examples, write(prepared.base.network, task, examples, settings), strict=True):
        row = table.rows[example.row]
        known = {"references": found["references"]} if found["references"] else {}
        yield {"where": row.where, **task.question(row), "prediction": found["text"], **known}


def _told(opened: Opened, task: Task, table: Table, request: PredictionRequest) -> Iterator[dict[str, Any]]:
    from peftcli.training.evaluation import asked

    network, settings = opened.prepared.base.network, settings_of(opened, request.batch_size)
    settings = replace(settings, virtual=None) if request.base else settings
    answerable = _answerable(task, table)
    if problems := task.problems(answerable):
        raise DataError(problems[:10])
    examples = opened.prepared.encode(answerable)
    found = asked(network, task, examples, settings, partial(task.predicted, network))
    for example, outcome in zip(examples, found, strict=True):
        row = answerable.rows[example.row]
        told = task.describe(row, task.completed(example, outcome))
        made_up = () if row is table.rows[example.row] else (task.answer, "loss")
        yield {key: value for key, value in told.items() if key not in made_up}


def _answerable(task: Task, table: Table) -> Table:
    """Return the rows with an answer, whichever, where they have none: then they can be read like the others."""
    column = task.column_names.get(task.answer)
    if column is None:
        return table
    known = next((value for row in table.rows if _is_scalar(value := row.values.get(column))), None)

    def answered(row: Row) -> Row:
        if row.values.get(column) not in (None, ""):
            return row
        made_up = task.some_answer(row) if known is None else known
        return row if made_up is None else Row({**row.values, column: made_up}, row.where)

    return Table([answered(row) for row in table.rows], table.files)


def _is_scalar(value: object) -> bool:
    return value != "" and isinstance(value, str | int | float)


def _generation(opened: Opened, given: Mapping[str, Any]) -> GenerationSection:
    """Return the recipe's way of writing with the request's changes.

    Raises:
        RecipeError: They do not go together.
    """
    section = read(opened.recipe).evaluation.generation if opened.recipe else GenerationSection()
    try:
        return GenerationSection.model_validate({**section.model_dump(), **given})
    except ValidationError as error:
        context = error.errors()[0].get("ctx", {})
        what = str(context.get("what", error.errors()[0]["msg"]))
        raise RecipeError(f"the options for writing: {what}", hint=context.get("hint")) from None
