"""Tokenised rows that are kept: the same as made anew, never stale, and never in the way."""

import json
from dataclasses import replace

import pytest

from peftcli.data.cache import cache_folder, encoding_key, kept_or_made
from peftcli.data.packed import packed, unpacked
from peftcli.data.tables import DataFile, Row, Table
from peftcli.data.tasks import CausalLm, Classification, MultipleChoice, SpanQa

ROWS = [{"text": "the cat sat", "label": "a"}, {"text": "a dog ran on the log", "label": "b"}] * 3
TASK = Classification(column_names={"text": "text", "label": "label"}, max_length=8, labels=("a", "b"))
LIMITS = (8, None)


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("PEFTCLI_CACHE", str(tmp_path / "cache"))


def table_of(rows):
    return Table(
        [Row(values, f"a.jsonl:{n}") for n, values in enumerate(rows, start=1)], [DataFile("a", "0", len(rows))]
    )


class Made:
    """Tokenises, and counts how often."""

    def __init__(self, task, table, reader):
        self.work = (task, table, reader)
        self.times = 0
        self.notes = []

    def examples(self):
        task, table, reader = self.work
        key = encoding_key(task, table, reader, LIMITS)
        return kept_or_made(key, table, self.make, self.notes.append)

    def make(self):
        self.times += 1
        task, table, reader = self.work
        return task.encode(table, reader, *LIMITS)


def test_what_is_kept_is_what_was_made(pairs):
    made = Made(TASK, table_of(ROWS), pairs)
    first, second = made.examples(), made.examples()
    assert first == second == TASK.encode(table_of(ROWS), pairs, *LIMITS)
    assert (made.times, made.notes) == (1, [])
    assert all(type(e.label) is int for e in second)


def test_labels_of_tokens_are_kept_too(byte_level):
    task = CausalLm(column_names={"prompt": "p", "completion": "c"}, max_length=64)
    made = Made(task, table_of([{"p": "a", "c": "the cat"}, {"p": "", "c": "a dog"}]), byte_level)
    limits = (64, None)
    examples = task.encode(table_of([{"p": "a", "c": "the cat"}, {"p": "", "c": "a dog"}]), byte_level, *limits)
    key = encoding_key(task, made.work[1], byte_level, limits)
    kept_or_made(key, made.work[1], lambda: examples, made.notes.append)
    assert kept_or_made(key, made.work[1], made.make, made.notes.append) == examples
    assert made.times == 0


def test_windows_of_long_texts_are_kept_too(pairs):
    task = SpanQa(column_names={"question": "q", "context": "c", "answers": "a"}, max_length=12, doc_stride=2)
    answers = [{"text": ["a dog"], "answer_start": [32]}, {"text": [], "answer_start": []}]
    context = "the cat sat on the mat and then a dog ran on a log"
    rows = [{"q": "a dog", "c": text, "a": answer} for text, answer in zip((context, "the cat"), answers, strict=True)]
    made = Made(task, table_of(rows), pairs)
    first, second = made.examples(), made.examples()
    assert first == second == made.make()
    assert (made.times, made.notes) == (2, [])
    assert [type(e) for e in second] == [type(e) for e in first]
    assert len(second[0].parts) > len(second[1].parts) > 0
    assert second[0].parts[1].offsets == first[0].parts[1].offsets != []


def test_choices_are_kept_too(byte_level):
    task = MultipleChoice(column_names={"prompt": "p", "choices": "c", "answer": "a"}, max_length=64)
    rows = [{"p": "the", "c": ["cat", "dogs", "log"], "a": 2}, {"p": "a", "c": ["mat", "cat"], "a": 0}]
    made = Made(task, table_of(rows), byte_level)
    assert made.examples() == made.examples() == made.make()
    assert (made.times, made.notes) == (2, [])
    assert [len(e.parts) for e in made.examples()] == [3, 2]


@pytest.mark.parametrize("kind", ["os:system", "peftcli.data.tables:Row", "peftcli.data.cache", "os.path:join"])
def test_what_a_cache_names_is_a_kind_of_example_or_nothing(pairs, kind):
    examples = TASK.encode(table_of(ROWS), pairs, *LIMITS)
    tensors, about = packed(examples.items, table_of(ROWS))
    assert unpacked(tensors, about, table_of(ROWS)) == examples.items
    with pytest.raises((ValueError, AttributeError)):
        unpacked(tensors, about | {"kind": kind}, table_of(ROWS))


def test_everything_that_examples_depend_on_is_in_the_key(pairs, byte_level):
    table = table_of(ROWS)
    keys = [
        encoding_key(TASK, table, pairs, LIMITS),
        encoding_key(TASK, table, byte_level, LIMITS),
        encoding_key(TASK, table, pairs, (9, None)),
        encoding_key(TASK, table, pairs, (8, 100)),
        encoding_key(TASK, table_of(ROWS[:5]), pairs, LIMITS),
        encoding_key(TASK, table_of([*ROWS[:5], {**ROWS[5], "text": "a dog"}]), pairs, LIMITS),
        encoding_key(replace(TASK, labels=("b", "a")), table, pairs, LIMITS),
    ]
    assert len(set(keys)) == len(keys)
    assert encoding_key(TASK, table_of(ROWS), pairs, LIMITS) == keys[0]


def test_rows_without_a_json_form_have_no_key(pairs):
    assert encoding_key(TASK, table_of([{"text": b"bytes", "label": "a"}]), pairs, LIMITS) is None


@pytest.mark.parametrize("name", ["ids.safetensors", "about.json", "manifest.json"])
@pytest.mark.parametrize("damage", [lambda old: old[:-3], lambda old: old[:40] + b"\x00" + old[41:], lambda old: b""])
def test_a_damaged_cache_is_made_anew_with_a_note(pairs, name, damage):
    made = Made(TASK, table_of(ROWS), pairs)
    expected = made.examples()
    (folder,) = (cache_folder() / "examples").iterdir()
    (folder / name).write_bytes(damage((folder / name).read_bytes()))
    assert made.examples() == expected
    assert made.times == 2
    assert "damaged and made anew" in made.notes[0]
    assert made.examples() == expected
    assert made.times == 2


def test_a_cache_that_cannot_be_written_stops_nothing(pairs, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("PEFTCLI_CACHE", str(tmp_path / "file"))
    made = Made(TASK, table_of(ROWS), pairs)
    assert len(made.examples()) == len(ROWS)
    assert "not kept" in made.notes[0]


def test_two_runs_that_keep_the_same_at_once_do_not_meet(pairs):
    made = Made(TASK, table_of(ROWS), pairs)
    other = Made(TASK, table_of(ROWS), pairs)

    def meanwhile():
        other.examples()
        return made.make()

    key = encoding_key(*made.work, LIMITS)
    examples = kept_or_made(key, made.work[1], meanwhile, made.notes.append)
    assert examples == other.examples()
    assert made.notes == other.notes == []


def test_the_folder_is_the_user_s(monkeypatch, tmp_path):
    monkeypatch.delenv("PEFTCLI_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_folder() == tmp_path / "peftcli"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache_folder() == tmp_path / ".cache" / "peftcli"


def test_what_json_changes_is_not_kept(pairs):
    made = Made(TASK, table_of(ROWS), pairs)
    examples = made.make()
    lists = replace(examples, items=[replace(e, label=(e.label, [("nested",)])) for e in examples.items])
    kept_or_made("0" * 64, made.work[1], lambda: lists, made.notes.append)
    assert not (cache_folder() / "examples").exists()
    assert json.dumps(made.notes) == "[]"
