"""Every bad file is refused, and the first problem stands where it is."""

import codecs
import gzip
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from peftcli.data.rows import read_rows
from peftcli.errors import DataError

GOOD = b'{"text": "a", "label": 1}\n'


@dataclass(frozen=True)
class Bad:
    file: str
    content: bytes
    where: str  # what follows the file's name: ":line:column"
    what: str
    hint: str = ""


BAD = [
    Bad("value.jsonl", GOOD + b'{"text": }\n', ":2:10", "broken JSON: expecting value"),
    Bad("comma.jsonl", GOOD * 2 + b'{"text": "a" "label": 1}\n', ":3:14", "expecting ',' delimiter"),
    Bad("quote.jsonl", b'{"text: 1}\n' + GOOD, ":1:2", "unterminated string"),
    Bad("extra.jsonl", GOOD + b'{"text": "a"} {"text": "b"}\n', ":2:15", "extra data"),
    Bad("tab.jsonl", b'{"text": "a\tb"}\n', ":1:12", "invalid control character"),
    Bad("short.jsonl", GOOD * 3 + b'{"text": "a", "la', ":4:15", "unterminated string", "cut short"),
    Bad("twice.jsonl", GOOD + b'{"text": "a", "text": "b"}\n', ":2", "key 'text' stands twice"),
    Bad("inner.jsonl", GOOD + b'{"text": {"a": 1, "a": 2}}\n', ":2", "key 'a' stands twice"),
    Bad("nan.jsonl", GOOD + b'{"text": "a", "label": NaN}\n', ":2", "NaN is not JSON"),
    Bad("infinity.jsonl", b'{"label": -Infinity}\n', ":1", "-Infinity is not JSON"),
    Bad("huge.jsonl", GOOD + b'{"label": 1e999}\n', ":2", "the number 1e999 is too large"),
    Bad("digits.jsonl", b'{"label": ' + b"7" * 5000 + b"}\n", ":1", "has 5000 digits"),
    Bad("deep.jsonl", GOOD + b'{"a":' + b"[" * 100_000 + b"\n", ":2", "nested too deeply"),
    Bad("list.jsonl", GOOD + b"[1, 2]\n", ":2", "not an object", "JSON list .json"),
    Bad("word.jsonl", GOOD + b'"text"\n', ":2", "not an object"),
    Bad("pretty.jsonl", b'[\n  {"text": "a"}\n]\n', ":1:2", "broken JSON", "JSON list .json"),
    Bad("high.jsonl", GOOD + rb'{"text": "a\ud800"}' + b"\n", ":2:12", "lone surrogate"),
    Bad("low.jsonl", GOOD + rb'{"text": "\ud83d\ude00\udc00"}' + b"\n", ":2:23", "lone surrogate"),
    Bad("latin.jsonl", GOOD + '{"text": "é"}'.encode("latin-1"), ":2", "byte 0xe9 at byte offset 36 is not UTF-8"),
    Bad("encoded.jsonl", GOOD + b'{"text": "\xed\xa0\x80"}', ":2", "byte 0xed at byte offset 36"),
    Bad("nul.jsonl", GOOD + b'{"text": "a\0"}', ":2", "NUL at byte offset 37"),
    Bad("marked.jsonl", codecs.BOM_UTF8 + b'{"a": 1}\n{"a": \xff}', ":2", "byte 0xff at byte offset 18"),
    Bad("utf16.jsonl", GOOD.decode().encode("utf-16"), ":1", "UTF-16"),
    Bad("unmarked.jsonl", GOOD.decode().encode("utf-16-le"), ":1", "NUL at byte offset 1"),
    Bad("object.json", b'{"data": []}', "", "not a list of objects"),
    Bad("numbers.json", b'[{"a": 1}, 2]', ":row 2", "not an object but '2'"),
    Bad("lines.json", GOOD * 2, ":2:1", "extra data", ".jsonl"),
    Bad("cut.json", b'[{"a": 1},\n {"a"', ":2:6", "expecting ':' delimiter"),
    Bad("ragged.csv", b"text,label\na,1\nb\nc,1,2\n", ":3", "1 cell, but the header has 2"),
    Bad("lines.csv", b'text,label\n"a\nb",1\nc,1,2\n', ":4", "3 cells, but the header has 2"),
    Bad("open.csv", b'text,label\na,1\n"b,1\nc,0\n', ":3", "never closed"),
    Bad("inside.csv", b'text,label\n"a"b,1\n', ":2", "broken quotes"),
    Bad("semicolon.csv", b"text;label\na;1\n", ":1", "the header is one column", "a semicolon"),
    Bad("tabs.csv", b"text\tlabel\na\t1\n", ":1", "the header is one column", "Name the file .tsv"),
    Bad("commas.tsv", b"text,label\na,1\n", ":1", "the header is one column", "Name the file .csv"),
    Bad("twice.csv", b"text,text\na,b\n", ":1", "column 'text' stands twice"),
    Bad("nameless.csv", b"text,\na,b\n", ":1", "no name"),
    Bad("long.csv", b"text,label\n" + b"a" * 200_000 + b",1\n", ":2", "longer than 131072"),
    Bad("header.csv", b"text,label\n", "", "no rows"),
    Bad("blank.jsonl", b"\n \n\n", "", "no rows"),
    Bad("empty.jsonl", b"", "", "empty"),
    Bad("none.json", b"[]", "", "no rows"),
    Bad("text.jsonl.gz", GOOD, "", "broken gzip"),
    Bad("half.jsonl.gz", gzip.compress(GOOD * 50)[:-12], "", "broken gzip", "cut short"),
    Bad("zipped.jsonl.gz", gzip.compress(GOOD + b"{\n"), ":2:2", "broken JSON"),
    Bad("text.parquet", GOOD, "", "not a readable parquet file"),
    Bad("rows.xlsx", GOOD, "", "no reader for files called '.xlsx'", ".jsonl, .json, .csv, .tsv, .parquet, .arrow"),
]


@pytest.mark.parametrize("bad", BAD, ids=lambda bad: bad.file)
def test_a_bad_file_is_refused_at_its_line(bad: Bad, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    Path(bad.file).write_bytes(bad.content)
    with pytest.raises(DataError) as error:
        read_rows(bad.file)
    first = error.value.problems[0]
    assert first.where in (f"{bad.file}{bad.where}", f"{tmp_path / bad.file}{bad.where}")
    assert bad.what in first.what
    assert bad.hint in (first.hint or "")


def test_ten_problems_are_shown_and_all_are_counted(tmp_path: Path):
    file = tmp_path / "many.jsonl"
    file.write_bytes((GOOD + b"{\n") * 37)
    with pytest.raises(DataError) as error:
        read_rows(str(file))
    assert [problem.where for problem in error.value.problems[:10]] == [f"{file}:{2 * n}:2" for n in range(1, 11)]
    assert error.value.problems[10].what.startswith("37 problems in all")
    assert len(error.value.problems) == 11


def test_the_problems_of_all_files_are_told_at_once(tmp_path: Path):
    for name in ("a.jsonl", "b.jsonl"):
        (tmp_path / name).write_bytes(b"{\n")
    with pytest.raises(DataError) as error:
        read_rows([str(tmp_path / "a.jsonl"), str(tmp_path / "b.jsonl")])
    assert len(error.value.problems) == 2


def directory(path: Path) -> None:
    path.mkdir()


def pipe(path: Path) -> None:
    os.mkfifo(path)


def nothing(path: Path) -> None:
    del path


@pytest.mark.parametrize(
    ("make", "what"), [(directory, "a directory"), (pipe, "not a regular file"), (nothing, "no such file")]
)
def test_what_is_no_file_is_named_with_its_full_path(
    make: Callable[[Path], None], what: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path)
    make(Path("rows.jsonl"))
    with pytest.raises(DataError, match=what) as error:
        read_rows("rows.jsonl")
    assert error.value.problems[0].where == str(tmp_path / "rows.jsonl")


def test_a_device_is_refused():
    with pytest.raises(DataError, match="not a regular file"):
        read_rows("/dev/zero")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_file_without_permission_is_refused(tmp_path: Path):
    file = tmp_path / "rows.jsonl"
    file.write_bytes(GOOD)
    file.chmod(0)
    with pytest.raises(DataError, match="cannot be read"):
        read_rows(str(file))


def test_a_missing_file_is_suggested_from_its_neighbours(tmp_path: Path):
    (tmp_path / "train.jsonl").write_bytes(GOOD)
    with pytest.raises(DataError, match=r"Did you mean 'train\.jsonl'"):
        read_rows(str(tmp_path / "trian.jsonl"))


def test_a_pattern_without_a_match_is_refused(tmp_path: Path):
    with pytest.raises(DataError, match="the pattern matches no file"):
        read_rows(str(tmp_path / "*.jsonl"))


@pytest.mark.parametrize(("source", "what"), [("a/**b*", "not a pattern"), ("~nobody-here/a.jsonl", "home directory")])
def test_a_path_that_means_nothing_is_refused(source: str, what: str):
    with pytest.raises(DataError, match=what):
        read_rows(source)


def test_a_file_named_twice_is_refused(tmp_path: Path):
    (tmp_path / "a.jsonl").write_bytes(GOOD)
    with pytest.raises(DataError, match="named twice"):
        read_rows([str(tmp_path / "*.jsonl"), str(tmp_path / "a.jsonl")])
