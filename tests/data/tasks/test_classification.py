"""Labels are numbered once, checked on every row, and learned from the whole row."""

import json
from dataclasses import dataclass, replace

import pytest
import torch
from tiny import tiny_network
from torch.nn import functional

from peftcli.data.datasets import load_data
from peftcli.data.tables import DataFile, Row, Table
from peftcli.data.tasks import Classification, make_task, task_from_manifest
from peftcli.errors import ArtifactError, DataError, RecipeError

TASK = Classification(column_names={"text": "text", "label": "label"}, labels=("no", "yes"))
PAIR = replace(TASK, column_names={"text": "text", "text_pair": "text_pair", "label": "label"})


def table(*rows):
    return Table([Row(row, f"a.jsonl:{n}") for n, row in enumerate(rows, 1)], [DataFile("a.jsonl", "", len(rows))])


def labelled(*labels):
    return [{"text": f"text {n}", "label": label} for n, label in enumerate(labels)]


@pytest.mark.parametrize(
    ("values", "labels"),
    [
        (("yes", "no", "yes"), ("no", "yes")),
        ((10, 2, 1), ("1", "2", "10")),
        (("10", "2", "1"), ("1", "2", "10")),
        ((True, False), ("false", "true")),
        (("1", "01", "x"), ("01", "1", "x")),
    ],
)
def test_labels_are_those_of_the_training_rows_in_order(values, labels, section):
    task = load_data(section("classification", labelled(*values)), 0).task
    assert task.labels == labels
    assert task.network_settings()["label2id"] == {label: number for number, label in enumerate(labels)}


def test_the_recipe_may_say_the_order_of_labels(section):
    assert load_data(section("classification", labelled("a", "b"), labels=["b", "a", "c"]), 0).task.labels == (
        "b",
        "a",
        "c",
    )


@pytest.mark.parametrize("labels", [["a"], ["a", "b", "a"]])
def test_a_wrong_list_of_labels_is_a_mistake_of_the_recipe(labels, section):
    with pytest.raises(RecipeError, match=r"data\.labels"):
        load_data(section("classification", labelled("a", "b"), labels=labels), 0)


@pytest.mark.parametrize(
    ("rows", "settings", "what"),
    [
        (labelled(0.5, 1.5), {}, "column 'label' is 0.5, a number with a fraction, not a label, in 2 rows"),
        (labelled("a", "b", None, ""), {}, r"has no label in 2 rows \(train\.jsonl:3, train\.jsonl:4\)"),
        ([*labelled("a", "b"), {"text": "x"}], {}, r"train\.jsonl:3: column 'label' has no label"),
        (labelled("a", 1), {}, r"is text in .*train\.jsonl:1 but a whole number in .*train\.jsonl:2"),
        (labelled(1, True), {}, "is a whole number in .* but true or false in"),
        (labelled(["a"], ["b"]), {}, "a list, not a label"),
        (labelled("a", "a"), {}, "column 'label' holds 1 label: a"),
        (
            labelled("a", "b"),
            {"labels": ["a", "bb"]},
            r"label 'b' is unknown in 1 row \(train\.jsonl:2\)\n.*Did you mean 'bb'",
        ),
        (labelled("a", "b"), {"validation": labelled("c")}, r"validation\.jsonl:1: label 'c' is unknown"),
        (labelled(0, 1), {"test": labelled(-1)}, "label '-1' is unknown in 1 row .*\n.*secret"),
        (
            [{"text": 5, "label": "a"}, {"text": 6, "label": "b"}],
            {},
            "column 'text' is a whole number, not text, in 2 rows",
        ),
        ([*labelled("a", "b"), {"text": 5, "label": "a"}], {}, r"'text' is text in .*:1 but a whole number in .*:3"),
        ([*labelled("a", "b"), {"text": " ", "label": "a"}], {}, r"train\.jsonl:3: column 'text' has no text in 1 row"),
        (
            labelled("a", "b"),
            {"columns": {"text": "txt"}},
            "no column is called 'txt'\n.*Did you mean 'text'.*text, label",
        ),
        (labelled("a", "b"), {"columns": {"text_pair": "other"}}, "no column is called 'other'"),
    ],
)
def test_rows_that_do_not_fit_are_refused(rows, settings, what, section):
    with pytest.raises(DataError, match=what):
        load_data(section("classification", rows, **settings), 0)


def test_five_lines_are_shown_and_all_are_counted(section):
    with pytest.raises(
        DataError, match=r"in 40 rows \(train\.jsonl:3, (train\.jsonl:\d, ){3}train\.jsonl:7 and 35 more\)"
    ):
        load_data(section("classification", labelled("a", "b", *[None] * 40)), 0)


def test_ten_unknown_labels_are_shown_and_all_are_counted(section):
    recipe = section("classification", labelled("a", "b"), validation=labelled(*(f"l{n}" for n in range(30))))
    with pytest.raises(DataError, match="30 labels are unknown in all") as error:
        load_data(recipe, 0)
    assert len(error.value.problems) == 11


def test_a_sentence_stands_for_a_text_that_is_not_there(section):
    rows = [{"sentence": "x", "label": "a"}, {"sentence": "y", "label": "b"}]
    assert load_data(section("classification", rows), 0).task.column_names == {"text": "sentence", "label": "label"}


def test_validation_labels_may_be_written_in_another_type(section):
    splits = load_data(section("classification", labelled(0, 1), validation=labelled("1", "0")), 0)
    assert splits.summary["labels"]["validation"] == {"0": 1, "1": 1}


def test_texts_become_ids_and_labels_their_numbers(pairs):
    examples = TASK.encode(table({"text": "the cat sat", "label": "yes"}), pairs, 10)
    assert examples[0].ids["input_ids"] == pairs("the cat sat")["input_ids"]
    assert (examples[0].label, examples[0].length, examples[0].where) == (1, 5, "a.jsonl:1")
    assert "attention_mask" not in examples[0].ids


def test_a_pair_has_token_types_and_is_cut_to_length(pairs):
    rows = [{"text": "the cat sat on the mat", "text_pair": "a dog", "label": label} for label in ("yes", "no")]
    rows[1]["text"] = "the"
    examples = PAIR.encode(table(*rows), pairs, 8)
    assert examples[0].ids["token_type_ids"] == [0] * 5 + [1] * 3
    assert (examples.counts["truncated"], examples.counts["longest"]) == (1, 8)


def test_a_length_without_room_for_the_special_tokens_is_refused(pairs):
    with pytest.raises(DataError, match=r"data\.max_length is 2, too short"):
        PAIR.encode(table({"text": "the cat", "text_pair": "a", "label": "no"}), pairs, 2)


def test_rows_know_their_places_across_chunks(pairs):
    rows = [{"text": "the cat", "label": "no"}] * 5000
    assert [example.row for example in TASK.encode(table(*rows), pairs, 8)] == list(range(5000))


@dataclass(frozen=True)
class Virtual:
    count: int = 2
    first_id: int = 90
    after: int = 1
    infix: int = 0


def test_batches_are_padded_on_the_right_with_virtual_tokens_inside(pairs):
    rows = [{"text": "the cat", "text_pair": "a", "label": "yes"}, {"text": "the", "text_pair": "a", "label": "no"}]
    examples = list(PAIR.encode(table(*rows), pairs, 8))
    plain, batch = PAIR.collate(examples, 0, None), PAIR.collate(examples, 0, Virtual())
    assert batch["labels"].tolist() == [1, 0]
    assert batch["input_ids"][1].tolist() == [2, 90, 91, *plain["input_ids"][1, 1:].tolist()]
    assert plain["input_ids"][1, -1] == 0
    assert batch["attention_mask"].tolist() == [[1] * 8, [1] * 7 + [0]]
    assert batch["token_type_ids"].tolist() == [[0] * 6 + [1, 1], [0] * 5 + [1, 1, 0]]


def test_an_infix_stands_at_the_end_of_a_text_that_nothing_follows(pairs):
    rows = [{"text": "the cat", "text_pair": "a", "label": "yes"}, {"text": "the", "text_pair": "a", "label": "no"}]
    examples = list(PAIR.encode(table(*rows), pairs, 8))
    plain, batch = PAIR.collate(examples, 0, None), PAIR.collate(examples, 0, Virtual(count=3, infix=2))
    first, second = plain["input_ids"].tolist()
    assert batch["input_ids"].tolist() == [[2, 90, *first[1:], 91, 92], [2, 90, *second[1:-1], 91, 92, 0]]
    assert batch["attention_mask"].tolist() == [[1] * 9, [1] * 8 + [0]]


def test_the_loss_is_the_sum_over_rows_and_outcomes_say_each(pairs):
    network = tiny_network("bert", "classification", labels=2)
    rows = [
        {"text": text, "label": label} for text, label in (("the cat", "yes"), ("a dog sat on", "no"), ("log,", "no"))
    ]
    batch = TASK.collate(list(TASK.encode(table(*rows), pairs, 8)), 0, None)
    logits = network(**{key: batch[key] for key in ("input_ids", "attention_mask", "token_type_ids")}).logits
    losses = functional.cross_entropy(logits, torch.tensor([1, 0, 0]), reduction="none")
    torch.testing.assert_close(TASK.loss(network, batch), losses.sum())
    outcomes = TASK.outcomes(network, batch)
    assert [o["loss"] for o in outcomes] == pytest.approx(losses.tolist(), abs=1e-6)
    assert [o["label"] for o in outcomes] == [1, 0, 0]
    assert [o["prediction"] for o in outcomes] == logits.argmax(1).tolist()


def test_a_row_is_described_by_the_names_of_its_labels():
    row = Row({"text": "the cat", "label": "yes"}, "a.jsonl:1")
    told = TASK.describe(row, {"loss": 0.5, "label": 1, "prediction": 0})
    assert told == {"where": "a.jsonl:1", "text": "the cat", "label": "yes", "prediction": "no", "loss": 0.5}


def test_the_manifest_brings_the_task_back(section):
    recipe = section("classification", labelled("b", "a"), max_length=64)
    task = make_task(recipe, load_data(recipe, 0).train)
    assert task_from_manifest(json.loads(json.dumps(task.manifest()))) == task


@pytest.mark.parametrize(
    "change", [{"name": "chess"}, {"labels": ["a"]}, {"labels": None}, {"columns": []}, {"max_length": "8"}]
)
def test_a_damaged_manifest_is_refused(change):
    with pytest.raises(ArtifactError, match="the artifact"):
        task_from_manifest({**TASK.manifest(), **change})
