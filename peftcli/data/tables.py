"""Rows as they stood in their files, each knowing its line."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Row:
    """One row: the values of its columns, and ``file:line`` (``file:row N`` where a format has no lines)."""

    values: dict[str, Any]
    where: str


@dataclass(frozen=True, slots=True)
class DataFile:
    """A file that was read: its path, the sha256 of its bytes as stored, and how many rows it gave.

    Of a file that is streamed, the sha256 is that of its size, time of change and both ends, and no rows are counted.
    """

    path: str
    sha256: str
    rows: int | None


@dataclass(frozen=True, slots=True)
class Table:
    """Rows of one split in the order of their files."""

    rows: list[Row]
    files: list[DataFile]

    def __len__(self) -> int:
        return len(self.rows)

    def columns(self) -> list[str]:
        """Return the names of all columns, in order of first appearance."""
        names: dict[str, None] = {}
        for row in self.rows:
            names.update(dict.fromkeys(row.values))
        return list(names)

    def taken(self, indices: list[int]) -> Table:
        """Return the table of the rows at ``indices``."""
        return Table(rows=[self.rows[index] for index in indices], files=self.files)
