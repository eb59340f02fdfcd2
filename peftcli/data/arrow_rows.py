"""Parquet and Arrow files, read by pyarrow a batch at a time."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from itertools import islice
from typing import Any, BinaryIO

from peftcli.data.tables import Row
from peftcli.errors import DataError

_BATCH = 1024  # rows
_FILE_MAGIC = b"ARROW1"


def parquet_rows(file: BinaryIO, name: str, skip: Iterator[int]) -> Iterator[Row]:
    """Yield one row per row of a parquet file.

    Raises:
        DataError: The file is damaged or no parquet file.
    """
    from pyarrow import parquet

    def batches() -> Iterator[Any]:
        opened = parquet.ParquetFile(file, pre_buffer=False)
        yield opened.schema_arrow
        yield from opened.iter_batches(_BATCH)

    return _rows(batches, "parquet", name, skip)


def arrow_rows(file: BinaryIO, name: str, skip: Iterator[int]) -> Iterator[Row]:
    """Yield one row per row of an Arrow file, of the kind with a footer or of the kind without (a stream).

    Raises:
        DataError: The file is damaged or no Arrow file.
    """
    from pyarrow import ipc

    def batches() -> Iterator[Any]:
        with_footer = file.read(len(_FILE_MAGIC)) == _FILE_MAGIC
        file.seek(0)
        if with_footer:
            opened = ipc.open_file(file)
            yield opened.schema
            yield from (opened.get_batch(number) for number in range(opened.num_record_batches))
        else:
            opened = ipc.open_stream(file)
            yield opened.schema
            yield from opened

    return _rows(batches, "Arrow", name, skip)


def _rows(batches: Callable[[], Iterator[Any]], kind: str, name: str, skip: Iterator[int]) -> Iterator[Row]:
    import pyarrow

    number = 0
    try:
        found = batches()
        schema = next(found)
        if len(set(schema.names)) != len(schema.names):
            raise DataError("two columns have the same name", where=name)
        labels = _labels(schema)
        for batch in found:
            # What is damaged but not noticed yet may otherwise be read beyond the end of its buffer.
            batch.validate(full=True)
            passed = sum(1 for _ in islice(skip, batch.num_rows))
            number += passed
            for values in batch.slice(passed).to_pylist():
                number += 1
                named = {column: _named(values[column], names) for column, names in labels.items()}
                yield Row(values | named, f"{name}:row {number}")
    except (pyarrow.ArrowException, OSError, ValueError, OverflowError) as error:
        reason = (str(error).splitlines() or [""])[0].rstrip(".")
        raise DataError(f"not a readable {kind} file: {reason}", where=name) from None


def _labels(schema: Any) -> dict[str, list[str]]:  # noqa: ANN401  # pyarrow is not imported for a type
    """Return the names that the datasets library noted for columns of numbered labels, or lists of them."""
    try:
        features = json.loads((schema.metadata or {})[b"huggingface"])["info"]["features"]
        found = {column: feature.get("feature", feature) for column, feature in features.items()}
        named = {column: feature["names"] for column, feature in found.items() if feature.get("_type") == "ClassLabel"}
    except (KeyError, TypeError, ValueError, AttributeError):
        return {}
    return {column: names for column, names in named.items() if column in schema.names and isinstance(names, list)}


def _named(value: Any, names: list[str]) -> Any:  # noqa: ANN401  # whatever the column holds
    if isinstance(value, list):
        return [_named(item, names) for item in value]
    known = isinstance(value, int) and 0 <= value < len(names) and isinstance(names[value], str)
    return names[value] if known else value
