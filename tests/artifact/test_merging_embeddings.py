"""Embeddings that moved are merged into their table, and a head that was tied to it keeps the base model's."""

import json

import pytest
import torch
from adapted_models import adapt, logits, reopened, save_base
from safetensors.torch import load_file

from peftcli.artifact.merging import MergeSettings, stream

LORA = {"name": "lora", "rank": 2, "target_modules": ["W_o", "embeddings"]}
SPARSE = {"name": "lt_sft", "entries": "20%"}
TIED = {"tie_word_embeddings": True}
NETWORKS = [
    ("bert", "AutoModelForMaskedLM", "classification", {}),
    ("electra", "AutoModel", "classification", {}),
    ("t5", "AutoModel", "classification", {}),
    ("bart", "AutoModelForSeq2SeqLM", "classification", {}),
    ("gpt2", "AutoModelForCausalLM", "classification", {}),
    ("gpt2", "AutoModelForCausalLM", "causal-lm", {}),
    ("gpt2", "AutoModel", "causal-lm", {}),
    ("gpt_neox", "AutoModelForCausalLM", "causal-lm", {}),
    ("gpt_neox", "AutoModelForCausalLM", "causal-lm", TIED),
    ("bloom", "AutoModelForCausalLM", "causal-lm", {}),
    ("falcon", "AutoModelForCausalLM", "causal-lm", {}),
    ("opt", "AutoModelForCausalLM", "causal-lm", {}),
    ("llama", "AutoModelForCausalLM", "causal-lm", {}),
    ("llama", "AutoModelForCausalLM", "causal-lm", TIED),
    ("gemma2", "AutoModelForCausalLM", "causal-lm", {}),
    ("gemma3_text", "AutoModelForCausalLM", "causal-lm", {}),
]


@pytest.mark.parametrize("method", [LORA, [LORA, SPARSE], [SPARSE, LORA]], ids=["lora", "lora+sparse", "sparse+lora"])
@pytest.mark.parametrize(("family", "saved_as", "task", "config"), NETWORKS)
def test_a_merged_model_computes_what_the_adapted_one_does(tmp_path, family, saved_as, task, config, method):
    base = save_base(tmp_path / "base", family, saved_as, **config)
    adapted = adapt(base, tmp_path / "run", method, task)
    stream(adapted.artifact, base, tmp_path / "merged", MergeSettings())
    merged = reopened(tmp_path / "merged", task)
    assert torch.allclose(logits(merged), adapted.logits(), atol=1e-5)


def test_a_tied_head_becomes_a_tensor_of_its_own_with_the_bytes_of_the_table(tmp_path):
    base = save_base(tmp_path / "base", "gpt2", "AutoModelForCausalLM")
    adapted = adapt(base, tmp_path / "run", LORA, "causal-lm")
    summary = stream(adapted.artifact, base, tmp_path / "merged", MergeSettings())
    before, after = load_file(base / "model.safetensors"), load_file(tmp_path / "merged" / "model.safetensors")
    assert after.keys() - before.keys() == {"lm_head.weight"}
    assert summary.dropped == ()
    assert torch.equal(after["lm_head.weight"], before["transformer.wte.weight"])
    assert not torch.equal(after["transformer.wte.weight"], before["transformer.wte.weight"])
    assert json.loads((tmp_path / "merged" / "config.json").read_text())["tie_word_embeddings"] is False
    merged = reopened(tmp_path / "merged", "causal-lm")
    assert merged.get_output_embeddings().weight is not merged.get_input_embeddings().weight


def test_without_a_change_of_embeddings_a_tied_head_stays_tied(tmp_path):
    base = save_base(tmp_path / "base", "gpt2", "AutoModelForCausalLM")
    adapted = adapt(base, tmp_path / "run", {"name": "lora", "rank": 2}, "causal-lm")
    stream(adapted.artifact, base, tmp_path / "merged", MergeSettings())
    assert "lm_head.weight" not in load_file(tmp_path / "merged" / "model.safetensors")
