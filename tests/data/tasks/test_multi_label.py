"""Any number of labels for a row: read from lists and texts, each decided by itself."""

import json

import pytest
import torch
from tiny import tiny_network
from torch.nn import functional

from peftcli.data.datasets import load_data
from peftcli.data.tables import DataFile, Row, Table
from peftcli.data.tasks import Classification, MultiLabel, task_from_manifest
from peftcli.errors import DataError, RecipeError

TASK = MultiLabel(column_names={"text": "text", "label": "label"}, labels=("a", "b", "c"))


def table(*labels):
    rows = [Row({"text": "the cat", "label": label}, f"a.jsonl:{n}") for n, label in enumerate(labels, 1)]
    return Table(rows, [DataFile("a.jsonl", "", len(rows))])


def rows(*labels):
    return [{"text": f"text {n}", "label": label} for n, label in enumerate(labels)]


def loaded(section, *labels, **settings):
    return load_data(section("classification", rows(*labels), multi_label=True, **settings), 0)


@pytest.mark.parametrize(
    ("labels", "expected"),
    [
        ((["b", "a"], [], ["c"]), ("a", "b", "c")),
        (("b; a", "", "c"), ("a", "b", "c")),
        (([10, 2], [1]), ("1", "2", "10")),
        ((["x;y"], ["z"]), ("x;y", "z")),
    ],
)
def test_labels_are_those_of_the_training_rows(labels, expected, section):
    splits = loaded(section, *labels)
    assert type(splits.task) is MultiLabel
    assert splits.task.labels == expected
    assert splits.task.network_settings()["problem_type"] == "multi_label_classification"


def test_without_the_key_a_row_has_one_label(section):
    assert type(load_data(section("classification", rows("a;b", "c")), 0).task) is Classification


@pytest.mark.parametrize(
    ("labels", "settings", "what"),
    [
        ((["a"], ["b"], None), {}, r"train\.jsonl:3: column 'label' has no labels in 1 row"),
        ((["a"], ["b", None]), {}, "has a label that is no text or whole number in 1 row"),
        ((["a"], ["b", 1.5]), {}, "has a label that is no text or whole number"),
        (("a", "b;;c"), {}, "has an empty label in 1 row"),
        ((["a"], ["b", "b"]), {}, r"train\.jsonl:2: column 'label' names 'b' twice"),
        (("['a', 'b']", "a"), {}, "is a list written as text"),
        ((1, 2), {}, "is a whole number, not labels, in 2 rows"),
        ((["a"], "b"), {}, "is a list in .*:1 but text in .*:2"),
        ((["a"], ["a"]), {}, "holds 1 label: a"),
        ((["a", "b"], ["c"]), {"labels": ["a", "b"]}, r"label 'c' is unknown in 1 row \(train\.jsonl:2\)"),
        ((["a"], ["b"]), {"validation": rows(["a", "x"])}, r"validation\.jsonl:1: label 'x' is unknown"),
    ],
)
def test_rows_that_do_not_fit_are_refused(labels, settings, what, section):
    with pytest.raises(DataError, match=what):
        loaded(section, *labels, **settings)


def test_it_means_nothing_for_other_tasks(section):
    with pytest.raises(RecipeError, match=r"data\.multi_label means nothing for causal-lm"):
        load_data(section("causal-lm", [{"completion": "a"}], multi_label=True), 0)


def test_a_share_has_as_much_of_each_set_and_labels_are_counted_one_by_one(section):
    splits = loaded(section, *[["a", "b"]] * 20, *[["b", "a"]] * 20, *[[]] * 40, validation="25%")
    assert splits.summary["labels"] == {"train": {"a": 30, "b": 30}, "validation": {"a": 10, "b": 10}}
    assert splits.summary["rows"] == {"train": 60, "validation": 20}


def test_loss_and_outcomes_are_those_of_each_decision(pairs):
    network = tiny_network("bert", "classification", labels=3)
    batch = TASK.collate(list(TASK.encode(table(["c", "a"], [], ["b"]), pairs, 8)), 0, None)
    targets = torch.tensor([[1.0, 0, 1], [0, 0, 0], [0, 1, 0]])
    assert torch.equal(batch["labels"], targets)
    logits = network(**{key: batch[key] for key in ("input_ids", "attention_mask", "token_type_ids")}).logits
    losses = -(targets * functional.logsigmoid(logits) + (1 - targets) * functional.logsigmoid(-logits)).sum(1)
    torch.testing.assert_close(TASK.loss(network, batch), losses.sum())
    outcomes = TASK.outcomes(network, batch)
    assert [o["loss"] for o in outcomes] == pytest.approx(losses.tolist(), rel=1e-5)
    assert [o["label"] for o in outcomes] == [[0, 2], [], [1]]
    assert [o["prediction"] for o in outcomes] == [[n for n in range(3) if row[n] > 0] for row in logits.tolist()]


def test_metrics_and_the_table_of_labels():
    outcomes = [
        {"loss": 1.0, "label": [0, 2], "prediction": [0]},
        {"loss": 2.0, "label": [], "prediction": []},
        {"loss": 3.0, "label": [1], "prediction": [1, 2]},
    ]
    metrics = TASK.metrics(outcomes, ["f1", "f1_micro", "accuracy", "hamming", "f1_samples", "loss"])
    assert metrics == {
        "f1": pytest.approx(2 / 3),
        "f1_micro": pytest.approx(4 / 6),
        "accuracy": pytest.approx(1 / 3),
        "hamming": pytest.approx(2 / 9),
        "f1_samples": pytest.approx((2 / 3 + 1 + 2 / 3) / 3),
        "loss": 2.0,
    }
    table_of_labels = TASK.details(outcomes)["classes"]
    assert [row["label"] for row in table_of_labels] == ["a", "b", "c"]
    assert table_of_labels[2] == {"label": "c", "n": 1, "precision": 0.0, "recall": 0.0, "f1": 0.0}
    assert "summed over labels" in TASK.signature("loss")


def test_a_row_is_described_by_the_names_of_its_labels():
    outcome = {"loss": 0.5, "label": [0, 2], "prediction": []}
    told = TASK.describe(Row({"text": "x", "label": "a;c"}, "a.csv:2"), outcome)
    assert told == {"where": "a.csv:2", "text": "x", "label": ["a", "c"], "prediction": [], "loss": 0.5}


def test_the_manifest_brings_the_task_back():
    assert task_from_manifest(json.loads(json.dumps(TASK.manifest()))) == TASK
