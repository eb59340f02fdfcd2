"""Every word has a tag; it is learned and measured at the word's first sub-token."""

import json
from dataclasses import dataclass

import pytest
import torch
from tiny import tiny_network
from torch.nn import functional

from peftcli.data.datasets import load_data
from peftcli.data.examples import IGNORED
from peftcli.data.tables import DataFile, Row, Table
from peftcli.data.tasks import TokenClassification, WordTags, task_from_manifest
from peftcli.errors import DataError, RecipeError

TASK = TokenClassification(column_names={"tokens": "tokens", "tags": "tags"}, labels=("B-X", "I-X", "O"))
ROW = {"tokens": ["the", "cat", "sat"], "tags": ["O", "B-X", "I-X"]}


def table(*rows):
    return Table([Row(row, f"a.jsonl:{n}") for n, row in enumerate(rows, 1)], [DataFile("a.jsonl", "", len(rows))])


def tagged(*tags):
    return {"tokens": [f"w{n}" for n in range(len(tags))], "tags": list(tags)}


def test_tags_are_those_of_the_training_rows(section):
    splits = load_data(section("token-classification", [ROW, tagged("B-A", "O")]), 0)
    assert splits.task.labels == ("B-A", "B-X", "I-X", "O")
    assert splits.summary["labels"]["train"] == {"B-A": 1, "B-X": 1, "I-X": 1, "O": 2}
    assert (splits.task.select, splits.task.network_settings()["num_labels"]) == ("f1", 4)


def test_numbers_are_places_in_the_labels_of_the_recipe(section):
    rows = [{"tokens": ["a", "b"], "ner_tags": [1, 0]}]
    task = load_data(section("token-classification", rows, labels=["O", "B-X"]), 0).task
    assert task.column_names["tags"] == "ner_tags"
    assert task.labels_in(Row(rows[0], "")) == ["B-X", "O"]


def test_tags_that_mark_no_entities_are_measured_word_by_word(section):
    task = load_data(section("token-classification", [tagged("NOUN", "VERB"), tagged("ADJ", "NOUN")]), 0).task
    assert type(task) is WordTags
    assert (task.select, task.metric_names) == ("accuracy", ("accuracy", "loss"))
    with pytest.raises(DataError, match="no metric is called 'f1'"):
        task.check_metrics(["f1"])
    outcome = {"loss": 1.0, "tags": ["NOUN", "VERB"], "prediction": ["NOUN", "NOUN"]}
    assert task.metrics([outcome], None) == {"accuracy": 0.5, "loss": 0.5}
    noun = next(row for row in task.details([outcome])["classes"] if row["label"] == "NOUN")
    assert (noun["n"], noun["precision"], noun["recall"]) == (1, 0.5, 1.0)


@pytest.mark.parametrize(
    ("rows", "settings", "what"),
    [
        ([ROW, {**ROW, "tags": ["O"]}], {}, r"train\.jsonl:2: there are 3 words but 1 tags in 1 row"),
        ([ROW, {"tokens": "the cat", "tags": ["O"]}], {}, "column 'tokens' is text, not a list of words, in 1 row"),
        ([ROW, {"tokens": ["a"], "tags": "O"}], {}, "column 'tags' is text, not a list of tags"),
        ([ROW, {"tokens": ["a"]}], {}, r"train\.jsonl:2: column 'tags' is null, not a list of tags"),
        ([ROW, {"tokens": [], "tags": []}], {}, "column 'tokens' has no words"),
        ([ROW, {"tokens": ["a", " "], "tags": ["O", "O"]}], {}, "has a word that is no text or blank"),
        ([ROW, {"tokens": ["a", 3], "tags": ["O", "O"]}], {}, "has a word that is no text or blank"),
        ([ROW, tagged("O", None)], {}, "column 'tags' has None, which names no tag"),
        ([tagged(0, 1)], {}, "column 'tags' has 0, which names no tag, in 1 row .*\n.*data.labels names the tags"),
        ([tagged(0, 2)], {"labels": ["O", "B-X"]}, "column 'tags' has 2, which names no tag"),
        ([ROW], {"validation": [tagged("B-Y")]}, r"validation\.jsonl:1: label 'B-Y' is unknown in 1 row"),
        ([tagged("B-X", "O", "E-X", "S-X")], {}, "the tags E-X, S-X are not of IOB2, but B-X are"),
        ([tagged("O", "O")], {}, "column 'tags' holds 1 label: O"),
        ([ROW], {"columns": {"words": "tokens"}}, "data.columns has no key 'words'"),
    ],
)
def test_rows_that_do_not_fit_are_refused(rows, settings, what, section):
    with pytest.raises((DataError, RecipeError), match=what):
        load_data(section("token-classification", rows, **settings), 0)


def test_a_tag_stands_at_the_first_token_of_its_word_and_nowhere_else(byte_level):
    (example,) = TASK.encode(table(ROW), byte_level, 20).items
    labelled = [n for n, tag in enumerate(example.ids["tags"]) if tag != IGNORED]
    ends = [*labelled[1:], example.length]
    ids = example.ids["input_ids"]
    words = [byte_level.decode(ids[a:b]).strip() for a, b in zip(labelled, ends, strict=True)]
    assert words == ROW["tokens"]
    assert [example.ids["tags"][n] for n in labelled] == [2, 0, 1]


def test_words_that_are_cut_are_counted_and_carry_no_loss(pairs):
    examples = TASK.encode(table(ROW, tagged("O")), pairs, 4)
    assert examples.counts == {
        "rows": 2,
        "truncated": 1,
        "dropped": 0,
        "tokens": 7,
        "supervised": 3,
        "words_cut": 1,
        "longest": 4,
    }
    assert [TASK.items(example) for example in examples] == [2, 1]


def test_a_length_without_room_for_a_word_is_refused(pairs):
    with pytest.raises(DataError, match=r"data\.max_length is 2, which leaves no word of any row"):
        TASK.encode(table(ROW), pairs, 2)


@dataclass(frozen=True)
class Virtual:
    count: int = 3
    first_id: int = 90
    after: int = 1
    infix: int = 1


def test_virtual_tokens_have_no_tags_and_an_infix_stands_behind_the_words(pairs):
    examples = list(TASK.encode(table(ROW, tagged("O")), pairs, 8))
    batch = TASK.collate(examples, 0, Virtual())
    assert batch["labels"].tolist() == [[-100, -100, -100, 2, 0, 1, -100, -100], [-100, -100, -100, 2] + [-100] * 4]
    assert batch["input_ids"][1].tolist()[:6] == [2, 90, 91, 1, 3, 92]
    assert "tags" not in batch


def test_loss_and_outcomes_are_those_of_the_labelled_tokens(pairs):
    network = tiny_network("bert", "token-classification", labels=3)
    rows = [ROW, {"tokens": ["a", "dog"], "tags": ["O", "B-X"]}]
    batch = TASK.collate(list(TASK.encode(table(*rows), pairs, 8)), 0, None)
    logits = network(**{key: batch[key] for key in ("input_ids", "attention_mask", "token_type_ids")}).logits
    first = functional.cross_entropy(logits[0, 1:4], torch.tensor([2, 0, 1]), reduction="sum")
    second = functional.cross_entropy(logits[1, 1:3], torch.tensor([2, 0]), reduction="sum")
    torch.testing.assert_close(TASK.loss(network, batch), first + second)
    outcomes = TASK.outcomes(network, batch)
    assert [o["loss"] for o in outcomes] == pytest.approx([first.item(), second.item()], abs=1e-5)
    assert [o["tags"] for o in outcomes] == [row["tags"] for row in rows]
    assert outcomes[0]["prediction"] == [TASK.labels[n] for n in logits[0, 1:4].argmax(1).tolist()]


def test_entities_are_counted_and_told_by_name():
    outcomes = [
        {"loss": 2.0, "tags": ["B-X", "I-X", "O"], "prediction": ["B-X", "I-X", "O"]},
        {"loss": 1.0, "tags": ["B-X", "O", "O"], "prediction": ["B-X", "I-X", "O"]},
    ]
    assert TASK.metrics(outcomes, None) == {
        "f1": 0.5,
        "precision": 0.5,
        "recall": 0.5,
        "accuracy": pytest.approx(5 / 6),
        "loss": 0.5,
    }
    assert TASK.details(outcomes)["entities"] == [{"label": "X", "n": 2, "precision": 0.5, "recall": 0.5, "f1": 0.5}]
    told = TASK.describe(Row(ROW, "a.jsonl:1"), outcomes[0])
    assert told == {
        "where": "a.jsonl:1",
        **ROW,
        "tags": ["B-X", "I-X", "O"],
        "prediction": ["B-X", "I-X", "O"],
        "loss": 2 / 3,
    }
    assert TASK.answers(outcomes)[1][1] == ["B-X", "O", "O"]


def test_sentences_that_differ_in_case_alone_are_the_same():
    assert TASK.key(Row({**ROW, "tokens": ["The", "cat", "SAT"]}, "")) == TASK.key(Row(ROW, ""))


@pytest.mark.parametrize("rows", [[ROW, tagged("O")], [tagged("NOUN", "VERB")]])
def test_the_manifest_brings_the_task_back(rows, section):
    task = load_data(section("token-classification", rows, max_length=64), 0).task
    back = task_from_manifest(json.loads(json.dumps(task.manifest())))
    assert (back, type(back)) == (task, type(task))
