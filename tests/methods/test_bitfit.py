"""BitFit: which biases, how many, and that only they move."""

from __future__ import annotations

import pytest
import torch
from tiny import tiny_base, tiny_batch

from peftcli.delta.delta import attach
from peftcli.errors import MethodError
from peftcli.methods.bitfit import Bitfit


def test_all_biases_train_and_nothing_else():
    delta = attach((Bitfit(),), tiny_base("bert", "classification"), seed=0)
    trained = {n for n, p in delta.base.network.named_parameters() if p.requires_grad}
    biases = {n for n, _ in delta.base.network.named_parameters() if n.endswith(".bias")}
    assert trained == biases | {"classifier.weight"}


@torch.no_grad()
def test_a_bias_of_a_part_of_gpt2s_fused_projection_moves_that_part_alone():
    base = tiny_base("gpt2", "causal-lm")
    site = base.sites(("W_q",))[0]
    module = base.module(site)
    x = torch.randn(1, 2, site.d_in)
    before = module(x)
    delta = attach((Bitfit(biases=("W_q",)),), base, seed=0)
    block = next(b for p, b in delta.blocks() if ".0." in p)
    block.shift.copy_(torch.arange(1.0, 17.0))
    moved = block(x) - before
    torch.testing.assert_close(moved[..., :16], torch.arange(1.0, 17.0).expand(1, 2, 16), rtol=0, atol=1e-5)
    assert not moved[..., 16:].any()


def test_a_family_without_biases_is_refused():
    with pytest.raises(MethodError, match="llama has no biases"):
        attach((Bitfit(),), tiny_base("llama", "causal-lm"), seed=0)


def test_the_bias_of_the_keys_gets_no_gradient():
    delta = attach((Bitfit(),), tiny_base("bert", "classification"), seed=0)
    delta.base.network(**tiny_batch("bert")).logits.sum().backward()
    size = {a: float(p.grad.abs().max()) for a, p in delta.parameters.items() if p.grad is not None}
    keys = max(v for a, v in size.items() if "W_k.bias" in a)
    assert keys < 1e-4 * max(v for a, v in size.items() if "W_q.bias" in a)
