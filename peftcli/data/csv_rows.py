"""CSV and TSV, read strictly: cells stay text, and a row has as many of them as the header."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator

from peftcli.data.complaints import Complaints
from peftcli.data.tables import Row
from peftcli.errors import DataError

_DELIMITERS = {",": "a comma", "\t": "a tab", ";": "a semicolon"}


def read_csv(text: str, name: str) -> list[Row]:
    """Return one row per record of a file with commas; the first record names the columns."""
    return _read(text, name, ",")


def read_tsv(text: str, name: str) -> list[Row]:
    """Return one row per record of a file with tabs; quotes mean what they mean in CSV."""
    return _read(text, name, "\t")


def _read(text: str, name: str, delimiter: str) -> list[Row]:
    records = _records(text, name, delimiter)
    start, header = next(records, (1, []))
    if header:
        _check_header(header, f"{name}:{start}", delimiter)
    rows: list[Row] = []
    complaints = Complaints(name)
    for line, cells in records:
        if len(cells) == len(header):
            rows.append(Row(dict(zip(header, cells, strict=True)), f"{name}:{line}"))
        else:
            what = f"{len(cells)} cell{'s' * (len(cells) != 1)}, but the header has {len(header)}"
            complaints.add(what, f"{line}", f"Put quotes around a cell that holds {_DELIMITERS[delimiter]}.")
    complaints.raise_if_any()
    return rows


def _records(text: str, name: str, delimiter: str) -> Iterator[tuple[int, list[str]]]:
    """Yield each record with its first line; blank lines are skipped."""
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
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
