"""CSV and TSV, read strictly: cells stay text, and a row has as many of them as the header."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Iterator

from peftcli.data.tables import Row
from peftcli.errors import DataError, Problem

_DELIMITERS = {",": "a comma", "\t": "a tab", ";": "a semicolon"}


def csv_rows(lines: Iterable[str], name: str, skip: Iterator[int]) -> Iterator[Row | Problem]:
    """Yield one row per record of a file with commas, or what is wrong with it; the first record names the columns.

    Args:
        lines: The file's, each with the newline it ends in.
        name: The file's.
        skip: As many rows as it has items left are passed over.

    Raises:
        DataError: The header cannot be used, or quotes are broken, so that no later record can be told.
    """
    return _rows(lines, name, skip, ",")


def tsv_rows(lines: Iterable[str], name: str, skip: Iterator[int]) -> Iterator[Row | Problem]:
    """Yield the same of a file with tabs; quotes mean what they mean in CSV."""
    return _rows(lines, name, skip, "\t")


def _rows(lines: Iterable[str], name: str, skip: Iterator[int], delimiter: str) -> Iterator[Row | Problem]:
    records = _records(lines, name, delimiter)
    start, header = next(records, (1, []))
    if header:
        _check_header(header, f"{name}:{start}", delimiter)
    for line, cells in records:
        if next(skip, None) is not None:
            continue
        if len(cells) == len(header):
            yield Row(dict(zip(header, cells, strict=True)), f"{name}:{line}")
        else:
            what = f"{len(cells)} cell{'s' * (len(cells) != 1)}, but the header has {len(header)}"
            hint = f"Put quotes around a cell that holds {_DELIMITERS[delimiter]}."
            yield Problem(what=what, where=f"{name}:{line}", hint=hint)


def _records(lines: Iterable[str], name: str, delimiter: str) -> Iterator[tuple[int, list[str]]]:
    """Yield each record with its first line; blank lines are skipped."""
    # A carriage return alone ends a line too, outside quotes.
    ended = (piece for line in lines for piece in io.StringIO(line, newline=""))
    reader = csv.reader(ended, delimiter=delimiter, strict=True)
    while True:
        start = reader.line_num + 1
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            what, hint = _explain(str(error))
            raise DataError(what, where=f"{name}:{start}", hint=hint) from None
        if cells:
            yield start, cells


def _explain(error: str) -> tuple[str, str]:
    if error == "unexpected end of data":
        return "a quote is opened in this row and never closed", 'Write a quote inside a quoted cell twice: "".'
    if error.startswith("field larger"):
        return f"a cell is longer than {csv.field_size_limit()} characters", "A quote may be open: close it."
    return f"broken quotes ({error})", 'Write a quote inside a quoted cell twice: "".'


def _check_header(header: list[str], where: str, delimiter: str) -> None:
    others = [sign for sign in _DELIMITERS if sign != delimiter and len(header) == 1 and sign in header[0]]
    if others:
        what = f"the header is one column, {header[0][:60]!r}"
        name = {",": "Name the file .csv.", "\t": "Name the file .tsv.", ";": "Write commas for semicolons."}[others[0]]
        raise DataError(what, where=where, hint=f"The delimiter seems to be {_DELIMITERS[others[0]]}. {name}")
    for column in header:
        if not column.strip():
            raise DataError("a column has no name in the header", where=where)
        if header.count(column) > 1:
            raise DataError(f"column {column!r} stands twice in the header", where=where)
