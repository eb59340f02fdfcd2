"""Exactly the completion is learned."""

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from peftcli.data.datasets import load_data
from peftcli.data.tables import DataFile, Row, Table
from peftcli.data.tasks import CausalLm, task_from_manifest
from peftcli.errors import DataError

TASK = CausalLm(column_names={"prompt": "prompt", "completion": "completion"})
TOKENIZERS = ["byte_level", "sentencepiece"]


def table(*rows):
    return Table(
        [
            Row({"prompt": prompt, "completion": completion}, f"a.jsonl:{n}")
            for n, (prompt, completion) in enumerate(rows, 1)
        ],
        [DataFile("a.jsonl", "", len(rows))],
    )


def supervised(example):
    return [label for label in example.ids["labels"] if label != -100]


@pytest.fixture(params=TOKENIZERS)
def tokenizer(request):
    return request.getfixturevalue(request.param)


# A special token inside a text is one token, and its text: what surrounds it may lose a space.
texts = st.text(st.characters(codec="utf-8", exclude_characters="<>\0"), max_size=40)


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(prompt=texts, completion=texts.filter(str.strip))
def test_the_labelled_tokens_are_exactly_the_completion_and_the_end(tokenizer, prompt, completion):
    (example,) = TASK.encode(table((prompt, completion)), tokenizer, 1000)
    *answer, end = supervised(example)
    assert end == tokenizer.eos_token_id
    assert tokenizer.decode(answer) == completion
    before = example.ids["labels"].count(-100)
    assert example.ids["input_ids"][before:] == [*answer, end]
    assert set(example.ids["labels"][:before]) == {-100}


def test_what_stands_before_the_labels_is_what_generation_is_given(tokenizer):
    (example,) = TASK.encode(table(("the dog", "the log")), tokenizer, 100)
    before = example.ids["labels"].count(-100)
    assert example.ids["input_ids"][:before] == tokenizer("the dog\n")["input_ids"]


def test_a_newline_parts_a_prompt_from_its_completion_unless_it_ends_in_space():
    rows = table(("a", "x"), ("a ", "x"), ("a\n", "x"), ("", "x")).rows
    prompts = [next(TASK.format.renderings(row, None)).segments[0].text for row in rows]
    assert prompts == ["a\n", "a ", "a\n", ""]


def test_a_text_without_a_prompt_starts_at_the_start_token(tokenizer):
    (example,) = TASK.encode(table(("", "the dog")), tokenizer, 100)
    assert example.ids["input_ids"][0] == tokenizer.bos_token_id
    assert example.ids["labels"][0] == -100
    assert tokenizer.decode(supervised(example)[:-1]) == "the dog"


def test_a_long_row_loses_the_start_of_its_prompt(tokenizer):
    long, short = table(("the dog " * 30, "the log"), ("a", "the log")).rows
    whole = TASK.encode(table(("the dog " * 30, "the log")), tokenizer, 1000)[0]
    examples = TASK.encode(Table([long, short], table().files), tokenizer, 40)
    start = len(tokenizer("")["input_ids"])
    assert examples.counts["truncated"] == 1
    assert examples[0].length == examples.counts["longest"] == 40
    assert examples[0].ids["input_ids"][:start] == whole.ids["input_ids"][:start]
    assert examples[0].ids["input_ids"][start:] == whole.ids["input_ids"][start - 40 :]
    assert supervised(examples[0]) == supervised(whole)


def test_a_completion_that_does_not_fit_drops_its_row(byte_level):
    rows = [("a", "x")] * 199 + [("a", "the dog and the log " * 20)]
    examples = TASK.encode(table(*rows), byte_level, 20)
    assert (len(examples), examples.counts["dropped"], examples.counts["rows"]) == (199, 1, 200)


def test_too_many_dropped_rows_are_refused_with_their_lines(byte_level):
    rows = [("a", "x")] * 99 + [("a", "the dog and the log " * 20)] * 2
    with pytest.raises(DataError, match=r"a\.jsonl:100: the completion alone is longer than 20 tokens in 2 rows"):
        TASK.encode(table(*rows), byte_level, 20)


def test_rows_of_which_nothing_fits_are_refused(byte_level):
    with pytest.raises(DataError, match="in 1 row"):
        TASK.encode(table(("a", "the dog and the log")), byte_level, 2)


def test_a_token_that_the_network_has_no_vector_for_is_refused(byte_level):
    with pytest.raises(DataError, match=r"gives id \d+, but the base model's vocabulary ends at 99"):
        TASK.encode(table(("the dog", "the log")), byte_level, 100, 100)


def test_counts_say_what_is_learned(byte_level):
    examples = TASK.encode(table(("the dog", "a log"), ("a", "b")), byte_level, 100)
    assert examples.counts["supervised"] == sum(map(TASK.items, examples)) == sum(len(supervised(e)) for e in examples)
    assert examples.counts["tokens"] == sum(example.length for example in examples)


def test_input_and_target_stand_for_prompt_and_completion(section):
    rows = [{"input": "a", "target": "b"}, {"input": "c", "target": "d", "references": ["d", "e"]}]
    assert load_data(section("causal-lm", rows), 0).task.column_names == {"prompt": "input", "completion": "target"}


def test_a_prompt_is_optional(section):
    splits = load_data(section("causal-lm", [{"answer": "a"}, {"answer": "b"}], columns={"completion": "answer"}), 0)
    assert splits.task.column_names == {"completion": "answer"}
    assert splits.summary["duplicates"] == {"train": 0}


@pytest.mark.parametrize(
    ("rows", "what"),
    [
        ([{"prompt": "a", "completion": " \n"}], "column 'completion' has no text in 1 row"),
        ([{"prompt": None, "completion": "a"}], "column 'prompt' has no text in 1 row"),
        ([{"prompt": "a", "completion": "b"}, {"prompt": "c"}], "column 'completion' has no text in 1 row"),
        ([{"prompt": "a", "completion": ["b"]}], "column 'completion' is a list, not text, in 1 row"),
        ([{"prompt": "a", "completino": "b"}], "no column is called 'completion'\n.*Did you mean 'completino'"),
    ],
)
def test_rows_without_a_completion_are_refused(rows, what, section):
    with pytest.raises(DataError, match=what):
        load_data(section("causal-lm", rows), 0)


def test_a_row_is_described_with_its_loss_per_token():
    told = TASK.describe(table(("a", "b")).rows[0], {"loss": 6.0, "tokens": 3})
    assert told == {"where": "a.jsonl:1", "prompt": "a", "completion": "b", "loss": 2.0, "tokens": 3}


def test_the_manifest_brings_the_task_back():
    assert task_from_manifest(TASK.manifest()) == TASK
