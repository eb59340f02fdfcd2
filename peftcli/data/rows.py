"""Files -> rows, with the line of everything that is wrong with them."""

from __future__ import annotations

import gzip
import hashlib
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path

from peftcli.data.complaints import listed, raise_all
from peftcli.data.csv_rows import read_csv, read_tsv
from peftcli.data.json_rows import read_json, read_jsonl
from peftcli.data.parquet_rows import read_parquet
from peftcli.data.sources import find_files
from peftcli.data.tables import DataFile, Row, Table
from peftcli.data.text import decode
from peftcli.errors import DataError, Problem

__all__ = ["DataFile", "Row", "Table", "read_rows"]


def _text(read: Callable[[str, str], list[Row]]) -> Callable[[bytes, str], list[Row]]:
    return lambda content, name: read(decode(content, name), name)


_READERS: dict[str, Callable[[bytes, str], list[Row]]] = {
    ".jsonl": _text(read_jsonl),
    ".json": _text(read_json),
    ".csv": _text(read_csv),
    ".tsv": _text(read_tsv),
    ".parquet": read_parquet,
}


def read_rows(sources: str | Sequence[str]) -> Table:
    """Return the rows of all files that ``sources`` names.

    Args:
        sources: A path, a glob, ``demo:NAME`` or a list of them; each file also gzipped (``.gz``).

    Raises:
        DataError: A file cannot be found or read, or has no rows; every file's problems at once.
    """
    rows: list[Row] = []
    files: list[DataFile] = []
    problems: list[Problem] = []
    for path in find_files(sources):
        try:
            found, digest = _read(path)
        except DataError as error:
            problems.extend(error.problems)
            continue
        rows.extend(found)
        files.append(DataFile(str(path), digest, len(found)))
    raise_all(problems)
    return Table(rows, files)


def _read(path: Path) -> tuple[list[Row], str]:
    name = _shown(path)
    reader = _READERS.get(_kind(path))
    if reader is None:
        hint = f"Known are {listed(_READERS)}, each also with .gz."
        raise DataError(f"no reader for files called {path.suffix or path.name!r}", where=name, hint=hint)
    try:
        stored = path.read_bytes()
    except OSError as error:
        raise DataError(f"the file cannot be read: {error.strerror}", where=str(path.absolute())) from None
    if not stored:
        raise DataError("the file is empty", where=str(path.absolute()))
    rows = reader(_unzipped(stored, name) if path.suffix.lower() == ".gz" else stored, name)
    if not rows:
        raise DataError("the file has no rows", where=str(path.absolute()))
    return rows, hashlib.sha256(stored).hexdigest()


def _kind(path: Path) -> str:
    inner = path.with_suffix("") if path.suffix.lower() == ".gz" else path
    return inner.suffix.lower()


def _unzipped(stored: bytes, name: str) -> bytes:
    try:
        return gzip.decompress(stored)
    except (EOFError, OSError, zlib.error) as error:
        hint = "Was the file cut short?" if isinstance(error, EOFError) else None
        raise DataError(f"broken gzip file: {str(error)[:1].lower()}{str(error)[1:]}", where=name, hint=hint) from None


def _shown(path: Path) -> str:
    """Return the path as short as it can be said: from the working directory, where it lies inside."""
    absolute = path.absolute()
    return str(absolute.relative_to(Path.cwd())) if absolute.is_relative_to(Path.cwd()) else str(absolute)
