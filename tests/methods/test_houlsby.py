"""Houlsby's adapter against its formula, where it stands, and what trains with it."""

from __future__ import annotations

import pytest
import torch
from tiny import tiny_base, tiny_batch
from torch.nn import functional as F

from peftcli.base.anatomy import Anatomy
from peftcli.delta.delta import attach
from peftcli.methods.houlsby import Houlsby

LARGE = {
    "model_type": "bert",
    "hidden_size": 1024,
    "num_hidden_layers": 24,
    "num_attention_heads": 16,
    "intermediate_size": 4096,
}


@torch.no_grad()
def test_the_adapter_stands_before_the_residual_add_of_a_post_norm_layer():
    plain, base = tiny_base("bert"), tiny_base("bert")
    delta = attach((Houlsby(bottleneck=3, start="bert", layers=0),), base, seed=0)
    blocks = {b.address.rpartition(".")[2]: b for _, b in delta.blocks()}
    batch = tiny_batch("bert", rows=1)
    hidden = plain.network.embeddings(batch["input_ids"])

    def A(block, z):
        down, up = block.bottleneck.down, block.bottleneck.up
        return z + F.linear(F.gelu(F.linear(z, down.weight, down.bias)), up.weight, up.bias)

    layer = plain.network.encoder.layer[0]
    x = hidden
    h = layer.attention.output.dense(layer.attention.self(x)[0])
    x = layer.attention.output.LayerNorm(x + A(blocks["attention"], h))
    h = layer.output.dense(layer.intermediate(x))
    expected = layer.output.LayerNorm(x + A(blocks["ffn"], h))
    found = base.network.encoder.layer[0](hidden)
    torch.testing.assert_close(found[0] if isinstance(found, tuple) else found, expected, rtol=1e-5, atol=1e-5)


def test_the_norms_count_too_where_they_train():
    large = Anatomy.of(LARGE)
    assert Houlsby().count(large) - Houlsby(train_norms=False).count(large) == 2 * 1024 * (2 * 24 + 1)


def test_every_norm_trains_with_it():
    delta = attach((Houlsby(bottleneck=2),), tiny_base("bert"), seed=0)
    trained = {n for n, p in delta.base.network.named_parameters() if p.requires_grad and "LayerNorm" in n}
    assert trained == {n for n, _ in delta.base.network.named_parameters() if "LayerNorm" in n}


@torch.no_grad()
@pytest.mark.parametrize(("start", "bound"), [("zero_up", 0.0), ("houlsby", 1e-3), ("bert", 1e-1)])
def test_it_starts_at_the_base_or_near_it(start, bound):
    batch = tiny_batch("bert")
    plain = tiny_base("bert", "classification").network(**batch).logits
    base = tiny_base("bert", "classification")
    attach((Houlsby(bottleneck=4, start=start),), base, seed=0)
    difference = float((base.network(**batch).logits - plain).abs().max())
    assert difference <= bound
    assert start == "zero_up" or difference > 0


def test_cross_attention_gets_an_adapter_only_when_asked():
    def places(*placement):
        delta = attach((Houlsby(bottleneck=2, placement=placement),), tiny_base("t5"), seed=0)
        return sum("cross." in a for a in delta.parameters if a.endswith("down.weight"))

    assert places("after_attention", "after_ffn") == 0
    assert places("after_attention", "after_cross_attention") == 3
