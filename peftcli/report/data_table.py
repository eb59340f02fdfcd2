"""What a run was trained and measured on, in a few lines."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from peftcli.report.tables import NONE, Table, count, percent, plain

SPLITS = ("train", "validation", "test")
TOLD = ("rows", "encoded", "duplicates", "overlap", "lengths")
"""The facts that the table holds; labels are summed up in it."""
_LISTED = 6  # labels that have a line of their own
_LENGTHS = {
    "p50": "tokens: half the rows within",
    "p90": "90 % within",
    "p99": "99 % within",
    "max": "longest",
}

_Column = Callable[[str], str]


def splits_of(data: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the splits that ``data``, the facts of a report, knows of."""
    return tuple(s for s in SPLITS if any(isinstance(v, Mapping) and s in v for v in data.values()))


def data_table(data: Mapping[str, Any]) -> Table:
    """Return rows, what was left out of them, lengths, and the balance of the labels, the splits side by side."""
    splits = splits_of(data)
    lines: dict[str, _Column] = {
        "rows": lambda s: _counted(_rows(data, s)),
        **{name: _found(data, "encoded", name) for name in ("truncated", "dropped")},
        "duplicates": lambda s: _counted(_of(data, "duplicates").get(s)),
        "also in train": lambda s: _counted(_of(data, "overlap").get(s)),
        **{title: _found(data, "lengths", name) for name, title in _LENGTHS.items()},
        "supervised": lambda s: _supervised(_of(_of(data, "encoded"), s)),
        **_labels(data),
    }
    rows = ((title, *map(column, splits)) for title, column in lines.items())
    told = tuple(row for row in rows if set(row[1:]) - {NONE})
    return Table(("data", *splits), "l" + "r" * len(splits), told)


def _of(facts: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    value = facts.get(key)
    return value if isinstance(value, Mapping) else {}


def _found(data: Mapping[str, Any], key: str, name: str) -> _Column:
    return lambda split: _counted(_of(_of(data, key), split).get(name))


def _counted(value: Any) -> str:  # noqa: ANN401  # any JSON
    return count(value) if isinstance(value, int | float) else NONE


def _rows(data: Mapping[str, Any], split: str) -> Any:  # noqa: ANN401
    return _of(data, "rows").get(split)


def _supervised(encoded: Mapping[str, Any]) -> str:
    """Return how many tokens are learned; where whole rows are, that goes without saying."""
    learned, tokens = encoded.get("supervised"), encoded.get("tokens")
    if not learned or not tokens or learned == encoded.get("rows", 0) - encoded.get("dropped", 0):
        return NONE
    return f"{count(learned)} of {count(tokens)} tokens ({percent(learned / tokens)})"


def _labels(data: Mapping[str, Any]) -> dict[str, _Column]:
    labels = _of(data, "labels")
    names = list(dict.fromkeys(name for split in labels.values() if isinstance(split, Mapping) for name in split))
    if len(names) > _LISTED:
        return {"labels": lambda s: _counted(len(_of(labels, s)) or None), "rows per label": lambda s: _span(labels, s)}
    return {f"label {plain(name)}": _share(labels, name) for name in names}


def _span(labels: Mapping[str, Any], split: str) -> str:
    counts = _of(labels, split).values()
    return f"{count(min(counts))} to {count(max(counts))}" if counts else NONE


def _share(labels: Mapping[str, Any], name: str) -> _Column:
    def column(split: str) -> str:
        counts = _of(labels, split)
        whole = sum(counts.values())
        return f"{count(counts.get(name, 0))} ({percent(counts.get(name, 0) / whole)})" if whole else NONE

    return column
