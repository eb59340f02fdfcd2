"""Files -> rows, with the line of everything that is wrong with them."""

from __future__ import annotations

import gzip
import hashlib
import io
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import BinaryIO, cast

from peftcli.data.arrow_rows import arrow_rows, parquet_rows
from peftcli.data.complaints import Complaints, listed, raise_all
from peftcli.data.csv_rows import csv_rows, tsv_rows
from peftcli.data.image_folders import holds_images, image_rows
from peftcli.data.json_rows import jsonl_rows, read_json
from peftcli.data.sources import SourceFile, find_files
from peftcli.data.tables import DataFile, Row, Table
from peftcli.data.text import decode, decoded_lines
from peftcli.errors import DataError, Problem

__all__ = ["DataFile", "Row", "RowStream", "Table", "read_rows"]

_OF_LINES: dict[str, Callable[[Iterable[str], str, Iterator[int]], Iterator[Row | Problem]]] = {
    ".jsonl": jsonl_rows,
    ".csv": csv_rows,
    ".tsv": tsv_rows,
}
_OF_COLUMNS: dict[str, Callable[[BinaryIO, str, Iterator[int]], Iterator[Row]]] = {
    ".parquet": parquet_rows,
    ".arrow": arrow_rows,
}
_WHOLE = ".json"
_KINDS = (".jsonl", _WHOLE, ".csv", ".tsv", *_OF_COLUMNS)
_END = 2**20  # bytes at either end of a streamed file, by which it is known


def read_rows(sources: str | Sequence[str], split: str = "train", revision: str | None = None) -> Table:
    """Return the rows of all files that ``sources`` names.

    Args:
        sources: What find_files takes; each file also gzipped (``.gz``).
        split: Which split, where a source has several.
        revision: Of the data sets of a hub.

    Raises:
        DataError: A file cannot be found or read, or has no rows; every file's problems at once.
    """
    rows: list[Row] = []
    files: list[DataFile] = []
    problems: list[Problem] = []
    for file in find_files(sources, split, revision):
        try:
            images = holds_images(file.path)
            found, digest = image_rows(file.path, file.name, split) if images else _read(file)
        except DataError as error:
            problems.extend(error.problems)
            continue
        rows.extend(found)
        files.append(DataFile(file.label, digest, len(found)))
    raise_all(problems)
    return Table(rows, files)


class RowStream:
    """Rows that are read as they are needed, in bounded memory.

    Attributes:
        files: The files, known by size, time of change and both ends: none of them is read through for it.
    """

    def __init__(self, sources: str | Sequence[str], split: str = "train", revision: str | None = None) -> None:
        self._sources = find_files(sources, split, revision)
        raise_all([problem for file in self._sources if (problem := _not_streamed(file))])
        self.files = [DataFile(file.label, _ends(file), None) for file in self._sources]

    def rows(self, skip: int = 0) -> Iterator[Row]:
        """Yield the rows of all files in their order, but not the first ``skip`` ones, which are not looked at.

        Raises:
            DataError: At the first row that is wrong.
        """
        left = iter(range(skip))
        for file in self._sources:
            try:
                with _opened(file.path) as opened:
                    for item in _streamed(opened, file, left):
                        if isinstance(item, Problem):
                            raise DataError([item])
                        yield item
            except (OSError, EOFError, zlib.error) as error:
                raise _unreadable(error, file) from None


def _read(file: SourceFile) -> tuple[list[Row], str]:
    if _kind(file.path) not in _KINDS:
        raise DataError([_unknown(file)])
    try:
        stored = file.path.read_bytes()
        content = gzip.decompress(stored) if _is_zipped(file.path) and stored else stored
    except (OSError, EOFError, zlib.error) as error:
        raise _unreadable(error, file) from None
    if not stored:
        raise DataError("the file is empty", where=str(file.path.absolute()))
    rows = _whole(content, file)
    if not rows:
        raise DataError("the file has no rows", where=str(file.path.absolute()))
    return rows, hashlib.sha256(stored).hexdigest()


def _whole(content: bytes, file: SourceFile) -> list[Row]:
    """Return the rows of a file's bytes; of what is wrong with lines, the first ten are told."""
    kind, nothing = _kind(file.path), iter(range(0))
    if kind == _WHOLE:
        return read_json(decode(content, file.name), file.name)
    if kind in _OF_COLUMNS:
        return list(_OF_COLUMNS[kind](io.BytesIO(content), file.name, nothing))
    rows: list[Row] = []
    complaints = Complaints(file.name)
    lines = io.StringIO(decode(content, file.name), newline="\n")
    for item in _OF_LINES[kind](lines, file.name, nothing):
        if isinstance(item, Problem):
            complaints.note(item)
        else:
            rows.append(item)
    complaints.raise_if_any()
    return rows


def _streamed(opened: BinaryIO, file: SourceFile, skip: Iterator[int]) -> Iterator[Row | Problem]:
    kind = _kind(file.path)
    if kind in _OF_COLUMNS:
        return _OF_COLUMNS[kind](opened, file.name, skip)
    return _OF_LINES[kind](decoded_lines(opened, file.name), file.name, skip)


def _opened(path: Path) -> BinaryIO:
    return cast("BinaryIO", gzip.open(path)) if _is_zipped(path) else path.open("rb")


def _not_streamed(file: SourceFile) -> Problem | None:
    """Return what keeps a file from being read a row at a time."""
    if holds_images(file.path):
        hint = "Leave data.streaming out: images stay in their files until a batch needs them."
        return Problem(what="a folder or an archive of images is not streamed", where=file.name, hint=hint)
    kind = _kind(file.path)
    if kind not in _KINDS:
        return _unknown(file)
    if kind == _WHOLE:
        hint = "Write one object a line, in a file called .jsonl."
        return Problem(what="a JSON list is read whole, not streamed", where=file.name, hint=hint)
    if kind in _OF_COLUMNS and _is_zipped(file.path):
        hint = f"Unpack it: {kind} files are compressed inside."
        return Problem(what=f"a gzipped {kind} file is read whole, not streamed", where=file.name, hint=hint)
    return None


def _ends(file: SourceFile) -> str:
    """Return the digest of a file's size, its time of change, its first and its last MiB."""
    try:
        with file.path.open("rb") as opened:
            about = file.path.stat()
            ends = opened.read(_END)
            opened.seek(max(0, about.st_size - _END))
            ends += opened.read(_END)
    except OSError as error:
        raise _unreadable(error, file) from None
    return hashlib.sha256(f"{about.st_size} {about.st_mtime_ns} ".encode() + ends).hexdigest()


def _is_zipped(path: Path) -> bool:
    return path.suffix.lower() == ".gz"


def _kind(path: Path) -> str:
    inner = path.with_suffix("") if _is_zipped(path) else path
    return inner.suffix.lower()


def _unknown(file: SourceFile) -> Problem:
    what = f"no reader for files called {file.path.suffix or file.path.name!r}"
    return Problem(what=what, where=file.name, hint=f"Known are {listed(_KINDS)}, each also with .gz.")


def _unreadable(error: BaseException, file: SourceFile) -> DataError:
    if isinstance(error, OSError) and not isinstance(error, gzip.BadGzipFile):
        reason = error.strerror or str(error)
        return DataError(f"the file cannot be read: {reason}", where=str(file.path.absolute()))
    hint = "Was the file cut short?" if isinstance(error, EOFError) else None
    return DataError(f"broken gzip file: {str(error)[:1].lower()}{str(error)[1:]}", where=file.name, hint=hint)
