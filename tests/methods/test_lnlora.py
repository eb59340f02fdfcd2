"""LoRA with a LayerNorm: each of its three readings against the formula in bare torch."""

from __future__ import annotations

import pytest
import torch
from artifact.adapted_models import adapt, logits, reopened, save_base
from pydantic import ValidationError
from tiny import tiny_base, tiny_batch
from torch.nn import functional as F

from peftcli.artifact.merging import MergeSettings, stream
from peftcli.base.anatomy import Anatomy
from peftcli.delta.delta import attach
from peftcli.errors import MethodError
from peftcli.methods.lnlora import Lnlora
from peftcli.methods.lora import Lora

FORMS = ("branch_in", "bottleneck", "plus_ln")
ROBERTA = {"model_type": "roberta", "hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12}


def normalised(x: torch.Tensor) -> torch.Tensor:
    """Subtract the mean and divide by the deviation, row by row."""
    centred = x - x.mean(-1, keepdim=True)
    return centred / (centred.square().mean(-1, keepdim=True) + 1e-6).sqrt()


@torch.no_grad()
@pytest.mark.parametrize("form", ["branch_in", "bottleneck"])
def test_the_branch_is_normalised_where_the_form_says(form):
    base = tiny_base("bert")
    site = base.sites(("W_q",))[0]
    linear = base.module(site)
    attach((Lnlora(form=form, rank=4, alpha=6.0, target_modules=("W_q",)),), base, seed=0)
    block = base.module(site)
    for parameter in block.own_parameters().values():
        parameter.normal_()
    x = torch.randn(5, 16)
    if form == "branch_in":
        z = (block.norm_weight * normalised(x) + block.norm_bias) @ block.A.T
    else:
        z = block.norm_weight * normalised(x @ block.A.T) + block.norm_bias
    torch.testing.assert_close(block(x), linear(x) + 1.5 * z @ block.B.T)


@torch.no_grad()
def test_of_an_input_that_is_normalised_already_the_branch_is_that_of_lora():
    pair = []
    for method in (Lora(rank=3, target_modules=("W_q",)), Lnlora(rank=3, target_modules=("W_q",))):
        base = tiny_base("bert")
        attach((method,), base, seed=0)
        pair.append(base.module(base.sites(("W_q",))[0]))
    pair[0].A.copy_(pair[1].A)
    for block in pair:
        block.B.fill_(0.3)
    x = F.layer_norm(torch.randn(5, 16), (16,))
    torch.testing.assert_close(pair[1](x), pair[0](x), rtol=1e-4, atol=1e-4)


@torch.no_grad()
@pytest.mark.parametrize("form", FORMS)
def test_before_training_it_is_the_base_exactly(form):
    before = tiny_base("vit", "classification").network(**tiny_batch("vit")).logits
    delta = attach((Lnlora(form=form, rank=3),), tiny_base("vit", "classification"), seed=0)
    assert torch.equal(delta.base.network(**tiny_batch("vit")).logits, before)


def test_plus_ln_is_lora_with_the_norms_of_its_layers():
    delta = attach((Lnlora(form="plus_ln", rank=2, layers=1),), tiny_base("llama", "causal-lm"), seed=0)
    own = {a.removeprefix("lnlora.") for a in delta.parameters if a.startswith("lnlora.")}
    assert own == {f"layers.1.{site}.{name}" for site in ("W_q", "W_v") for name in ("A", "B")}
    norms = {a for a in delta.parameters if a.startswith("base.")}
    assert norms == {"base.layers.1.attention_norm.weight", "base.layers.1.ffn_norm.weight"}


@pytest.mark.parametrize(
    ("form", "more"),
    [("branch_in", 24 * 2 * 768), ("bottleneck", 24 * 2 * 8), ("plus_ln", 12 * 4 * 768)],
)
def test_the_norm_adds_a_gain_and_a_shift_for_what_it_spans(form, more):
    anatomy = Anatomy.of(ROBERTA)
    assert Lnlora(form=form).count(anatomy) - Lora().count(anatomy) == more


@pytest.mark.parametrize("form", ["bottleneck", "plus_ln"])
def test_the_closed_form_is_what_is_counted(form):
    method = Lnlora(form=form, rank=3)
    for family in ("bert", "gpt2", "qwen3", "t5"):
        delta = attach((method,), tiny_base(family), seed=0)
        assert method.count(delta.base.anatomy) == delta.size


@pytest.mark.parametrize("rank", [1, 2])
def test_a_bottleneck_of_two_numbers_is_refused(rank):
    with pytest.raises(ValidationError, match=f"a LayerNorm over {rank} numbers leaves nothing"):
        Lnlora(form="bottleneck", rank=rank)


@pytest.mark.parametrize("form", ["branch_in", "bottleneck"])
def test_a_norm_in_the_branch_is_not_merged(tmp_path, form):
    assert not Lnlora(form=form).mergeable
    base = save_base(tmp_path / "base", "bert")
    artifact = adapt(base, tmp_path / "run", {"name": "lnlora", "form": form, "rank": 3}, "classification").artifact
    with pytest.raises(MethodError, match="lnlora cannot be merged"):
        stream(artifact, base, tmp_path / "merged", MergeSettings())


def test_without_one_it_is(tmp_path):
    assert Lnlora(form="plus_ln").mergeable
    base = save_base(tmp_path / "base", "bert")
    adapted = adapt(base, tmp_path / "run", {"name": "lnlora", "form": "plus_ln", "rank": 3}, "classification")
    stream(adapted.artifact, base, tmp_path / "merged", MergeSettings())
    merged = reopened(tmp_path / "merged", "classification")
    assert torch.allclose(logits(merged), adapted.logits(), atol=1e-5)
