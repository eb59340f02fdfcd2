"""Compacter and PHM adapters against dense sums of Kronecker products."""

from __future__ import annotations

import pytest
import torch
from methods.streams import base_of, block_at, randomised
from pydantic import ValidationError
from tiny import tiny_base, tiny_batch
from torch.nn import functional as F

from peftcli.base.anatomy import Anatomy
from peftcli.delta.budget import solve
from peftcli.delta.delta import attach
from peftcli.errors import MethodError
from peftcli.methods.compacter import Compacter
from peftcli.methods.phm_adapter import PhmAdapter

METHODS = (Compacter(bottleneck=8, rank=2), PhmAdapter(bottleneck=8))


def dense(matrix) -> torch.Tensor:
    """W = sum_i C_i (x) S_i, (d_in, d_out): y = x W."""
    parts = matrix.s @ matrix.t if matrix.factored else matrix.S
    return sum(torch.kron(C, S) for C, S in zip(matrix.rule.C, parts, strict=True))


@pytest.mark.parametrize("method", METHODS, ids=lambda m: m.name)
@torch.no_grad()
def test_the_adapter_is_made_of_sums_of_kronecker_products(method):
    delta = randomised(method, "bert")
    block = block_at(delta, "layers.1.ffn")
    h = torch.randn(2, 3, 16)
    down, up = block.bottleneck.down, block.bottleneck.up
    expected = h + F.gelu(h @ dense(down) + down.bias) @ dense(up) + up.bias
    torch.testing.assert_close(block(h), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("method", METHODS, ids=lambda m: m.name)
@torch.no_grad()
def test_it_starts_within_a_millionth_of_the_base(method):
    base = base_of("bert")
    plain = base.network(**tiny_batch("bert")).logits
    attach((method,), base, seed=0)
    assert float((base.network(**tiny_batch("bert")).logits - plain).abs().max()) <= 1e-6


def test_all_adapters_share_one_rule_that_trains_and_is_stored_once():
    delta = attach((Compacter(bottleneck=4),), tiny_base("t5"), seed=0)
    rules = {id(b.bottleneck.down.rule.C) for _, b in delta.blocks()} | {
        id(b.bottleneck.up.rule.C) for _, b in delta.blocks()
    }
    assert len(rules) == 1
    assert [a for a in delta.parameters if a.endswith(".C")] == ["compacter.shared.C"]


def test_every_matrix_of_a_phm_adapter_has_a_rule_of_its_own():
    delta = attach((PhmAdapter(bottleneck=4),), tiny_base("bert"), seed=0)
    assert sum(a.endswith(".C") for a in delta.parameters) == 8


@pytest.mark.parametrize("method", [Compacter, PhmAdapter])
def test_terms_must_divide_the_bottleneck(method):
    with pytest.raises(ValidationError, match="bottleneck is 6, which 4 terms do not divide"):
        method(bottleneck=6)


@pytest.mark.parametrize("method", [Compacter, PhmAdapter])
def test_terms_must_divide_the_width(method):
    with pytest.raises(MethodError, match="does not divide the base model's width of 16"):
        attach((method(bottleneck=6, terms=3),), tiny_base("bert"), seed=0)


def test_a_budget_is_solved_in_steps_of_the_terms():
    solved = solve(Compacter(), Anatomy.of({"model_type": "bert"}), 100_000)
    assert solved.value % 4 == 0
    assert solved.achieved <= 100_000 < Compacter(bottleneck=solved.value + 4).count(Anatomy.of({"model_type": "bert"}))
