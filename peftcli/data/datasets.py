"""The splits of a recipe: read, checked against the task, divided, limited and summed up."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePath
from typing import TYPE_CHECKING, Any

from peftcli.data.complaints import SHOWN_LINES, listed, raise_all
from peftcli.data.permutation import permutation
from peftcli.data.rows import RowStream, read_rows
from peftcli.data.streaming import first_rows
from peftcli.data.tasks import has_labels, make_task
from peftcli.errors import DataError, Problem, RecipeError

if TYPE_CHECKING:
    from peftcli.data.tables import Row, Table
    from peftcli.data.tasks import Task
    from peftcli.recipe.recipe import DataSection

_DESCRIBED = 1000  # rows of a stream that are read before training begins
_SHARE = re.compile(r"\s*(\d+(?:\.\d+)?)\s*%\s*")


@dataclass(frozen=True, slots=True)
class Splits:
    """The rows of a run.

    Attributes:
        train: Rows that are learned from.
        validation: Rows by which a checkpoint is chosen.
        test: Rows that are measured once, at the end.
        summary: What is reported about them, for JSON: rows, files, labels, duplicates, overlap and empty_cells.
        task: The task, its labels found in all training rows before a share or a limit was taken.
        stream: All training rows where they are streamed; ``train`` holds the first ones of them then.
    """

    train: Table
    validation: Table | None
    test: Table | None
    summary: dict[str, Any]
    task: Task
    stream: RowStream | None = None


def load_data(section: DataSection, seed: int) -> Splits:
    """Return the splits that ``section`` describes; what is drawn is drawn with ``seed``.

    Raises:
        RecipeError: ``data.columns`` or ``data.labels`` does not fit the task.
        DataError: Files cannot be read, rows do not fit the task, or splits overlap although that is forbidden.
    """
    share = _share(section.validation)
    stream, tables = _read(section, share)
    task = make_task(section, tables["train"])
    raise_all([problem for table in tables.values() for problem in task.problems(table)])
    if share is not None:
        tables["train"], tables["validation"] = _divide(tables["train"], task, share, seed)
    for split, limit in (("train", section.limit), ("validation", section.limit_validation)):
        if split in tables and limit is not None:
            drawn = permutation(len(tables[split]), f"{seed}:limit {split}")[:limit]
            tables[split] = tables[split].taken(sorted(drawn))
    if section.shots is not None:
        tables["train"] = _drawn_of_each(tables["train"], task, section.shots, seed)
    keys = {split: [task.key(row) for row in table.rows] for split, table in tables.items()}
    if section.forbid_overlap:
        raise_all(_overlaps(tables, keys))
    summary = _summary(tables, keys, task)
    if stream:
        summary["rows"]["train"] = None
        summary["streamed"] = {"train": f"its figures are those of the first {len(tables['train']):,} rows"}
    return Splits(tables["train"], tables.get("validation"), tables.get("test"), summary, task, stream)


def _read(section: DataSection, share: float | None) -> tuple[RowStream | None, dict[str, Table]]:
    if section.streaming and section.labels is None and has_labels(section.task):
        what = "data.streaming needs data.labels: not all rows are read before training begins"
        raise RecipeError(what, hint="List all labels, in the order of their numbers.")
    stream: RowStream | None = None
    sources = {"train": section.train, "validation": None if share else section.validation, "test": section.test}
    tables: dict[str, Table] = {}
    problems: list[Problem] = []
    for split, source in sources.items():
        if source is None:
            continue
        try:
            if split == "train" and section.streaming:
                stream = RowStream(source, split, section.revision)
                tables[split] = first_rows(stream, _DESCRIBED)
            else:
                tables[split] = read_rows(source, split, section.revision)
        except DataError as error:
            problems.extend(error.problems)
    raise_all(problems)
    return stream, tables


def _share(validation: str | Sequence[str] | None) -> float | None:
    """Return the share of the training rows that ``10%`` asks for, None for files."""
    found = _SHARE.fullmatch(validation) if isinstance(validation, str) else None
    if found is None:
        return None
    share = float(found[1]) / 100
    if not 0 < share < 1:
        raise DataError(f"data.validation is {validation}", hint="Write a share between 0% and 100%.")
    return share


def _divide(table: Table, task: Task, share: float, seed: int) -> tuple[Table, Table]:
    """Return what is left of ``table``, and its share: as much of each label, repeated rows on one side."""
    strata: dict[str, dict[str, list[int]]] = {}
    repeated: dict[str, str] = {}
    for index, row in enumerate(table.rows):
        key = task.key(row)
        stratum = repeated.setdefault(key, task.stratum(row))
        strata.setdefault(stratum, {}).setdefault(key, []).append(index)
    taken: set[int] = set()
    wanted = 0.0
    for stratum, repeats in sorted(strata.items()):
        groups = list(repeats.values())
        wanted += share * sum(map(len, groups))
        # The last group of a label stays, so that training knows every label.
        for number in permutation(len(groups), f"{seed}:share {stratum}")[1:]:
            if len(taken) + len(groups[number]) / 2 <= wanted:
                taken.update(groups[number])
    if not taken:
        what = f"{share:.4g} of {len(table)} rows leaves no row to validate on"
        raise DataError(what, where=table.files[0].path, hint="Ask for a greater share, or name a validation file.")
    rest = [index for index in range(len(table)) if index not in taken]
    return table.taken(rest), table.taken(sorted(taken))


def _drawn_of_each(table: Table, task: Task, shots: int, seed: int) -> Table:
    """Return ``shots`` rows of each class, in the order of the table."""
    classes: dict[str, list[int]] = {label: [] for label in task.manifest().get("labels", ())}
    for index, row in enumerate(table.rows):
        classes.setdefault(task.stratum(row), []).append(index)
    if not all(classes):
        raise RecipeError(f"data.shots means nothing for {task.name}: its rows have no classes", hint="Use data.limit.")
    few = {label: len(members) for label, members in classes.items() if len(members) < shots}
    if few:
        told = listed(f"{label!r} ({count})" for label, count in few.items())
        what = f"data.shots is {shots}, but fewer training rows have the label {told}"
        raise DataError(what, where=table.files[0].path, hint=f"Write data.shots of at most {min(few.values())}.")
    taken = [
        members[place]
        for label, members in classes.items()
        for place in permutation(len(members), f"{seed}:shots {label}")[:shots]
    ]
    return table.taken(sorted(taken))


def _overlaps(tables: Mapping[str, Table], keys: Mapping[str, Sequence[str]]) -> list[Problem]:
    """Return a problem for each split that repeats inputs of the training rows."""
    first: dict[str, Row] = {}
    for row, key in zip(tables["train"].rows, keys["train"], strict=True):
        first.setdefault(key, row)
    problems = []
    for split in tables.keys() - {"train"}:
        pairs = [(row, first[key]) for row, key in zip(tables[split].rows, keys[split], strict=True) if key in first]
        if pairs:
            shown = ", ".join(f"{_short(row)} repeats {_short(other)}" for row, other in pairs[:SHOWN_LINES])
            what = f"{len(pairs)} {split} row{'s' * (len(pairs) != 1)} also in train: {shown}"
            hint = "Remove them, or set data.forbid_overlap=false to have them counted only."
            problems.append(Problem(what=what, where=pairs[0][0].where, hint=hint))
    return sorted(problems, key=str)


def _short(row: Row) -> str:
    return PurePath(row.where).name


def _summary(tables: Mapping[str, Table], keys: Mapping[str, Sequence[str]], task: Task) -> dict[str, Any]:
    train = set(keys["train"])
    return {
        "task": task.manifest(),
        "rows": {split: len(table) for split, table in tables.items()},
        "files": {
            split: [{"path": file.path, "sha256": file.sha256, "rows": file.rows} for file in table.files]
            for split, table in tables.items()
        },
        "labels": {split: dict(sorted(_labels(table, task).items())) for split, table in tables.items()},
        "duplicates": {split: len(keys[split]) - len(set(keys[split])) for split in tables},
        "overlap": {split: sum(key in train for key in keys[split]) for split in tables if split != "train"},
        "empty_cells": {split: dict(_empty_cells(table)) for split, table in tables.items()},
    }


def _labels(table: Table, task: Task) -> Counter[str]:
    return Counter(label for row in table.rows for label in task.labels_in(row))


def _empty_cells(table: Table) -> Counter[str]:
    return Counter(name for row in table.rows for name, value in row.values.items() if value == "")
