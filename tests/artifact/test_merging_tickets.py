"""A merged winning ticket is a plain model with zeros where the ticket is pruned, to the bit."""

import pytest
import torch
from adapted_models import adapt, logits, reopened, save_base
from safetensors.torch import load_file

from peftcli.artifact.merging import MergeSettings, stream

TICKET = {"name": "winning_ticket", "survivors": "40%"}
PART = {**TICKET, "target_modules": ["W_v", "W_up"]}
TABLE = {**TICKET, "embeddings": True}
NETWORKS = [
    ("bert", "AutoModelForMaskedLM", "classification"),
    ("bart", "AutoModel", "classification"),
    ("gpt2", "AutoModelForCausalLM", "causal-lm"),
    ("gpt_neox", "AutoModelForCausalLM", "causal-lm"),
    ("llama", "AutoModelForCausalLM", "causal-lm"),
    ("phi3", "AutoModelForCausalLM", "causal-lm"),
]


@pytest.mark.parametrize("method", [TICKET, PART, TABLE, [TICKET, {"name": "bitfit", "biases": "all"}]], ids=str)
@pytest.mark.parametrize(("family", "saved_as", "task"), NETWORKS)
def test_a_merged_model_computes_what_the_adapted_one_does(tmp_path, monkeypatch, family, saved_as, task, method):
    if isinstance(method, list) and family in ("llama", "phi3"):
        pytest.skip("it has no biases")
    base = save_base(tmp_path / "base", family, saved_as)
    adapted = adapt(base, tmp_path / "run", method, task)
    monkeypatch.setattr("peftcli.artifact.row_blocks.MOST_ROWS", 5)
    summary = stream(adapted.artifact, base, tmp_path / "merged", MergeSettings())
    assert torch.equal(logits(reopened(tmp_path / "merged", task)), adapted.logits())
    assert summary.changed > 0


@pytest.mark.parametrize("dtype", [None, "bfloat16"])
def test_the_share_of_zeros_in_a_merged_model_is_the_sparsity_in_any_type(tmp_path, dtype):
    base = save_base(tmp_path / "base", "llama", "AutoModelForCausalLM")
    adapted = adapt(base, tmp_path / "run", TICKET, "causal-lm")
    stream(adapted.artifact, base, tmp_path / "merged", MergeSettings(dtype=dtype))
    merged = {n: t for n, t in load_file(tmp_path / "merged" / "model.safetensors").items() if "_proj" in n}
    assert sum(int((t != 0).sum()) for t in merged.values()) == adapted.delta.size
    assert adapted.delta.size == int(0.4 * sum(t.numel() for t in merged.values()))
