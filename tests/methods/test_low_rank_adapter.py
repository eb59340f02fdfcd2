"""The low-rank adapter against its formula and its start."""

from __future__ import annotations

import pytest
import torch
from methods.streams import base_of, block_at, randomised
from tiny import tiny_batch
from torch.nn import functional as F

from peftcli.delta.delta import attach
from peftcli.methods.low_rank_adapter import LowRankAdapter


@torch.no_grad()
def test_both_matrices_are_products_of_low_rank():
    block = block_at(randomised(LowRankAdapter(bottleneck=5, rank=3), "bert"), "layers.0.attention")
    h = torch.randn(2, 3, 16)
    down, up = block.bottleneck.down, block.bottleneck.up
    W_down, W_up = down.left @ down.right, up.left @ up.right
    assert int(torch.linalg.matrix_rank(W_up)) == 3
    expected = h + F.gelu(h @ W_down.T + down.bias) @ W_up.T + up.bias
    torch.testing.assert_close(block(h), expected, rtol=1e-5, atol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("start", ["zero_up", "glorot"])
def test_a_zero_factor_starts_at_the_base_and_the_published_start_does_not(start):
    base = base_of("bert")
    plain = base.network(**tiny_batch("bert")).logits
    delta = attach((LowRankAdapter(bottleneck=4, start=start),), base, seed=0)
    same = torch.equal(base.network(**tiny_batch("bert")).logits, plain)
    assert same == delta.starts_at_base == (start == "zero_up")
