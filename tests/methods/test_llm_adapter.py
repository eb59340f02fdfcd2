"""LLM-Adapters against their formulas, in fused projections too."""

from __future__ import annotations

import pytest
import torch
from methods.streams import base_of, randomised
from torch.nn import functional as F

from peftcli.methods.llm_adapter import LlmAdapter


def added(block, x):
    """U tanh(D x)."""
    return F.linear(torch.tanh(F.linear(x, block.bottleneck.down.weight)), block.bottleneck.up.weight)


def blocks(delta, layer: int = 0):
    return {b.site.name: b for _, b in delta.blocks() if b.site.layer == layer}


@torch.no_grad()
def test_in_series_it_stands_before_the_gate_and_the_up_projection_and_behind_the_down_projection():
    delta = randomised(LlmAdapter(bottleneck=3, placement="series", scale=0.5), "llama")
    own = blocks(delta)
    mlp = base_of("llama").network.model.layers[0].mlp
    x = torch.randn(2, 3, 16)
    gate = mlp.gate_proj(x + 0.5 * added(own["W_gate"], x))
    up = mlp.up_proj(x + 0.5 * added(own["W_up"], x))
    y = mlp.down_proj(F.silu(gate) * up)
    expected = y + 0.5 * added(own["W_down"], y)
    torch.testing.assert_close(delta.base.network.model.layers[0].mlp(x), expected, rtol=1e-5, atol=1e-5)


@torch.no_grad()
def test_the_parts_of_a_fused_projection_read_inputs_of_their_own():
    delta = randomised(LlmAdapter(bottleneck=3, placement="series"), "phi3")
    own = blocks(delta)
    fused = base_of("phi3").network.model.layers[0].mlp.gate_up_proj
    x = torch.randn(2, 3, 16)
    gate = fused(x + added(own["W_gate"], x))[..., :24]
    up = fused(x + added(own["W_up"], x))[..., 24:]
    found = delta.base.network.model.layers[0].mlp.gate_up_proj(x)
    torch.testing.assert_close(found, torch.cat([gate, up], -1), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("family", ["llama", "gpt2"])
@torch.no_grad()
def test_in_parallel_it_adds_beside_queries_keys_and_values(family):
    delta = randomised(LlmAdapter(bottleneck=3, placement="parallel"), family)
    plain = base_of(family)
    own = blocks(delta)
    assert set(own) == {"W_q", "W_k", "W_v"}
    x = torch.randn(2, 3, 16)
    for site in plain.sites(tuple(own), 0):
        rows = slice(*site.rows[0]) if site.rows else slice(None)
        expected = plain.module(site)(x)[..., rows] + added(own[site.name], x)
        torch.testing.assert_close(delta.base.module(site)(x)[..., rows], expected, rtol=1e-5, atol=1e-5)


def test_there_are_no_biases():
    delta = randomised(LlmAdapter(bottleneck=3), "bert")
    assert not any(a.endswith("bias") for a in delta.parameters)
