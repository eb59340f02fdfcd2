"""Parquet files, read by pyarrow."""

from __future__ import annotations

from peftcli.data.tables import Row
from peftcli.errors import DataError


def read_parquet(content: bytes, name: str) -> list[Row]:
    """Return one row per row of the file.

    Raises:
        DataError: The file is damaged or no parquet file.
    """
    import pyarrow
    from pyarrow import parquet

    try:
        table = parquet.read_table(pyarrow.BufferReader(content))
        values = table.to_pylist()
    except (pyarrow.ArrowException, OSError, ValueError) as error:
        reason = (str(error).splitlines() or [""])[0].rstrip(".")
        raise DataError(f"not a readable parquet file: {reason}", where=name) from None
    if len(set(table.column_names)) != table.num_columns:
        raise DataError("two columns have the same name", where=name)
    return [Row(row, f"{name}:row {number}") for number, row in enumerate(values, start=1)]
