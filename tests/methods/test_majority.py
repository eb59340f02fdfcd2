"""The majority class: log (n_c + 1) / (n + classes) for every row."""

import math

import pytest
from untrained_runs import ROWS, recipe, run, save_base

from peftcli.delta.registry import find
from peftcli.errors import MethodError, RecipeError
from peftcli.pipeline.evaluation import EvaluationRequest, evaluate
from peftcli.pipeline.progress import Silent


def test_it_answers_with_the_most_frequent_training_label(tmp_path):
    finished = run(recipe(tmp_path, save_base(tmp_path / "base", "bert", None), {"name": "majority"}))
    found = finished.report["metrics"]["validation"]
    # 4 of 7 training rows are pos, and 3 of the 5 validation rows.
    assert found["accuracy"] == pytest.approx(3 / 5)
    assert found["loss"] == pytest.approx(-(3 * math.log(5 / 9) + 2 * math.log(4 / 9)) / 5, rel=1e-6)
    assert finished.report["metrics"]["base"] is None
    assert finished.report["parameters"]["delta"] == finished.report["parameters"]["head"] == 0
    assert finished.report["training"]["steps"] == 0


def test_what_it_learned_is_there_again_when_the_run_is_opened(tmp_path):
    finished = run(recipe(tmp_path, save_base(tmp_path / "base", "bert", None), {"name": "majority"}))
    again = evaluate(finished.folder, EvaluationRequest(predictions=tmp_path / "said.jsonl"), Silent())
    assert again["metrics"]["delta"] == finished.report["metrics"]["validation"]
    assert again["metrics"]["base"] is None
    assert all('"prediction": "pos"' in line for line in (tmp_path / "said.jsonl").read_text().splitlines())


def test_of_numbers_it_answers_with_the_mean(tmp_path):
    rows = [{"text": row["text"], "label": float(n)} for n, row in enumerate(ROWS)]
    base = save_base(tmp_path / "base", "bert", None)
    path = recipe(tmp_path, base, {"name": "majority"}, rows, task="regression")
    found = run(path).report["metrics"]["validation"]
    assert found["mse"] == pytest.approx(sum((n - 3) ** 2 for n in range(2, 7)) / 5)


def test_where_any_number_of_labels_fits_each_is_decided_by_itself(tmp_path):
    labels = [["a", "b"]] * 5 + [["b"], []]
    rows = [{"text": row["text"], "label": label} for row, label in zip(ROWS, labels, strict=True)]
    base = save_base(tmp_path / "base", "bert", None)
    path = recipe(tmp_path, base, {"name": "majority"}, rows, multi_label=True)
    report = run(path).report
    # a stands in 5 of 7 rows and b in 6: both are predicted, and right for 3 of the 5 validation rows.
    assert report["metrics"]["validation"]["accuracy"] == pytest.approx(3 / 5)


def test_it_refuses_a_task_without_one_answer_per_row_and_a_stack(tmp_path):
    rows = [{"prompt": "a film", "completion": "good"}] * 4
    base = save_base(tmp_path / "base")
    path = recipe(tmp_path, base, {"name": "majority"}, rows, task="causal-lm")
    with pytest.raises(MethodError, match="has no answer to causal-lm"):
        run(path)
    path = recipe(tmp_path, base, [{"name": "majority"}, {"name": "lora"}])
    with pytest.raises(RecipeError, match="cannot stand in a stack"):
        run(path)
    assert not (tmp_path / "run").exists()


def test_it_trains_nothing():
    assert not find("majority").trains
