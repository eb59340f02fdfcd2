"""A run whose head reads the mean: measured again from its artifact, and never written where nobody would know."""

import json

import pytest
from untrained_runs import recipe, run, save_base

from peftcli.artifact.artifact import open_artifact
from peftcli.data.tasks import task_from_manifest
from peftcli.errors import ArtifactError, MethodError
from peftcli.pipeline.checking import check
from peftcli.pipeline.evaluation import EvaluationRequest, evaluate
from peftcli.pipeline.exporting import export
from peftcli.pipeline.merging import MergeOptions, merge
from peftcli.pipeline.progress import Silent


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return save_base(tmp_path_factory.mktemp("base"), "bert", None)


@pytest.fixture(scope="module")
def runs(base, tmp_path_factory):
    def trained(pooling: str):
        folder = tmp_path_factory.mktemp(pooling)
        path = recipe(folder, base, {"name": "lora", "rank": 2}, pooling=pooling)
        return run(path, "training.epochs=1", "training.batch_size=4", "training.learning_rate=1e-2")

    return {pooling: trained(pooling) for pooling in ("base", "mean")}


def test_the_pooling_is_part_of_the_artifact(runs):
    for pooling, finished in runs.items():
        manifest = open_artifact(finished.folder).manifest.task
        assert manifest["pooling"] == pooling
        again = evaluate(finished.folder, EvaluationRequest(), Silent())
        assert again["metrics"]["delta"]["loss"] == finished.report["metrics"]["validation"]["loss"]
    losses = {pooling: one.report["metrics"]["validation"]["loss"] for pooling, one in runs.items()}
    assert losses["base"] != losses["mean"]


def test_deltas_from_before_pooling_was_a_choice_read_as_the_base_does(runs):
    manifest = json.loads(json.dumps(open_artifact(runs["base"].folder).manifest.task))
    del manifest["pooling"]
    assert task_from_manifest(manifest).pooling == "base"
    with pytest.raises(ArtifactError, match="pooling 'most'"):
        task_from_manifest(manifest | {"pooling": "most"})


def test_a_check_finds_that_there_is_nothing_to_pool(tmp_path):
    path = recipe(tmp_path, save_base(tmp_path / "base", "t5", None), {"name": "lora"}, pooling="mean")
    with pytest.raises(MethodError, match="in its encoder and in its decoder"):
        check(path, [], deep=True)
    assert "method" in check(path, ["data.pooling=base"], deep=True)["checks"]


@pytest.mark.parametrize("partial", [False, True])
def test_no_plain_model_is_made_of_it(runs, tmp_path, partial):
    with pytest.raises(MethodError, match=r"data\.pooling"):
        merge(runs["mean"].folder, tmp_path / "merged", MergeOptions(partial=partial), Silent())
    assert not (tmp_path / "merged").exists()
    assert merge(runs["base"].folder, tmp_path / "merged", MergeOptions(), Silent())["check"]["passed"]


@pytest.mark.parametrize("form", ["peft", "portable"])
def test_no_other_tool_gets_it(runs, tmp_path, form):
    with pytest.raises(MethodError, match="reads the mean") as raised:
        export(runs["mean"].folder, tmp_path / "out", form)
    assert "merge" not in str(raised.value.problems[0].hint)


@pytest.mark.parametrize("method", ["probe", "zero_shot"])
def test_a_method_without_a_trained_head_has_nothing_to_pool(base, tmp_path, method):
    with pytest.raises(MethodError, match=r"data\.pooling=mean"):
        run(recipe(tmp_path, base, {"name": method}, pooling="mean"))
