"""Which column of a file is meant, and whether its values are what a task needs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from peftcli.data.complaints import SHOWN_PROBLEMS, did_you_mean, lines, listed, raise_all
from peftcli.errors import Problem, RecipeError

if TYPE_CHECKING:
    from peftcli.data.tables import Row, Table

_KINDS = {
    str: "text",
    bool: "true or false",
    int: "a whole number",
    float: "a number with a fraction",
    list: "a list",
    dict: "an object",
    type(None): "null",
}


def kind(value: object) -> str:
    """Return what a value is, in the words of a data file."""
    return _KINDS.get(type(value), type(value).__name__)


def check_roles(named: Mapping[str, str], roles: Sequence[str]) -> None:
    """Check the keys of ``data.columns``.

    Raises:
        RecipeError: Some are not columns of the task.
    """
    problems = [
        Problem(
            what=f"data.columns has no key {role!r}",
            hint=f"{did_you_mean(role, roles)}The task's columns are {listed(roles)}.",
        )
        for role in named
        if role not in roles
    ]
    if problems:
        raise RecipeError(problems)


def absent(table: Table, names: Mapping[str, str]) -> list[Problem]:
    """Return a problem for each column of ``names`` that no row of ``table`` has."""
    present = table.columns()
    return [
        Problem(
            what=f"no column is called {name!r}",
            where=table.files[0].path,
            hint=f"{did_you_mean(name, present)}The columns are {listed(present)}; data.columns says which is {role}.",
        )
        for role, name in names.items()
        if name not in present
    ]


def require(table: Table, names: Mapping[str, str]) -> None:
    """Check that every column of ``names`` exists.

    Raises:
        DataError: Some do not.
    """
    raise_all(absent(table, names))


def text_problems(table: Table, name: str, *, blank: bool = False) -> list[Problem]:
    """Return what keeps column ``name`` from being text in every row, or blank where that is allowed."""
    missing: list[Row] = []
    others: list[Row] = []
    for row in table.rows:
        value = row.values.get(name)
        if isinstance(value, str):
            if not blank and not value.strip():
                missing.append(row)
        elif value is None:
            missing.append(row)
        else:
            others.append(row)
    problems = []
    if missing:
        what = f"column {name!r} has no text in {lines([row.where for row in missing])}"
        problems.append(Problem(what=what, where=missing[0].where))
    if others:
        problems.append(_not_text(table, name, others))
    return problems


def _not_text(table: Table, name: str, others: Sequence[Row]) -> Problem:
    first = others[0]
    found = kind(first.values[name])
    if mixed := mixture(table, name):
        return mixed
    return Problem(
        what=f"column {name!r} is {found}, not text, in {lines([r.where for r in others])}", where=first.where
    )


def row_problems(column: str, wrong: Mapping[str, Sequence[Row]], hint: str | None = None) -> list[Problem]:
    """Return a problem for each of the first things that are wrong with values of ``column``, with the rows of each."""
    problems = [
        Problem(what=f"column {column!r} {what} in {lines([r.where for r in rows])}", where=rows[0].where, hint=hint)
        for what, rows in list(wrong.items())[:SHOWN_PROBLEMS]
    ]
    if len(wrong) > SHOWN_PROBLEMS:
        rest = sum(map(len, wrong.values()))
        what = f"{rest} rows of column {column!r} are wrong in all, of which the first kinds are shown"
        problems.append(Problem(what=what))
    return problems


def mixture(table: Table, name: str) -> Problem | None:
    """Return the problem of a column whose values are of two kinds, with a line of each; nulls do not count."""
    first: Row | None = None
    for row in table.rows:
        value = row.values.get(name)
        if value is None:
            continue
        if first is None:
            first = row
        elif type(value) is not type(first.values[name]):
            what = f"column {name!r} is {kind(first.values[name])} in {first.where} but {kind(value)} in {row.where}"
            return Problem(what=what, where=row.where, hint="Write all values of a column alike.")
    return None
