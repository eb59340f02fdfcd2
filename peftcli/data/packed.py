"""Examples as a few flat tensors and columns of JSON, and back the same to the last field."""

from __future__ import annotations

import importlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import fields
from itertools import islice
from typing import TYPE_CHECKING, Any

from peftcli.data.examples import Example

if TYPE_CHECKING:
    import numpy as np

    from peftcli.data.tables import Table

_OWN = ("ids", "where")  # fields that are no columns: tensors, and what the table says
_PARTS = "parts"
_LENGTHS = ".lengths"
_HOME = "peftcli.data."


class UnpackableError(ValueError):
    """Examples that there is no form for."""


def packed(items: Sequence[Example], table: Table, start: str = "") -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Return the ids of examples as flat tensors with their lengths, and all else that they say, for JSON.

    Args:
        items: Of one kind, all with ids of the same names; their parts likewise.
        table: The rows that they were made of.
        start: What the names of their tensors begin with.

    Raises:
        UnpackableError: They would not come back as they are.
    """
    kind, names = type(items[0]), list(items[0].ids)
    if any(type(e) is not kind or list(e.ids) != names or e.where != table.rows[e.row].where for e in items):
        raise UnpackableError("examples that hold different things, or stand elsewhere than their rows")
    tensors: dict[str, np.ndarray] = {}
    for name in names:
        tensors |= _flat(start + name, [e.ids[name] for e in items])
    about: dict[str, Any] = {"kind": f"{kind.__module__}:{kind.__qualname__}", "names": names, "columns": {}}
    tuples: list[str] = []
    pairs: list[str] = []
    for field in fields(kind):
        values = [getattr(e, field.name) for e in items]
        if field.name in _OWN or all(value == field.default for value in values):
            continue
        if field.name == _PARTS:
            inner, about["of"] = packed([part for parts in values for part in parts], table, f"{start}{_PARTS}.")
            tensors |= inner
            values = [len(parts) for parts in values]
        elif all(_is_pairs(value) for value in values):
            pairs.append(field.name)
            tensors |= _flat(start + field.name, [[n for pair in value for n in pair] for value in values])
            continue
        elif all(isinstance(value, tuple) for value in values):
            tuples.append(field.name)
            values = [list(value) for value in values]
        about["columns"][field.name] = values
    about |= {"tuples": tuples, "pairs": pairs}
    _check_json(about)
    return tensors, about


def unpacked(
    tensors: Mapping[str, np.ndarray], about: Mapping[str, Any], table: Table, start: str = ""
) -> list[Example]:
    """Return what :func:`packed` was given.

    Raises:
        ValueError: The tensors and ``about`` do not fit together; as KeyError, TypeError and IndexError do.
    """
    kind = _kind(about["kind"])
    columns: dict[str, list[Any]] = dict(about["columns"])
    for name in about["tuples"]:
        columns[name] = list(map(tuple, columns[name]))
    for name in about["pairs"]:
        columns[name] = [list(zip(v[::2], v[1::2], strict=True)) for v in _cut(tensors, start + name)]
    if "of" in about:
        parts = iter(unpacked(tensors, about["of"], table, f"{start}{_PARTS}."))
        columns[_PARTS] = [tuple(islice(parts, count)) for count in columns[_PARTS]]
    ids = {name: _cut(tensors, start + name) for name in about["names"]}
    return [
        kind(
            ids={name: lists[place] for name, lists in ids.items()},
            where=table.rows[row].where,
            **{name: values[place] for name, values in columns.items()},
        )
        for place, row in enumerate(columns["row"])
    ]


def _flat(name: str, lists: Sequence[Sequence[int]]) -> dict[str, np.ndarray]:
    import numpy as np

    lengths = np.fromiter(map(len, lists), dtype=np.int64, count=len(lists))
    flat = np.fromiter((number for numbers in lists for number in numbers), dtype=np.int64, count=int(lengths.sum()))
    narrow = flat.astype(np.int32)
    if not np.array_equal(narrow, flat):
        raise UnpackableError("ids of more than 32 bits")
    return {name: narrow, name + _LENGTHS: lengths}


def _cut(tensors: Mapping[str, np.ndarray], name: str) -> list[list[int]]:
    numbers = iter(tensors[name].tolist())
    return [list(islice(numbers, length)) for length in tensors[name + _LENGTHS].tolist()]


def _is_pairs(value: object) -> bool:
    return isinstance(value, list) and all(
        type(pair) is tuple and len(pair) == 2 and all(type(n) is int for n in pair) for pair in value
    )


def _check_json(about: Mapping[str, Any]) -> None:
    try:
        same = json.loads(json.dumps(about)) == about
    except (TypeError, ValueError):
        same = False
    if not same:
        raise UnpackableError("fields that JSON does not give back as they were")


def _kind(name: str) -> type[Example]:
    """Return the class of examples that is called ``name``; of this package alone."""
    module, _, own = name.partition(":")
    found = getattr(importlib.import_module(module), own) if module.startswith(_HOME) else None
    if not (isinstance(found, type) and issubclass(found, Example)):
        raise ValueError(name)
    return found
