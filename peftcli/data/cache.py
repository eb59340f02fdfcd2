"""Tokenised rows, kept between runs under a name that everything they depend on decides."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from peftcli import files
from peftcli.data.examples import Example, Examples
from peftcli.errors import ArtifactError, PeftcliError

if TYPE_CHECKING:
    from peftcli.data.tables import Table
    from peftcli.data.tasks import Task

FEWEST_ROWS = 50_000
"""Of fewer rows, tokenising takes a few seconds, and keeping the outcome is not worth its place on the disk."""
_IDS, _ABOUT = "ids.safetensors", "about.json"
_OWN = ("ids", "where")  # fields of an example that are not columns of JSON
_LARGEST_JSON = 2**31  # bytes


class _NotKeptError(ValueError):
    """Examples of a kind that the cache has no form for."""


def cache_folder() -> Path:
    """Return where tokenised rows are kept: ``$PEFTCLI_CACHE``, or ``peftcli`` in the user's cache folder."""
    if own := os.environ.get("PEFTCLI_CACHE"):
        return Path(own)
    shared = os.environ.get("XDG_CACHE_HOME")
    return (Path(shared) if shared else Path("~/.cache").expanduser()) / "peftcli"


def kept_or_made(key: str, table: Table, make: Callable[[], Examples], note: Callable[[str], None]) -> Examples:
    """Return the examples that are kept under ``key``, or those that ``make`` gives, which are kept from then on.

    Args:
        key: Of encoding_key.
        table: The rows whose examples they are.
        make: Tokenises them.
        note: Told where something in the cache is damaged, or nothing can be kept there.
    """
    folder = cache_folder() / "examples" / key
    damaged = False
    if folder.exists():
        try:
            return _kept(folder, table)
        except (ArtifactError, OSError, ValueError, KeyError, TypeError, IndexError):
            damaged = True
            note(f"the cache of tokenised rows is damaged and made anew ({folder})")
    examples = make()
    try:
        _keep(folder, examples, table, overwrite=damaged)
    except _NotKeptError:
        pass
    except (PeftcliError, OSError) as error:
        if not folder.exists():  # or another run has kept the same meanwhile
            note(f"tokenised rows are not kept: {error}")
    return examples


def encoding_key(task: Task, table: Table, reader: Any, limits: tuple[int, int | None]) -> str | None:  # noqa: ANN401
    """Return a digest of all that the examples of ``table`` depend on, or None where rows have no JSON form.

    It is made of the rows themselves, the task, the tokenizer, the ``limits`` (longest input, vocabulary), this
    package's code for data and the versions of what tokenises.
    """
    import tokenizers
    import transformers

    digest = hashlib.sha256()
    versions = [tokenizers.__version__, transformers.__version__]
    about = [type(task).__qualname__, task.manifest(), list(limits), versions, _code(), _identity(reader)]
    try:
        digest.update(json.dumps(about).encode())
        for row in table.rows:
            digest.update(json.dumps(row.values).encode())
    except (TypeError, ValueError):
        return None
    return digest.hexdigest()


def _code() -> str:
    digest = hashlib.sha256()
    for path in sorted(Path(__file__).parent.rglob("*.py")):
        digest.update(path.read_bytes())
    return digest.hexdigest()


def _identity(reader: Any) -> list[str]:  # noqa: ANN401  # a fast tokenizer
    settings = {name: str(value) for name, value in reader.init_kwargs.items()}
    template = str(getattr(reader, "chat_template", None))
    state = [str(reader.special_tokens_map), template, reader.padding_side, reader.truncation_side]
    backend = json.loads(reader.backend_tokenizer.to_str())
    backend |= {"truncation": None, "padding": None}  # what the last call left there, and every call sets anew
    return [json.dumps(backend, sort_keys=True), json.dumps(settings, sort_keys=True), *state]


def _keep(folder: Path, examples: Examples, table: Table, *, overwrite: bool) -> None:
    from safetensors.numpy import save

    tensors, about = _packed(examples, table)

    def write(new: Path) -> None:
        files.write_bytes(new / _IDS, save(tensors))
        files.write_json(new / _ABOUT, about)

    files.commit_folder(folder, write, overwrite=overwrite)


def _packed(examples: Examples, table: Table) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return ids as flat tensors with their lengths, and every other field that says something as a column."""
    import numpy as np

    items = examples.items
    names = list(items[0].ids)
    if any(list(e.ids) != names or e.where != table.rows[e.row].where for e in items):
        raise _NotKeptError("examples that hold different things, or stand elsewhere than their rows")
    tensors: dict[str, Any] = {}
    for name in names:
        tensors[f"{name}.lengths"] = np.fromiter((len(e.ids[name]) for e in items), dtype=np.int64, count=len(items))
        flat = np.fromiter((number for e in items for number in e.ids[name]), dtype=np.int64)
        tensors[name] = flat.astype(np.int32)
        if not np.array_equal(tensors[name], flat):
            raise _NotKeptError("ids of more than 32 bits")
    columns: dict[str, list[Any]] = {}
    tuples = []
    for field in fields(Example):
        if field.name in _OWN or all(getattr(e, field.name) == field.default for e in items):
            continue
        columns[field.name] = [getattr(e, field.name) for e in items]
        if all(isinstance(value, tuple) for value in columns[field.name]):
            columns[field.name] = [list(value) for value in columns[field.name]]
            tuples.append(field.name)
    about = {"names": names, "columns": columns, "tuples": tuples, "counts": examples.counts}
    try:
        same = json.loads(json.dumps(about)) == about
    except (TypeError, ValueError):
        same = False
    if not same:
        raise _NotKeptError("fields that JSON does not give back as they were")
    return tensors, about


def _kept(folder: Path, table: Table) -> Examples:
    from safetensors.numpy import load_file

    files.check_folder(folder)
    tensors = load_file(folder / _IDS)
    about = json.loads(files.read_bytes(folder / _ABOUT, _LARGEST_JSON))
    count = len(about["columns"]["row"])
    ids: list[dict[str, list[int]]] = [{} for _ in range(count)]
    for name in about["names"]:
        flat, start = tensors[name].tolist(), 0
        for place, length in zip(ids, tensors[f"{name}.lengths"].tolist(), strict=True):
            place[name] = flat[start : start + length]
            start += length
    columns: dict[str, list[Any]] = about["columns"]
    columns |= {name: list(map(tuple, columns[name])) for name in about["tuples"] if name in columns}
    names = list(columns)
    items = [
        Example(ids=place, where=table.rows[values[names.index("row")]].where, **dict(zip(names, values, strict=True)))
        for place, values in zip(ids, zip(*columns.values(), strict=True), strict=True)
    ]
    return Examples(items, about["counts"])
