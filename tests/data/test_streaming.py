"""Rows that are read as training goes: the same batches whoever asks, from wherever, and every row once a pass."""

import gzip
import json
from collections import Counter

import pyarrow
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pyarrow import parquet

from peftcli.data.batches import Position, Share
from peftcli.data.datasets import load_data
from peftcli.data.examples import Example, Examples
from peftcli.data.rows import RowStream, read_rows
from peftcli.data.streaming import StreamedBatches
from peftcli.data.tasks import CausalLm
from peftcli.errors import DataError, RecipeError

CAUSAL = CausalLm(column_names={"completion": "completion"})


def numbered(count):
    return [{"completion": f"row {n}", "n": n} for n in range(count)]


def lines(rows):
    return "".join(json.dumps(row) + "\n" for row in rows)


class Fake:
    """A stream of numbered rows without a file, and an encoder that drops some of them."""

    def __init__(self, folder, count, dropped=()):
        self.dropped = set(dropped)
        file = folder / f"rows-{count}.jsonl"
        file.write_text(lines(numbered(count)))
        self.stream = RowStream(str(file))

    def encode(self, table):
        kept = [(place, row.values["n"]) for place, row in enumerate(table.rows) if row.values["n"] not in self.dropped]
        return Examples([Example({"input_ids": [n, 1], "labels": [-100, 1]}, 2, at, f"r:{n}") for at, n in kept], {})

    def batches(self, *, batch_size=4, buffer=8, seed=0, **process):
        share = Share(task=CAUSAL, micro_batch_size=3, pad=0, **process)
        return StreamedBatches(self.stream, self.encode, share, batch_size=batch_size, buffer=buffer, seed=seed)


def members(batch):
    return Counter(int(first) for piece in batch.micro for first in piece["input_ids"][:, 0])


def walk(batches, passes):
    """Return the positions of some passes, each with the rows of its batch."""
    position, found = Position(0, 0), []
    while position.epoch < passes:
        found.append((position, members(batches.batch(position))))
        position = batches.after(position)
    return found


@settings(deadline=None, max_examples=60)
@given(st.integers(1, 40), st.integers(1, 6), st.integers(1, 12), st.integers(0, 9), st.sets(st.integers(0, 39)))
def test_a_pass_has_every_row_once_and_any_batch_can_be_had_again(
    tmp_path_factory, count, batch_size, buffer, seed, dropped
):
    dropped = {n for n in dropped if n % 3 == 1}  # a block that loses all its rows is refused by the tasks
    rows = Fake(tmp_path_factory.mktemp("rows"), count, dropped if buffer > 2 and batch_size > 2 and count > 2 else ())
    found = walk(rows.batches(batch_size=batch_size, buffer=buffer, seed=seed), passes=2)
    for epoch in (0, 1):
        seen = sum((rows_of for position, rows_of in found if position.epoch == epoch), Counter())
        assert seen == Counter(set(range(count)) - rows.dropped)
    for position, rows_of in found[:: max(1, len(found) // 4)]:
        fresh = rows.batches(batch_size=batch_size, buffer=buffer, seed=seed)  # as after --resume
        assert members(fresh.batch(position)) == rows_of
    assert all(0 < rows_of.total() <= batch_size for _, rows_of in found)


def test_passes_and_seeds_have_their_own_orders(tmp_path):
    rows = Fake(tmp_path, 30)

    def order(seed, epoch):
        found = walk(rows.batches(seed=seed), passes=2)
        return tuple(tuple(sorted(rows_of)) for position, rows_of in found if position.epoch == epoch)

    assert order(0, 0) == order(0, 0)
    assert len({order(0, 0), order(0, 1), order(1, 0), order(1, 1)}) == 4


@pytest.mark.parametrize("world", [2, 3])
def test_processes_share_every_batch(tmp_path, world):
    rows = Fake(tmp_path, 21)
    whole = walk(rows.batches(), passes=1)
    parts = [walk(rows.batches(rank=rank, world=world), passes=1) for rank in range(world)]
    for (position, together), *shares in zip(whole, *parts, strict=True):
        assert {place for place, _ in shares} == {position}
        assert sum((rows_of for _, rows_of in shares), Counter()) == together


def test_the_first_batch_is_kept_for_those_who_come_back_to_it(tmp_path):
    rows = Fake(tmp_path, 30)
    batches = rows.batches()
    first = batches.batch(Position(0, 0))
    (*_, (last, expected)) = walk(batches, passes=1)
    again = rows.batches()
    again.batch(Position(0, 0))
    again.batch(Position(0, 2))
    assert members(again.batch(Position(0, 0))) == members(first)
    assert members(again.batch(last)) == expected


@pytest.mark.parametrize(
    "name", ["rows.jsonl", "rows.jsonl.gz", "rows.csv", "rows.tsv.gz", "rows.parquet", "rows.arrow"]
)
def test_a_stream_gives_what_reading_gives_and_passes_over_rows(tmp_path, name):
    rows = [{"text": f'a "{n}"', "note": "x\ny" if n % 3 else ""} for n in range(2500)]
    file = tmp_path / name
    table = pyarrow.Table.from_pylist(rows)
    if name.endswith("parquet"):
        parquet.write_table(table, file, row_group_size=700)
    elif name.endswith("arrow"):
        with pyarrow.ipc.new_stream(file, table.schema) as out:
            out.write_table(table, max_chunksize=300)
    else:
        mark = "\t" if ".tsv" in name else ","
        cells = "".join('"{}"{}"{}"\r\n'.format(r["text"].replace('"', '""'), mark, r["note"]) for r in rows)
        content = (lines(rows) if "jsonl" in name else f"text{mark}note\r\n{cells}").encode()
        file.write_bytes(gzip.compress(content) if name.endswith("gz") else content)
    known = read_rows(str(file)).rows
    assert [row.values for row in known] == rows
    stream = RowStream(str(file))
    for skip in (0, 1, 1024, 2499, 2500, 3000):
        assert list(stream.rows(skip)) == known[skip:]


def test_rows_are_passed_over_across_files(tmp_path):
    for name, start in (("a", 0), ("b", 5)):
        (tmp_path / f"{name}.jsonl").write_text(lines({"n": n} for n in range(start, start + 5)))
    stream = RowStream(str(tmp_path / "*.jsonl"))
    assert [row.values["n"] for row in stream.rows(7)] == [7, 8, 9]


@pytest.mark.parametrize(
    ("name", "content", "where", "what"),
    [
        ("a.jsonl", lines(numbered(3)).encode() + b'{"a": \n', ":4:7", "broken JSON"),
        ("a.jsonl", b'{"a": 1}\n\n{"a": "\xff"}\n', ":3", "byte 0xff at byte offset 17"),
        ("a.csv", b"a,b\n1,2\n3\n", ":3", "1 cell, but the header has 2"),
        ("a.jsonl.gz", gzip.compress(lines(numbered(500)).encode())[:-20], "", "broken gzip"),
        ("a.parquet", b"PAR1 and no more", "", "not a readable parquet file"),
    ],
)
def test_a_bad_row_is_told_when_it_is_reached(tmp_path, monkeypatch, name, content, where, what):
    monkeypatch.chdir(tmp_path)
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=what) as error:
        list(RowStream(name).rows())
    assert error.value.problems[0].where == name + where


@pytest.mark.parametrize(
    ("name", "what"), [("a.json", "JSON list"), ("a.arrow.gz", "gzipped .arrow"), ("a.txt", "no reader")]
)
def test_what_cannot_be_streamed_is_refused_at_once(tmp_path, name, what):
    (tmp_path / name).write_bytes(b"[]")
    with pytest.raises(DataError, match=what):
        RowStream(str(tmp_path / name))


def test_a_streamed_file_is_known_by_its_size_its_time_and_its_ends(tmp_path):
    file = tmp_path / "a.jsonl"
    file.write_text(lines(numbered(10)))
    before = RowStream(str(file)).files
    assert before == RowStream(str(file)).files
    assert before[0].rows is None
    file.write_text(lines(numbered(10)).replace("row 9", "row 8"))
    assert RowStream(str(file)).files != before


def test_a_streamed_split_is_described_by_its_first_rows(section):
    rows = [{"text": f"text {n}", "label": "ab"[n % 2]} for n in range(1500)]
    found = load_data(section("classification", rows, streaming=True, labels=["a", "b"], validation=rows[:3]), seed=0)
    assert len(found.train) == 1000
    assert found.summary["rows"] == {"train": None, "validation": 3}
    assert "first 1,000" in found.summary["streamed"]["train"]
    assert sum(1 for _ in found.stream.rows()) == 1500


def test_streamed_rows_need_their_labels_listed(section):
    rows = [{"text": "a", "label": "x"}]
    with pytest.raises(RecipeError, match=r"data\.streaming needs data\.labels"):
        load_data(section("classification", rows, streaming=True), seed=0)
