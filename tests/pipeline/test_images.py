"""What holds of a run on text holds of one on images: trained, stored, opened, measured, merged, checked."""

import io
import json

import pytest
import torch
from PIL import Image
from tiny import save_tiny, tasks

from peftcli.errors import BaseModelError, MethodError, PeftcliError
from peftcli.pipeline.checking import check, verify
from peftcli.pipeline.counting import params
from peftcli.pipeline.evaluation import EvaluationRequest, evaluate
from peftcli.pipeline.merging import MergeOptions, merge
from peftcli.pipeline.opening import open_target
from peftcli.pipeline.progress import Silent
from peftcli.pipeline.reading import read
from peftcli.pipeline.training import TrainOptions, train

FAMILIES = ("vit", "deit", "clip")
METHODS = {
    "head": "{name: head}",
    "lora": "{name: lora, rank: 2}",
    "bitfit": "{name: bitfit}",
    "houlsby": "{name: houlsby, bottleneck: 2}",
    "prefix": "{name: prefix, prefix_length: 2}",
    "full": "{name: full}",
}
PROCESSOR = {"image_processor_type": "ViTImageProcessor", "size": {"height": 8, "width": 8}}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A base of every family, and images of two classes in two splits."""
    root = tmp_path_factory.mktemp("images")
    for family in FAMILIES:
        save_tiny(root / family, family, None if None in tasks(family) else "classification")
        (root / family / "preprocessor_config.json").write_text(json.dumps(PROCESSOR))
    for split, count in (("train", 12), ("validation", 6)):
        for number in range(count):
            path = root / "pets" / split / ("bright" if number % 2 else "dark") / f"{number}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.new("L", (9, 7), 140 + 5 * number if number % 2 else 5 * number).save(path)
    return root


def recipe(made, folder, family="vit", method="lora", **data):
    folder.mkdir(exist_ok=True)
    pets = json.dumps(str(made / "pets"))
    given = {"train": pets, "validation": pets, **data}
    (folder / "r.yaml").write_text(f"""version: 1
base: {{name: {json.dumps(str(made / family))}}}
method: {METHODS[method]}
data: {{task: image-classification, {", ".join(f"{k}: {v}" for k, v in given.items())}}}
training: {{steps: 4, batch_size: 4, learning_rate: 1e-2, warmup: 0}}
""")
    return folder / "r.yaml"


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("family", FAMILIES)
def test_a_run_on_images_is_whole(made, tmp_path, family, method):
    path = recipe(made, tmp_path / "recipe", family, method)
    report = train(read(path), TrainOptions(out=tmp_path / "run"), Silent()).report
    counted = params(str(path), [], None, counted=True, budget=None)[0]
    found = report["parameters"]
    assert (counted["delta"], counted["head"], counted["base"]) == (found["delta"], found["head"], found["base"])
    assert report["proofs"]["frozen_tensors_moved"] == 0
    assert report["training"]["tokens"] == report["training"]["examples"] * 4
    assert check(path, [], deep=True)["delta"] == found["delta"]
    assert verify(tmp_path / "run", str(made / family), strict=True)["checks"]
    request = EvaluationRequest(predictions=tmp_path / "said.jsonl")
    measured = evaluate(tmp_path / "run", request, Silent())["metrics"]["delta"]
    assert measured == pytest.approx(report["metrics"]["validation"])
    said = [json.loads(line) for line in (tmp_path / "said.jsonl").read_text().splitlines()]
    assert sorted(line["label"] for line in said) == ["bright"] * 3 + ["dark"] * 3
    assert all(line["image"] == line["where"] for line in said)
    _is_merged_or_refused(tmp_path, measured)


def _is_merged_or_refused(folder, measured):
    if not open_target(folder / "run").artifact.methods[0].mergeable:
        with pytest.raises(MethodError, match="cannot be merged"):
            merge(folder / "run", folder / "merged", MergeOptions(), Silent())
        return
    assert merge(folder / "run", folder / "merged", MergeOptions(), Silent())["check"]["passed"]
    data = json.loads((folder / "run/report.json").read_text())["data"]["files"]["validation"][0]["path"]
    again = evaluate(folder / "merged", EvaluationRequest(data=[data]), Silent())["metrics"]["delta"]
    assert again == pytest.approx(measured, abs=1e-4)


def test_one_seed_repeats_a_run(made, tmp_path):
    path = recipe(made, tmp_path / "recipe")
    for name in ("one", "other"):
        train(read(path), TrainOptions(out=tmp_path / name), Silent())
    one, other = (open_target(tmp_path / name).artifact.tensors() for name in ("one", "other"))
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_rows_of_a_file_are_measured_beside_a_folder(made, tmp_path):
    path = recipe(made, tmp_path / "recipe")
    train(read(path), TrainOptions(out=tmp_path / "run"), Silent())
    from_folder = evaluate(tmp_path / "run", EvaluationRequest(data=[str(made / "pets")]), Silent())
    rows = [
        {"image": f"pets/validation/{label}/{number}.png", "label": label}
        for number, label in enumerate(("dark", "bright") * 3)
    ]
    file = made / "rows.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    from_rows = evaluate(tmp_path / "run", EvaluationRequest(data=[str(file)]), Silent())
    assert from_folder["n"] == from_rows["n"] == 6
    assert from_folder["metrics"]["delta"] == pytest.approx(from_rows["metrics"]["delta"])


def test_a_base_that_reads_text_is_refused_by_check_params_and_train(made, tmp_path):
    save_tiny(tmp_path / "bert", "bert")
    path = recipe(made, tmp_path / "recipe")
    base = [f"base.name={tmp_path / 'bert'}"]
    for use in (
        lambda: check(path, base, deep=True),
        lambda: params(str(path), base, None, counted=False, budget=None),
        lambda: train(read(path, base), TrainOptions(out=tmp_path / "run"), Silent()),
    ):
        with pytest.raises(BaseModelError, match="bert reads text, and the task gives images"):
            use()
    assert not (tmp_path / "run").exists()


def test_an_image_that_cannot_be_read_ends_a_run_before_it_begins(made, tmp_path):
    content = io.BytesIO()
    Image.effect_noise((40, 40), 50).save(content, "PNG")
    broken = tmp_path / "pets/dark/1.png"
    broken.parent.mkdir(parents=True)
    broken.write_bytes(content.getvalue()[:300])
    (tmp_path / "pets/bright").mkdir()
    (tmp_path / "pets/bright/2.png").write_bytes(content.getvalue())
    path = recipe(made, tmp_path / "recipe", train=json.dumps(str(tmp_path / "pets")), validation="null")
    with pytest.raises(PeftcliError, match=r"dark/1\.png: the image cannot be read"):
        train(read(path), TrainOptions(out=tmp_path / "run"), Silent())
    assert not (tmp_path / "run").exists()
