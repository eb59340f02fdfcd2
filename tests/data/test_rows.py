"""What good files give."""

import gzip
import hashlib
import json
from pathlib import Path

import pyarrow
import pytest
from pyarrow import parquet

from peftcli.data.rows import Table, read_rows

ROWS = [{"text": 'a, "b" é 🎉', "label": "x"}, {"text": "two\nlines", "label": "None"}, {"text": "nan", "label": ""}]
CSV = 'text,label\r\n"a, ""b"" é 🎉",x\r\n\r\n"two\nlines",None\r\nnan,\r\n'


def written(folder: Path, name: str, content: str | bytes) -> Path:
    file = folder / name
    data = content.encode() if isinstance(content, str) else content
    file.write_bytes(gzip.compress(data) if name.endswith(".gz") else data)
    return file


def values(table: Table) -> list[dict]:
    return [row.values for row in table.rows]


@pytest.mark.parametrize("ending", ["", ".gz"])
@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("rows.jsonl", "\n".join(json.dumps(row) for row in ROWS)),
        ("rows.jsonl", "\ufeff" + "".join(json.dumps(row, ensure_ascii=False) + "\r\n\n" for row in ROWS)),
        ("rows.json", json.dumps(ROWS, indent=1)),
        ("rows.csv", CSV),
        ("ROWS.CSV", "\ufeff" + CSV),
        ("rows.tsv", CSV.replace(",", "\t").replace("a\t", "a,")),
    ],
)
def test_every_format_gives_the_same_rows(name: str, content: str, ending: str, tmp_path: Path):
    assert values(read_rows(str(written(tmp_path, name + ending, content)))) == ROWS


def test_parquet_gives_the_same_rows(tmp_path: Path):
    file = tmp_path / "rows.parquet"
    parquet.write_table(pyarrow.Table.from_pylist(ROWS), file)
    table = read_rows(str(file))
    assert values(table) == ROWS
    assert table.rows[2].where == f"{file}:row 3"


def test_rows_know_their_lines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    written(tmp_path, "rows.csv", CSV)
    written(tmp_path, "rows.jsonl", '\n{"a": 1}\n\n{"a": 2}\n')
    assert [row.where for row in read_rows("rows.csv").rows] == ["rows.csv:2", "rows.csv:4", "rows.csv:6"]
    assert [row.where for row in read_rows("rows.jsonl").rows] == ["rows.jsonl:2", "rows.jsonl:4"]


def test_a_line_ends_at_a_newline_and_nowhere_else(tmp_path: Path):
    file = written(tmp_path, "rows.jsonl", '{"a": "x\u2028y\u0085z"}\n{"a": "b"}')
    assert values(read_rows(str(file))) == [{"a": "x\u2028y\u0085z"}, {"a": "b"}]


def test_a_file_is_known_by_the_hash_of_its_stored_bytes(tmp_path: Path):
    file = written(tmp_path, "rows.jsonl.gz", '{"a": 1}\n{"a": 2}\n')
    (known,) = read_rows(str(file)).files
    assert (known.path, known.rows) == (str(file), 2)
    assert known.sha256 == hashlib.sha256(file.read_bytes()).hexdigest()


def test_a_pattern_reads_its_files_in_order_and_a_list_in_its_own(tmp_path: Path):
    for name in ("b.jsonl", "a.jsonl", ".hidden.jsonl", "c.csv"):
        written(tmp_path, name, f'{{"a": "{name[0]}"}}\n' if name.endswith("jsonl") else "a\nc\n")
    (tmp_path / "folder.jsonl").mkdir()
    assert values(read_rows(str(tmp_path / "*.jsonl"))) == [{"a": "a"}, {"a": "b"}]
    assert values(read_rows([str(tmp_path / "c.csv"), str(tmp_path / "a.jsonl")])) == [{"a": "c"}, {"a": "a"}]


def test_a_file_whose_name_looks_like_a_pattern_is_itself(tmp_path: Path):
    file = written(tmp_path, "rows[1].jsonl", '{"a": 1}\n')
    assert len(read_rows(str(file))) == 1


def test_the_demo_rows_are_found():
    assert {"text", "label"} <= set(read_rows("demo:intents").columns())
