"""Images are read as the base model's own processor says, and only where that fits the network."""

import json

import pytest
import torch
from PIL import Image
from tiny import FAMILIES, save_tiny, tiny_config

from peftcli.base.image_reader import load_image_reader
from peftcli.base.networks import anatomy_for
from peftcli.base.source import find_source
from peftcli.errors import BaseModelError

IMAGES = "AutoModelForImageClassification"
VIT = {"image_processor_type": "ViTImageProcessor", "size": {"height": 8, "width": 8}}


def reader(folder, processor, family="vit", name="preprocessor_config.json", **config):
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps({**tiny_config(family), **config}))
    (folder / "model.safetensors").write_bytes(b"")
    if processor is not None:
        (folder / name).write_text(processor if isinstance(processor, str) else json.dumps(processor))
    anatomy = anatomy_for({**tiny_config(family), **config}, IMAGES, 2)
    return load_image_reader(find_source(str(folder)), anatomy)


def test_pixels_are_scaled_and_normalised_as_the_processor_says(tmp_path):
    half = {**VIT, "image_mean": [0.5, 0.5, 0.5], "image_std": [0.25, 0.5, 1.0]}
    read = reader(tmp_path, half)
    pixels = read([Image.new("RGB", (20, 9), (255, 0, 51)), Image.new("RGB", (3, 30))])
    assert pixels.dtype == torch.float32
    assert pixels.shape == (2, 3, 8, 8)
    torch.testing.assert_close(pixels[0, :, 4, 4], torch.tensor([2.0, -1.0, -0.3]))
    assert (read.mode, read.tokens) == ("RGB", 4)


@pytest.mark.parametrize(
    ("family", "processor"),
    [
        ("vit", {"feature_extractor_type": "ViTFeatureExtractor", "size": 8}),
        ("vit", {"image_processor_type": "ViTImageProcessorFast", "size": {"height": 8, "width": 8}}),
        ("deit", {"image_processor_type": "DeiTImageProcessor", "size": 10, "crop_size": 8}),
        ("clip", {"image_processor_type": "CLIPImageProcessor", "size": {"shortest_edge": 8}, "crop_size": 8}),
    ],
)
def test_processors_of_other_times_and_families_are_understood(tmp_path, family, processor):
    assert reader(tmp_path, processor, family)([Image.new("RGB", (20, 9))]).shape == (1, 3, 8, 8)


def test_a_base_of_one_channel_reads_grey(tmp_path):
    grey = {**VIT, "image_mean": [0.5], "image_std": [0.5]}
    read = reader(tmp_path, grey, num_channels=1)
    assert read.mode == "L"
    assert read([Image.new("L", (9, 9), 255)]).eq(1).all()


@pytest.mark.parametrize(
    ("processor", "what"),
    [
        (None, "there is no preprocessor_config.json"),
        ({**VIT, "size": {"height": 16, "width": 16}}, r"makes images of 3 x 16 x 16 .* reads images of 3 x 8 x 8"),
        ({**VIT, "do_resize": False}, r"makes images of 3 x 32 x 48"),
        ("{", "cannot be loaded"),
        ({"image_processor_type": "NoSuchProcessor"}, "cannot be loaded"),
        ({"image_processor_type": "ViTImageProcessor", "size": {"height": "x"}}, "cannot be loaded"),
    ],
)
def test_a_processor_that_does_not_fit_is_refused(tmp_path, processor, what):
    with pytest.raises(BaseModelError, match=what):
        reader(tmp_path, processor)


def test_code_beside_a_processor_is_not_run(tmp_path):
    (tmp_path / "own.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\nclass Own: ...\n")
    with pytest.raises(BaseModelError):
        reader(tmp_path, {"image_processor_type": "Own", "auto_map": {"AutoImageProcessor": "own.Own"}})
    assert not (tmp_path / "ran").exists()


def test_nothing_is_said_while_a_processor_is_loaded(tmp_path, capfd):
    reader(tmp_path, VIT)([Image.new("RGB", (9, 9))])
    assert capfd.readouterr() == ("", "")


def test_text_and_images_are_not_mixed_up():
    with pytest.raises(BaseModelError, match="bert reads text, and the task gives images"):
        anatomy_for(FAMILIES["bert"], IMAGES)
    with pytest.raises(BaseModelError, match="vit reads images, and the task gives text"):
        anatomy_for(FAMILIES["vit"], "AutoModelForSequenceClassification")
    with pytest.raises(BaseModelError, match="has no head"):
        anatomy_for(FAMILIES["clip_vision_model"], IMAGES)


def test_a_taught_deit_has_both_its_heads(tmp_path):
    from transformers import DeiTConfig, DeiTForImageClassificationWithTeacher

    from peftcli.base.loading import load_base

    config = {name: value for name, value in tiny_config("deit").items() if name != "model_type"}
    DeiTForImageClassificationWithTeacher(DeiTConfig(**config, num_labels=2)).save_pretrained(tmp_path)
    settings = {"num_labels": 3}
    source = find_source(str(tmp_path))
    base = load_base(source, task_class=IMAGES, settings=settings, dtype="auto", new_head=True, seed=0)
    assert base.head_size == base.anatomy.head_size == 2 * (3 * 16 + 3)


@pytest.mark.parametrize("family", ["vit", "deit"])
def test_a_backbone_gets_a_head(tmp_path, family):
    from peftcli.base.loading import load_base

    source = find_source(str(save_tiny(tmp_path, family)))
    base = load_base(source, task_class=IMAGES, settings={"num_labels": 3}, dtype="auto", new_head=True, seed=0)
    assert base.head_size == base.anatomy.head_size == 3 * 16 + 3
