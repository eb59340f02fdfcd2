"""Images stay where they are until a batch needs them; what cannot be used is named with its place."""

import io
import json
import tracemalloc

import numpy as np
import pyarrow
import pytest
import torch
from PIL import Image
from pyarrow import parquet
from tiny import tiny_network

from peftcli.data.batches import evaluation_batches
from peftcli.data.datasets import load_data
from peftcli.data.rows import read_rows
from peftcli.data.tasks import ImageClassification, make_task, task_from_manifest
from peftcli.errors import DataError, RecipeError
from peftcli.recipe.recipe import DataSection

TASK = ImageClassification(column_names={"image": "image", "label": "label"}, labels=("cat", "dog"))


class Reader:
    """Reads as a vision encoder of 8 x 8 pixels would, without transformers."""

    mode = "RGB"
    tokens = 4

    def __call__(self, images):
        scaled = [np.asarray(image.resize((8, 8)), dtype=np.float32).transpose(2, 0, 1) / 255 for image in images]
        return torch.from_numpy(np.stack(scaled))


def png(shade, size=(5, 4)):
    file = io.BytesIO()
    Image.new("L", size, shade).save(file, "PNG")
    return file.getvalue()


@pytest.fixture
def pets(tmp_path):
    """Four images in a folder for each class."""
    for number in range(8):
        path = tmp_path / "pets" / ("cat" if number % 2 else "dog") / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(png(30 * number, (4 + number, 5)))
    return tmp_path / "pets"


def section(train, **settings):
    return DataSection(task="image-classification", train=str(train), **settings)


def test_a_folder_has_its_labels_and_shares_by_class(pets):
    splits = load_data(section(pets, validation="25%"), 0)
    assert splits.task.labels == ("cat", "dog")
    assert splits.summary["labels"] == {"train": {"cat": 3, "dog": 3}, "validation": {"cat": 1, "dog": 1}}


def test_rows_name_images_beside_their_own_file(pets, tmp_path, monkeypatch):
    rows = [{"image": "dog/0.png", "label": "dog"}, {"image": str(pets / "cat/1.png"), "label": "cat"}]
    (pets / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (pets / "rows.csv").write_text("image,label\ndog/0.png,dog\ncat/1.png,cat\n")
    for place, source in ((tmp_path, "pets/rows.jsonl"), (pets, "rows.csv"), (tmp_path, str(pets / "rows.csv"))):
        monkeypatch.chdir(place)
        examples = TASK.encode(read_rows(source), Reader(), 512)
        assert [example.label for example in examples] == [1, 0]
        assert TASK.collate(list(examples), 0, None)["pixel_values"].shape == (2, 3, 8, 8)


def test_parquet_holds_images_as_the_datasets_library_writes_them(pets, tmp_path):
    images = [{"bytes": png(200), "path": None}, {"bytes": None, "path": str(pets / "cat/1.png")}]
    parquet.write_table(pyarrow.table({"img": images, "label": [1, 0]}), tmp_path / "a.parquet")
    recipe = section(tmp_path / "a.parquet")
    splits = load_data(recipe, 0)
    assert splits.task.labels == ("0", "1")
    assert splits.task.column_names["image"] == "img"
    batch = splits.task.collate(list(splits.task.encode(splits.train, Reader(), 512)), 0, None)
    assert batch["labels"].tolist() == [1, 0]
    assert batch["pixel_values"][0].mean() == pytest.approx(200 / 255)
    told = splits.task.describe(splits.train.rows[0], {"label": 1, "prediction": 0, "loss": 0.5})
    assert told == {
        "where": splits.train.rows[0].where, "image": None, "label": "1", "prediction": "0", "loss": 0.5,
    }  # fmt: skip


def test_the_datasets_librarys_own_files_can_be_read(pets, tmp_path):
    from datasets import ClassLabel, Dataset, Features
    from datasets import Image as ImageFeature

    features = Features({"image": ImageFeature(), "label": ClassLabel(names=["dog", "cat"])})
    paths = [str(pets / "cat/1.png"), str(pets / "dog/0.png")]
    dataset = Dataset.from_dict({"image": paths, "label": [1, 0]}, features=features)
    dataset.to_parquet(tmp_path / "a.parquet")
    splits = load_data(section(tmp_path / "a.parquet"), 0)
    assert splits.task.labels == ("cat", "dog")
    examples = splits.task.encode(splits.train, Reader(), 512)
    expected = TASK.encode(read_rows(str(pets)), Reader(), 512)
    found = splits.task.collate(list(examples), 0, None)["pixel_values"]
    assert torch.equal(found[0], TASK.collate([expected[0]], 0, None)["pixel_values"][0])


@pytest.mark.parametrize(
    ("image", "what"),
    [
        (None, "has no image in 1 row"),
        ("", "has no image in 1 row"),
        (7, "is a whole number, not an image"),
        ({}, "is an object, not an image"),
        ("dog/nothing.png", "names no file in 1 row"),
        ("dog", "names no file in 1 row"),
        ("dog/\0.png", "names no file in 1 row"),
    ],
)
def test_a_row_without_an_image_is_named(pets, image, what):
    rows = [{"image": "dog/0.png", "label": "dog"}, {"image": image, "label": "cat"}]
    (pets / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pytest.raises(DataError, match=what) as caught:
        load_data(section(pets / "rows.jsonl"), 0)
    assert caught.value.problems[0].where.endswith("rows.jsonl:2")


def test_every_image_that_cannot_be_read_is_named_before_a_run(pets):
    for number in (0, 3):
        next(pets.glob(f"*/{number}.png")).write_bytes(png(10)[:-20])
    splits = load_data(section(pets), 0)
    with pytest.raises(DataError) as caught:
        splits.task.encode(splits.train, Reader(), 512)
    assert sorted(problem.where[-9:] for problem in caught.value.problems) == ["cat/3.png", "dog/0.png"]


def test_an_image_that_goes_away_meanwhile_is_named(pets):
    splits = load_data(section(pets), 0)
    examples = list(splits.task.encode(splits.train, Reader(), 512))
    (pets / "cat/1.png").unlink()
    with pytest.raises(DataError, match=r"cat/1\.png: the image cannot be read: No such file"):
        splits.task.collate(examples, 0, None)


def test_equal_images_are_counted_whatever_they_are_called(pets, tmp_path):
    (tmp_path / "other/cat").mkdir(parents=True)
    (tmp_path / "other/cat/copy.png").write_bytes((pets / "cat/1.png").read_bytes())
    (pets / "dog/again.png").write_bytes((pets / "dog/0.png").read_bytes())
    summary = load_data(section(pets, validation=str(tmp_path / "other")), 0).summary
    assert (summary["duplicates"]["train"], summary["overlap"]) == (1, {"validation": 1})


def test_a_length_means_nothing_for_images(pets):
    with pytest.raises(RecipeError, match=r"data\.max_length means nothing"):
        load_data(section(pets, max_length=8), 0)


def test_the_loss_and_the_outcomes_are_those_of_the_networks_logits(pets):
    network = tiny_network("vit", "classification", labels=2)
    examples = list(TASK.encode(read_rows(str(pets)), Reader(), 512))
    batch = TASK.collate(examples, 0, None)
    logits = network(pixel_values=batch["pixel_values"]).logits
    losses = torch.nn.functional.cross_entropy(logits, batch["labels"], reduction="none")
    torch.testing.assert_close(TASK.loss(network, batch), losses.sum())
    outcomes = TASK.outcomes(network, batch)
    assert [o["prediction"] for o in outcomes] == logits.argmax(1).tolist()
    assert TASK.metrics(outcomes, None).keys() == {"accuracy", "f1", "loss"}


def test_batches_are_the_same_each_time(pets):
    examples = TASK.encode(read_rows(str(pets)), Reader(), 512)
    one, other = (list(evaluation_batches(examples, TASK, batch_size=3, pad=0)) for _ in range(2))
    assert [indices for indices, _ in one] == [[0, 1, 2], [3, 4, 5], [6, 7]]
    assert all(torch.equal(a[key], b[key]) for (_, a), (_, b) in zip(one, other, strict=True) for key in a)


def test_it_is_told_how_large_the_images_are(pets):
    examples = TASK.encode(read_rows(str(pets)), Reader(), 512)
    assert TASK.told(examples) == "images 4 to 11 pixels wide, 5 high, each cut into 4 patches"


def test_the_manifest_brings_the_task_back(pets):
    recipe = section(pets)
    task = make_task(recipe, load_data(recipe, 0).train)
    assert task_from_manifest(json.loads(json.dumps(task.manifest()))) == task


def _peak(folder, count):
    """Return the memory that looking at ``count`` large images and going through them once takes at most."""
    for number in range(count):
        path = folder / ("cat" if number % 2 else "dog") / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(png(number % 256, (512, 512)))
    tracemalloc.start()
    examples = TASK.encode(read_rows(str(folder)), Reader(), 512)
    for _, batch in evaluation_batches(examples, TASK, batch_size=4, pad=0):
        assert batch["pixel_values"].shape[1:] == (3, 8, 8)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return peak


def test_memory_does_not_grow_with_the_pixels_of_a_data_set(tmp_path):
    _peak(tmp_path / "warm", 4)
    few, many = _peak(tmp_path / "few", 8), _peak(tmp_path / "many", 80)
    assert many - few < 72 * 4096  # what is noted of an image, a tenth of a per cent of its 0.8 MB
