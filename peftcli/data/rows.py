"""Files -> rows, with the line of everything that is wrong with them."""

from __future__ import annotations

import gzip
import hashlib
import io
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack
from itertools import chain
from pathlib import Path
from typing import BinaryIO, cast

from peftcli.data.arrow_rows import arrow_rows, parquet_rows
from peftcli.data.complaints import Complaints, listed, raise_all
from peftcli.data.csv_rows import csv_rows, tsv_rows
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
_KINDS = (*_OF_LINES, _WHOLE, *_OF_COLUMNS)
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
            found, digest = _read(file)
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
            with ExitStack() as opened, _explained(file):
                for item in _items(file, opened, left):
                    if isinstance(item, Problem):
                        raise DataError([item])
                    yield item


class _explained:  # noqa: N801 (used as a function; a generator of contextlib would take over StopIteration)
    """Tells what cannot be read of a file that is read as rows are needed."""

    def __init__(self, file: SourceFile) -> None:
        self.file = file

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> None:
        if isinstance(error, OSError | EOFError | zlib.error):
            raise _unreadable(error, self.file) from None
