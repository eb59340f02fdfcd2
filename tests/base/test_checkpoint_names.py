import pytest
from safetensors import safe_open
from tiny import FAMILIES, LABELS, label_count, save_tiny, tasks, tiny_config

from peftcli.base.anatomy import Anatomy
from peftcli.base.checkpoint_names import map_names


def _stored(folder):
    with safe_open(folder / "model.safetensors", "pt") as file:
        return {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118


@pytest.mark.parametrize(("family", "task"), [(f, t) for f in FAMILIES for t in tasks(f)])
def test_every_tensor_on_disk_is_found_in_the_anatomy(tmp_path, family, task):
    anatomy = Anatomy.of(tiny_config(family), task=task, labels=label_count(task))
    stored = _stored(save_tiny(tmp_path, family, task))
    mapped = map_names(stored, anatomy)
    shapes = {t.path: t.shape for t in (*anatomy.tensors, *anatomy.head_tensors)}
    buffers = {"final_logits_bias"} & stored.keys()  # of BART: no parameter
    assert {mapped[n]: s for n, s in stored.items() if n not in buffers} == shapes
    assert not [mapped[n] for n in buffers if mapped[n]]
    assert len(set(mapped.values())) == len(mapped)


@pytest.mark.parametrize("family", [f for f in FAMILIES if None in tasks(f) and "classification" in tasks(f)])
def test_a_bare_backbone_on_disk_is_found_for_a_classifier(tmp_path, family):
    anatomy = Anatomy.of(tiny_config(family), task="classification", labels=LABELS)
    mapped = map_names(_stored(save_tiny(tmp_path, family)), anatomy)
    assert {t.path for t in anatomy.tensors} <= set(mapped.values())


@pytest.mark.parametrize(
    ("family", "name", "path"),
    [
        ("bert", "bert.embeddings.LayerNorm.gamma", "embeddings.LayerNorm.weight"),
        ("bert", "bert.encoder.layer.1.output.LayerNorm.beta", "encoder.layer.1.output.LayerNorm.bias"),
        ("vit", "vit.encoder.layer.1.attention.attention.query.weight", "layers.1.attention.q_proj.weight"),
        ("vit", "encoder.layer.0.attention.output.dense.bias", "layers.0.attention.o_proj.bias"),
        ("deit", "deit.encoder.layer.0.output.dense.weight", "layers.0.mlp.fc2.weight"),
        ("opt", "model.decoder.layers.0.fc1.weight", "layers.0.fc1.weight"),
        ("opt", "decoder.layers.0.fc1.weight", "layers.0.fc1.weight"),
        ("clip_vision_model", "vision_model.pre_layrnorm.bias", "pre_layrnorm.bias"),
        ("t5", "encoder.embed_tokens.weight", "shared.weight"),
        ("bart", "model.decoder.embed_tokens.weight", "shared.weight"),
        ("gpt2", "lm_head.weight", "wte.weight"),
        ("gpt2", "h.0.attn.bias", None),
        ("bert", "cls.seq_relationship.weight", None),
    ],
)
def test_names_of_other_times_and_places_are_understood(family, name, path):
    assert map_names([name], Anatomy.of(tiny_config(family))) == {name: path}


def test_an_untied_output_projection_is_its_own_tensor():
    anatomy = Anatomy.of(tiny_config("llama"), task="causal-lm")
    assert map_names(["lm_head.weight"], anatomy) == {"lm_head.weight": "^lm_head.weight"}
