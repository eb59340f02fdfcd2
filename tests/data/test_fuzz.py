"""Damaged files give either the rows that an independent reader sees, or a DataError: nothing else."""

import csv
import importlib.util
import io
import json
import sys
import tempfile
from collections import Counter
from pathlib import Path
from types import ModuleType

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from peftcli.data.rows import read_rows
from peftcli.errors import DataError

JSONL = "".join(
    json.dumps({"text": f"row {n} é \U0001f389", "label": n % 3, "extra": None}, ensure_ascii=n % 2 == 0) + "\n"
    for n in range(6)
).encode()
CSV = ("text,label\r\n" + "".join(f'"row {n}, ""é""\nnext",{n % 3}\r\nplain {n},None\r\n' for n in range(4))).encode()
NASTY = [b'"', b"\n", b"\r", b",", b"\0", b"\xff", b"{", b"}", b"[", b"\\", b"\\ud800", b"NaN", b"\xef\xbb\xbf", b";"]


@st.composite
def damaged(draw: st.DrawFn, content: bytes) -> bytes:
    data = bytearray(content)
    for _ in range(draw(st.integers(0, 4))):
        at = draw(st.integers(0, len(data)))
        piece = draw(st.one_of(st.sampled_from(NASTY), st.binary(max_size=2)))
        data[at : at + draw(st.integers(0, 3))] = piece
    return bytes(data[: draw(st.one_of(st.just(len(data)), st.integers(0, len(data))))])


def rows_or_refusal(name: str, content: bytes) -> int | None:
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / name
        file.write_bytes(content)
        try:
            return len(read_rows(str(file)))
        except DataError:
            return None


@settings(max_examples=300, deadline=None)
@given(damaged(JSONL))
def test_damaged_json_lines_are_read_whole_or_refused(content: bytes):
    rows = rows_or_refusal("rows.jsonl", content)
    if rows is not None:
        lines = content.decode("utf-8-sig").split("\n")
        parsed = [json.loads(line) for line in lines if line.strip(" \t\r")]
        assert rows == len(parsed)
        assert all(isinstance(item, dict) for item in parsed)


@settings(max_examples=300, deadline=None)
@given(damaged(CSV))
def test_damaged_csv_is_read_whole_or_refused(content: bytes):
    rows = rows_or_refusal("rows.csv", content)
    if rows is not None:
        header, *parsed = [cells for cells in csv.reader(io.StringIO(content.decode("utf-8-sig"), newline="")) if cells]
        assert rows == len(parsed)
        assert {len(cells) for cells in parsed} == {len(header)}


@pytest.fixture(scope="module")
def fuzz_data() -> ModuleType:
    """Return ``scripts/fuzz_data.py``, which damages files of all formats and judges by readers of its own."""
    spec = importlib.util.spec_from_file_location("fuzz_data", Path(__file__).parents[2] / "scripts/fuzz_data.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def test_damaged_files_of_all_formats_are_read_whole_or_refused_at_the_right_line(fuzz_data: ModuleType):
    counts, wrong = fuzz_data.run(200, seed=7)
    assert wrong == []
    taken = Counter(kind for _, kind in counts.elements())
    assert min(taken[fuzz_data.SAME], taken[fuzz_data.RIGHT_LINE], taken[fuzz_data.REFUSED]) > 20


def test_the_judge_notices_a_lost_row_and_a_wrong_line(fuzz_data: ModuleType, tmp_path: Path, monkeypatch):
    monkeypatch.setattr(fuzz_data, "expected", lambda kind, content: fuzz_data.Expected(rows=7))
    assert fuzz_data.verdict("jsonl", JSONL, tmp_path).startswith("WRONG: 6 rows, not 7")
    monkeypatch.setattr(fuzz_data, "expected", lambda kind, content: fuzz_data.Expected(line=3))
    assert fuzz_data.verdict("jsonl", JSONL + b"{", tmp_path).startswith("WRONG: line 3 told as")
