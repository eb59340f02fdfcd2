"""Damage data files at random and compare what peftcli says of each with readers that know nothing of it.

    python scripts/fuzz_data.py --files 2000 --seed 0

Each file is good rows in one of the formats, damaged once or a few times. Of a file that is read, the number of rows
must be that of Python's json or csv module, or pyarrow; of one that is refused, the line that is told first must be
the first wrong one that they find. Everything else, a traceback above all, is a mistake; the script then ends with 1.
"""

from __future__ import annotations

import argparse
import csv
import gzip
import io
import json
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

import pyarrow
from pyarrow import parquet

from peftcli.data.rows import read_rows
from peftcli.errors import DataError

NASTY = (b'"', b"\n", b"\r", b"\r\n", b",", b"\t", b"\0", b"\xff", b"{", b"}", b"[", b"\\", b"\\ud800", b"NaN", b";")
SAME, RIGHT_LINE, REFUSED, STRICTER = (
    "same rows",
    "refused at the right line",
    "refused as a whole",
    "refused: stricter",
)
FORMATS = ("jsonl", "json", "csv", "tsv", "jsonl.gz", "csv.gz", "parquet", "arrow")


@dataclass(frozen=True)
class Expected:
    """What an independent reader says: how many rows, or the first wrong line, if it knows one; and who is to judge."""

    rows: int | None = None
    line: int | None = None


class _RefusedError(ValueError):
    """What json reads and peftcli refuses by its own rule: a repeated key, NaN, a number beyond all measure."""


def good(kind: str, draw: Random) -> bytes:
    """Return a good file of a few rows."""
    rows: list[dict[str, Any]] = [
        {"text": f'row {n}, "é" \U0001f389' + draw.choice(["", "\nnext", "\ttab", " x" * 30]), "label": str(n % 3)}
        for n in range(draw.randrange(1, 12))
    ]
    name = kind.removesuffix(".gz")
    if name == "jsonl":
        content = "".join(json.dumps(row, ensure_ascii=draw.random() < 0.5) + "\n" for row in rows).encode()
    elif name == "json":
        content = json.dumps(rows, indent=draw.choice([None, 1])).encode()
    elif name in ("csv", "tsv"):
        text = io.StringIO(newline="")
        writer = csv.DictWriter(text, ["text", "label"], delimiter="," if name == "csv" else "\t")
        writer.writeheader()
        writer.writerows(rows)
        content = text.getvalue().encode()
    else:
        content = _columns(name, pyarrow.Table.from_pylist(rows), draw)
    return gzip.compress(content, mtime=0) if kind.endswith(".gz") else content


def _columns(name: str, table: pyarrow.Table, draw: Random) -> bytes:
    out = io.BytesIO()
    if name == "parquet":
        parquet.write_table(table, out)
    else:
        with draw.choice([pyarrow.ipc.new_stream, pyarrow.ipc.new_file])(out, table.schema) as writer:
            writer.write_table(table)
    return out.getvalue()


def _insert(data: bytes, piece: bytes, draw: Random, most: int = 3) -> bytes:
    at = draw.randrange(len(data) + 1)
    return data[:at] + piece + data[at + draw.randrange(most + 1) :]


def _lines(change: Callable[[list[bytes], Random], None]) -> Callable[[bytes, Random], bytes]:
    def damage(data: bytes, draw: Random) -> bytes:
        lines = data.split(b"\n")
        change(lines, draw)
        return b"\n".join(lines)

    return damage


def _cut_line(lines: list[bytes], draw: Random) -> None:
    at = draw.randrange(len(lines))
    lines[at] = lines[at][: draw.randrange(len(lines[at]) + 1)]


def _repeat_key(lines: list[bytes], draw: Random) -> None:
    at = draw.randrange(len(lines))
    lines[at] = lines[at].replace(b'{"', b'{"text": 1, "', 1)


def _nest(lines: list[bytes], draw: Random) -> None:
    at = draw.randrange(len(lines))
    value = draw.choice([b"[" * 200_000, b'{"a": [1, {"b": null}]}', b"[" * 50 + b"]" * 50, b"1e999", b"9" * 6000])
    lines[at] = lines[at].replace(b'"label": ', b'"x": ' + value + b', "label": ', 1)


def _flip(data: bytes, draw: Random) -> bytes:
    at = draw.randrange(len(data))
    return data[:at] + bytes([data[at] ^ (1 << draw.randrange(8))]) + data[at + 1 :]


DAMAGE: dict[str, Callable[[bytes, Random], bytes]] = {
    "byte flipped": _flip,
    "nasty bytes": lambda data, draw: _insert(data, draw.choice(NASTY), draw),
    "random bytes": lambda data, draw: _insert(data, draw.randbytes(draw.randrange(1, 4)), draw),
    "file cut": lambda data, draw: data[: draw.randrange(len(data) + 1)],
    "line cut": _lines(_cut_line),
    "quote broken": lambda data, draw: data.replace(b'"', b"", 1) if draw.random() < 0.5 else _insert(data, b'"', draw),
    "key repeated": _lines(_repeat_key),
    "nested or huge value": _lines(_nest),
    "huge field": lambda data, draw: _insert(data, b"a" * 200_000, draw, 0),
    "byte order mark": lambda data, draw: (
        b"\xef\xbb\xbf" + data if draw.random() < 0.7 else _insert(data, b"\xef\xbb\xbf", draw)
    ),
    "other encoding": lambda data, draw: _encoded(data, draw.choice(["utf-16", "utf-16-le", "latin-1", "utf-8-sig"])),
    "line ends": lambda data, draw: data.replace(b"\n", draw.choice([b"\r\n", b"\r", b"\n\n"])),
}


def _encoded(data: bytes, encoding: str) -> bytes:
    return data.decode("utf-8", "replace").encode(encoding, "replace")


def damaged(kind: str, draw: Random) -> tuple[bytes, str]:
    """Return a damaged file and what was done to it last."""
    data, done = good(kind, draw), ""
    binary = kind in ("parquet", "arrow")
    names = ["byte flipped", "random bytes", "file cut", "huge field"] if binary else list(DAMAGE)
    inside = kind.endswith(".gz") and draw.random() < 0.6
    data = gzip.decompress(data) if inside else data
    for _ in range(draw.choice([1, 1, 1, 2, 3])):
        done = draw.choice(names)
        data = DAMAGE[done](data, draw) if data else data
    return (gzip.compress(data, mtime=0) if inside else data), done


def expected(kind: str, content: bytes) -> Expected:
    """Return what a reader without a line in common with peftcli makes of a file."""
    try:
        data = gzip.decompress(content) if kind.endswith(".gz") else content
        name = kind.removesuffix(".gz")
        if name in ("parquet", "arrow"):
            return Expected(rows=_column_rows(name, data))
        if data.startswith((b"\xff\xfe", b"\xfe\xff")):
            return Expected(line=1)
        if (line := _encoding_line(data)) is not None:
            return Expected(line=line)
        text = data.decode("utf-8-sig")
        read = {"jsonl": _jsonl, "json": _json, "csv": _csv, "tsv": _csv}[name]
        return read(text, "\t" if name == "tsv" else ",")
    except Exception:  # noqa: BLE001 (whatever it is, the independent reader gives nothing)
        return Expected()


def _encoding_line(data: bytes) -> int | None:
    """Return the first line that is not UTF-8, or has a NUL."""
    for number, line in enumerate(data.split(b"\n"), start=1):
        try:
            if "\0" in line.decode():
                return number
        except UnicodeDecodeError:
            return number
    return None


def _column_rows(name: str, data: bytes) -> int:
    if name == "parquet":
        table = parquet.read_table(io.BytesIO(data))
    else:
        opened = pyarrow.ipc.open_file if data.startswith(b"ARROW1") else pyarrow.ipc.open_stream
        table = opened(io.BytesIO(data)).read_all()
    table.validate(full=True)
    return len(table.to_pylist()) or _nothing()


def _nothing() -> int:
    raise ValueError("no rows")


def _strict(text: str) -> Any:  # noqa: ANN401
    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        if len({key for key, _ in pairs}) < len(pairs):
            raise _RefusedError
        return dict(pairs)

    def number(digits: str) -> float:
        if len(digits) > 40 or abs(float(digits)) == float("inf"):
            raise _RefusedError
        return float(digits)

    def constant(_: str) -> None:
        raise _RefusedError

    value = json.loads(text, object_pairs_hook=unique, parse_int=number, parse_constant=constant, parse_float=number)
    json.dumps(value, ensure_ascii=False).encode()  # half a character cannot be written
    return value


def _jsonl(text: str, _: str) -> Expected:
    rows = 0
    for number, line in enumerate(text.split("\n"), start=1):
        if line.strip(" \t\r"):
            try:
                if not isinstance(_strict(line), dict):
                    return Expected(line=number)
            except (ValueError, RecursionError):
                return Expected(line=number)
            rows += 1
    return Expected(rows=rows or None)


def _json(text: str, _: str) -> Expected:
    try:
        items = _strict(text)
    except json.JSONDecodeError as error:
        return Expected(line=error.lineno)
    good_rows = isinstance(items, list) and items and all(isinstance(item, dict) for item in items)
    return Expected(rows=len(items)) if good_rows else Expected()


def _csv(text: str, delimiter: str) -> Expected:
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    header: list[str] | None = None
    wrong, rows = None, 0
    for start, cells in _records(reader):
        if cells is None:
            return Expected(line=start if wrong is None else None)
        if header is None:
            header = cells
            if len(set(header)) < len(header) or not all(cell.strip() for cell in header):
                return Expected(line=start)
            if len(header) == 1 and any(mark in header[0] for mark in ",;\t" if mark != delimiter):
                return Expected(line=start)
        elif len(cells) != len(header):
            wrong = start if wrong is None else wrong
        else:
            rows += 1
    return Expected(line=wrong) if wrong is not None else Expected(rows=rows or None)


def _records(reader: Any) -> Iterator[tuple[int, list[str] | None]]:  # noqa: ANN401
    """Yield the records with their first lines; None for one that cannot be read."""
    while True:
        start = reader.line_num + 1
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error:
            yield start, None
            return
        if cells:
            yield start, cells


def verdict(kind: str, content: bytes, folder: Path) -> str:
    """Return how peftcli took a file, or what is wrong with how it took it."""
    file = folder / f"rows.{kind}"
    file.write_bytes(content)
    known = expected(kind, content)
    try:
        rows = len(read_rows(str(file)))
    except DataError as error:
        return _refusal(known, error.problems[0].where or "", str(file))
    except Exception as error:  # noqa: BLE001 (to find those is what the script is for)
        return f"WRONG: {type(error).__name__}: {error}"
    return SAME if known.rows == rows else f"WRONG: {rows} rows, not {known.rows} (line {known.line})"


def _refusal(known: Expected, where: str, name: str) -> str:
    place = where.removeprefix(name).lstrip(":").split(":")[0]
    if known.line is not None:
        return RIGHT_LINE if place == str(known.line) else f"WRONG: line {known.line} told as {where}"
    return REFUSED if known.rows is None else STRICTER


def run(files: int, seed: int) -> tuple[Counter[tuple[str, str]], list[str]]:
    """Return how many files of each format were taken how, and what was wrong."""
    counts: Counter[tuple[str, str]] = Counter()
    wrong: list[str] = []
    with tempfile.TemporaryDirectory() as folder:
        for number in range(files):
            draw = Random(f"{seed}:{number}")
            kind = FORMATS[number % len(FORMATS)]
            content, done = damaged(kind, draw)
            found = verdict(kind, content, Path(folder))
            counts[kind, found.partition(":")[0] if found.startswith("WRONG") else found] += 1
            if found.startswith("WRONG"):
                wrong.append(f"file {number} ({kind}, {done}): {found}")
    return counts, wrong


def main() -> int:
    """Run, print the table, and return 1 if something was wrong."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--files", type=int, default=2000)
    options.add_argument("--seed", type=int, default=0)
    asked = options.parse_args()
    counts, wrong = run(asked.files, asked.seed)
    columns = (SAME, RIGHT_LINE, REFUSED, STRICTER, "WRONG")
    print("| format | " + " | ".join(columns) + " |\n|---|" + "---:|" * len(columns))
    for kind in (*FORMATS, "all"):
        cells = [sum(n for (k, c), n in counts.items() if c == column and kind in (k, "all")) for column in columns]
        print(f"| {kind} | " + " | ".join(map(str, cells)) + " |")
    print("\n".join(wrong))
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
