"""Numbers are read strictly, learned as they are, and measured by correlations and errors."""

import json

import pytest
import torch
from tiny import tiny_network

from peftcli.data.datasets import load_data
from peftcli.data.tables import DataFile, Row, Table
from peftcli.data.tasks import Regression, task_from_manifest
from peftcli.errors import DataError, RecipeError

TASK = Regression(column_names={"text": "text", "label": "label"})
NAN = float("nan")


def table(*labels):
    rows = [Row({"text": "the cat", "label": label}, f"a.jsonl:{n}") for n, label in enumerate(labels, 1)]
    return Table(rows, [DataFile("a.jsonl", "", len(rows))])


@pytest.mark.parametrize("value", [2, 2.0, "2", " 2.0 ", "2e0", -1.5, 0])
def test_numbers_and_their_texts_are_numbers(value):
    assert not TASK.label_problems(table(value))
    assert TASK.label_numbers(table(value).rows) == [float(value)]


@pytest.mark.parametrize(
    ("value", "what"),
    [
        ("good", r"a\.jsonl:2: column 'label' is 'good', not a number, in 1 row"),
        ("1_000", "is '1_000', not a number"),
        ("1,5", "is '1,5', not a number"),
        (True, "is true or false, not a number"),
        ([1], "is a list, not a number"),
        (None, "has no number in 1 row"),
        (" ", "has no number in 1 row"),
        (NAN, "is not finite in 1 row"),
        (float("-inf"), "is not finite"),
        ("nan", "is not finite"),
        ("inf", "is not finite"),
        (10**400, "is not finite"),
        (1e16, r"is greater than 1e\+15 in 1 row"),
    ],
)
def test_what_is_no_number_is_refused_with_its_line(value, what, pairs):
    with pytest.raises(DataError, match=what):
        TASK.encode(table(1.0, value), pairs, 8)


def test_the_lines_of_one_mistake_are_told_together():
    (problem,) = TASK.label_problems(table(NAN, 1.0, NAN))
    assert "in 2 rows (a.jsonl:1, a.jsonl:3)" in str(problem)


def test_csv_has_its_numbers_as_text(tmp_path, section):
    file = tmp_path / "rows.csv"
    file.write_text("text,label\na,1.5\nb,2\n", encoding="utf-8")
    recipe = section("regression", [{"text": "a", "label": 1}]).model_copy(update={"train": str(file)})
    splits = load_data(recipe, 0)
    assert splits.task.label_numbers(splits.train.rows) == [1.5, 2.0]


def test_labels_and_several_labels_mean_nothing_here(section):
    rows = [{"text": "a", "label": 1.0}]
    for settings in ({"labels": ["a", "b"]}, {"multi_label": True}):
        with pytest.raises(RecipeError, match="means nothing for regression"):
            load_data(section("regression", rows, **settings), 0)


def test_the_network_has_one_output():
    settings = TASK.network_settings()
    assert (settings["num_labels"], len(settings["id2label"]), settings["problem_type"]) == (1, 1, "regression")


def test_loss_and_outcomes_are_the_squared_errors(pairs):
    network = tiny_network("bert", "classification", labels=1)
    batch = TASK.collate(list(TASK.encode(table(1.25, -3, "4"), pairs, 8)), 0, None)
    assert batch["labels"].dtype == torch.float32
    found = network(**{key: batch[key] for key in ("input_ids", "attention_mask", "token_type_ids")}).logits[:, 0]
    errors = (found - torch.tensor([1.25, -3.0, 4.0])) ** 2
    torch.testing.assert_close(TASK.loss(network, batch), errors.sum())
    outcomes = TASK.outcomes(network, batch)
    assert [o["loss"] for o in outcomes] == pytest.approx(errors.tolist(), rel=1e-5)
    assert [o["prediction"] for o in outcomes] == pytest.approx(found.tolist(), rel=1e-5)


def test_the_loss_is_computed_in_float32_whatever_the_network_computes_in(pairs):
    network = tiny_network("bert", "classification", labels=1).to(torch.bfloat16)
    batch = TASK.collate(list(TASK.encode(table(1000.5), pairs, 8)), 0, None)
    assert TASK.loss(network, batch).dtype == torch.float32


def test_metrics_and_details_of_numbers():
    found = [(1.0, 2.0), (2.0, 4.0), (3.0, 3.0)]
    outcomes = [{"loss": (a - b) ** 2, "label": a, "prediction": b} for a, b in found]
    metrics = TASK.metrics(outcomes, ["pearson", "spearman", "mse", "mae", "loss"])
    assert metrics["pearson"] == metrics["spearman"] == pytest.approx(0.5)
    assert (metrics["mse"], metrics["mae"], metrics["loss"]) == (pytest.approx(5 / 3), 1.0, pytest.approx(5 / 3))
    assert not TASK.higher_is_better("mse")
    assert not TASK.higher_is_better("loss")
    assert TASK.higher_is_better("pearson")
    assert TASK.signature("loss") == TASK.signature("mse")
    label, prediction = TASK.details(outcomes)["numbers"]
    assert (label["of"], label["mean"], label["least"], label["most"]) == ("label", 2.0, 1.0, 3.0)
    assert (prediction["of"], prediction["mean"]) == ("prediction", 3.0)


def test_a_row_is_described_by_its_numbers():
    told = TASK.describe(Row({"text": "a", "label": "1"}, "a.csv:2"), {"loss": 4.0, "label": 1.0, "prediction": 3.0})
    assert told == {"where": "a.csv:2", "text": "a", "label": 1.0, "prediction": 3.0, "loss": 4.0}


def test_the_manifest_brings_the_task_back():
    assert task_from_manifest(json.loads(json.dumps(TASK.manifest()))) == TASK
