"""Base models that are quantised while they are read."""

import importlib.util
import json

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny import save_tiny, tiny_batch

from peftcli.base.loading import load_base
from peftcli.base.source import find_source
from peftcli.errors import BaseModelError, ResourceError

pytest.importorskip("bitsandbytes", reason="the engine is an extra")


def _load(folder, task="causal-lm", *, quantise="nf4", dtype="auto"):
    classes = {"causal-lm": "AutoModelForCausalLM", "classification": "AutoModelForSequenceClassification"}
    return load_base(
        find_source(str(folder)),
        task_class=classes[task],
        settings={} if task == "causal-lm" else {"num_labels": 3},
        dtype=dtype,
        new_head=task == "classification",
        seed=0,
        quantise=quantise,
    )


@pytest.mark.parametrize("form", ["nf4", "int8"])
@pytest.mark.parametrize("family", ["llama", "gpt2", "falcon", "bert", "t5", "phi3"])
def test_a_checkpoint_is_read_as_ever_but_for_its_projections(tmp_path, family, form):
    task = "causal-lm" if family in ("llama", "gpt2", "falcon") else "classification"
    folder = save_tiny(tmp_path, family, task if task == "causal-lm" else None)
    base, plain = _load(folder, task, quantise=form), _load(folder, task, quantise="none")
    assert base.quantised.keys() | base.parameters.keys() == plain.parameters.keys()
    assert base.head == plain.head
    assert all(torch.equal(p, plain.parameters[n]) for n, p in base.parameters.items())
    assert base.size == plain.size
    assert base.bytes < plain.bytes
    batch = tiny_batch(family)
    with torch.no_grad():
        changed = (base.network(**batch).logits - plain.network(**batch).logits).abs().max()
        for name, layer in base.quantised.items():
            plain.parameters[name].copy_(layer.weight)
        assert float((base.network(**batch).logits - plain.network(**batch).logits).abs().max()) < 1e-5
    assert float(changed) > 1e-5
    assert not hasattr(base.network, "hf_quantizer")
    assert not hasattr(base.network.config, "quantization_config")


def test_a_config_that_names_no_type_gets_that_of_the_checkpoint(tmp_path):
    folder = save_tiny(tmp_path, "llama", "causal-lm")
    config = json.loads((folder / "config.json").read_text())
    del config["dtype"]
    (folder / "config.json").write_text(json.dumps(config))
    path = folder / "model.safetensors"
    save_file({n: t.bfloat16() for n, t in load_file(path).items()}, path, metadata={"format": "pt"})
    assert {p.dtype for p in _load(folder).parameters.values()} == {torch.bfloat16}


def test_the_type_of_the_rest_is_chosen_as_ever(tmp_path):
    base = _load(save_tiny(tmp_path, "llama", "causal-lm"), dtype="bfloat16")
    assert {p.dtype for p in base.parameters.values()} == {torch.bfloat16}
    assert {layer.weight.dtype for layer in base.quantised.values()} == {torch.bfloat16}


@pytest.mark.parametrize("number", [float("nan"), float("inf")])
@pytest.mark.parametrize("form", ["nf4", "int8"])
def test_a_number_that_is_not_finite_is_found_in_a_packed_weight_too(tmp_path, form, number):
    path = save_tiny(tmp_path, "llama", "causal-lm") / "model.safetensors"
    tensors = load_file(path)
    tensors["model.layers.1.mlp.up_proj.weight"][3, 2] = number
    save_file(tensors, path, metadata={"format": "pt"})
    with pytest.raises(BaseModelError, match=r"not finite .*up_proj"):
        _load(tmp_path, quantise=form)


def test_a_projection_that_is_missing_or_misshapen_is_refused(tmp_path):
    path = save_tiny(tmp_path, "llama", "causal-lm") / "model.safetensors"
    tensors = load_file(path)
    weight = tensors.pop("model.layers.1.mlp.up_proj.weight")
    save_file(tensors, path, metadata={"format": "pt"})
    with pytest.raises(BaseModelError, match=r"1 missing .*up_proj"):
        _load(tmp_path)
    save_file({**tensors, "model.layers.1.mlp.up_proj.weight": weight[:-1].clone()}, path, metadata={"format": "pt"})
    with pytest.raises(BaseModelError, match=r"another shape.*up_proj"):
        _load(tmp_path)


def test_without_the_engine_there_is_one_sentence_and_nothing_is_read(tmp_path, monkeypatch):
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "bitsandbytes" else found(name))
    source = find_source(str(save_tiny(tmp_path, "llama", "causal-lm")))
    (tmp_path / "config.json").unlink()
    with pytest.raises(ResourceError, match="nf4 needs the package bitsandbytes") as caught:
        load_base(source, task_class="", settings={}, dtype="auto", new_head=False, seed=0, quantise="nf4")
    assert "pip install 'peftcli[quantise]'" in str(caught.value.problems[0].hint)
