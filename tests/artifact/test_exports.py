"""Hugging Face peft loads our artifacts as they are, and computes the same."""

import json
import warnings

import pytest
import torch
import transformers
from adapted_models import TASKS, adapt, logits, save_base

from peftcli.artifact.exports import head_entries

peft = pytest.importorskip("peft")
LORA = {"name": "lora", "rank": 2, "target_modules": "all-linear"}


def load_with_peft(adapted):
    auto, about = TASKS[adapted.task]
    labels = {"num_labels": len(about["labels"])} if "labels" in about else {}
    network = getattr(transformers, auto).from_pretrained(adapted.base, **labels)
    network.config.pad_token_id = adapted.delta.base.network.config.pad_token_id
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        loaded = peft.PeftModel.from_pretrained(network, adapted.artifact.folder)
    assert not [w for w in caught if "adapter" in str(w.message) or "missing" in str(w.message)]
    return loaded


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`")
@pytest.mark.parametrize(
    ("family", "saved_as", "task"),
    [
        ("bert", "AutoModel", "classification"),
        ("bert", "AutoModelForMaskedLM", "classification"),  # its pooler is new
        ("roberta", "AutoModelForMaskedLM", "classification"),
        ("deberta-v2", "AutoModel", "classification"),
        ("bart", "AutoModel", "classification"),
        ("gpt2", "AutoModelForCausalLM", "causal-lm"),
        ("llama", "AutoModelForCausalLM", "causal-lm"),
        ("llama", "AutoModelForCausalLM", "classification"),
    ],
)
def test_peft_computes_what_the_adapted_model_does(tmp_path, family, saved_as, task):
    adapted = adapt(save_base(tmp_path / "base", family, saved_as), tmp_path / "run", LORA, task)
    assert adapted.artifact.manifest.hf_peft in ("exact", "converted")
    assert torch.allclose(logits(load_with_peft(adapted)), adapted.logits(), atol=1e-5)


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`")
def test_the_head_of_a_method_that_adds_to_the_input_is_found(tmp_path):
    base = save_base(tmp_path / "base", "bert", "AutoModelForMaskedLM")
    method = {"name": "prompt", "prompt_length": 3, "placement": "start"}
    adapted = adapt(base, tmp_path / "run", method, "classification")
    loaded = load_with_peft(adapted)
    head = dict(loaded.base_model.named_parameters())
    for address, parameter in adapted.delta.head.items():
        name = adapted.delta.base.name(address.removeprefix("head."))
        found = [p for n, p in head.items() if n.replace("modules_to_save.default.", "") == name]
        assert len(found) == 1
        assert torch.equal(found[0], parameter)


def test_a_module_to_save_is_named_by_its_whole_path(tmp_path):
    base = save_base(tmp_path / "base", "bert", "AutoModelForMaskedLM")
    adapted = adapt(base, tmp_path / "run", LORA, "classification")
    modules, tensors = head_entries(adapted.delta, "base_model.model.")
    assert modules == ["bert.pooler", "classifier"]
    assert sorted(tensors) == [
        "base_model.model.bert.pooler.dense.bias",
        "base_model.model.bert.pooler.dense.weight",
        "base_model.model.classifier.bias",
        "base_model.model.classifier.weight",
    ]
    config = json.loads((adapted.artifact.folder / "adapter_config.json").read_text())
    assert config["modules_to_save"] == modules
    assert config["task_type"] == "SEQ_CLS"


def test_a_method_without_such_a_form_says_so(tmp_path):
    base = save_base(tmp_path / "base", "bert")
    adapted = adapt(base, tmp_path / "run", {"name": "houlsby", "bottleneck": 2}, "classification")
    assert adapted.artifact.manifest.hf_peft == "none"
    assert "houlsby" in adapted.artifact.manifest.hf_peft_reason
    assert not (adapted.artifact.folder / "adapter_config.json").exists()


def test_a_stack_has_no_such_form(tmp_path):
    base = save_base(tmp_path / "base", "bert")
    adapted = adapt(base, tmp_path / "run", [LORA, {"name": "bitfit"}], "classification")
    assert "stack" in adapted.artifact.manifest.hf_peft_reason
