"""The parallel adapter against its formula: what it reads, what it scales, and its count."""

from __future__ import annotations

import pytest
import torch
from methods.streams import POST_NORM, PRE_NORM, SIDE_BY_SIDE, base_of, block_at, bottleneck, randomised
from tiny import tiny_base, tiny_batch

from peftcli.base.anatomy import Anatomy
from peftcli.methods.parallel import Parallel


@pytest.mark.parametrize("source", ["residual", "normed"])
@torch.no_grad()
def test_beside_the_ffn_of_a_pre_norm_layer_it_reads_the_stream_or_its_norm(source):
    delta = randomised(Parallel(bottleneck=3, scale=2.5, input=source, layers=0), "llama")
    plain = base_of("llama").network.model.layers[0]
    block = block_at(delta, "ffn")
    streams, out = [], []
    delta.base.network.model.layers[0].post_attention_layernorm.register_forward_pre_hook(
        lambda _, a: streams.append(a[0])
    )
    delta.base.network.model.layers[0].register_forward_hook(lambda *a: out.append(a[2]))
    delta.base.network(**tiny_batch("llama"))
    x = streams[0]
    normed = plain.post_attention_layernorm(x)
    expected = x + plain.mlp(normed) + 2.5 * bottleneck(block, x if source == "residual" else normed)
    torch.testing.assert_close(out[0] if isinstance(out[0], torch.Tensor) else out[0][0], expected)


@torch.no_grad()
def test_beside_the_sublayers_of_a_post_norm_layer_it_reads_what_they_read():
    placement = ("parallel_attention", "parallel_ffn")
    delta = randomised(Parallel(bottleneck=3, placement=placement, layers=0), "bert")
    plain = base_of("bert").network.bert
    x = x0 = plain.embeddings(tiny_batch("bert", rows=1)["input_ids"])
    layer = plain.encoder.layer[0]
    h = layer.attention.output.dense(layer.attention.self(x)[0]) + 4 * bottleneck(block_at(delta, "attention"), x)
    x = layer.attention.output.LayerNorm(x + h)
    h = layer.output.dense(layer.intermediate(x)) + 4 * bottleneck(block_at(delta, "ffn"), x)
    expected = layer.output.LayerNorm(x + h)
    found = delta.base.network.bert.encoder.layer[0](x0)
    torch.testing.assert_close(found[0] if isinstance(found, tuple) else found, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("family", PRE_NORM + SIDE_BY_SIDE + POST_NORM)
@torch.no_grad()
def test_what_it_reads_is_what_entered_the_layer(family):
    """Beside attention, whose sublayer begins with the layer: x is the layer's own input in every family."""
    delta = randomised(Parallel(bottleneck=3, placement=("parallel_attention",), layers=0), family)
    block = block_at(delta, "layers.0.attention")
    read, entered = [], []
    layer = delta.base.module(delta.base.layer(delta.base.sites(("ffn",), 0)[0]))
    layer.register_forward_pre_hook(lambda _, a, k: entered.append(a[0] if a else k["hidden_states"]), with_kwargs=True)
    block.bottleneck.register_forward_pre_hook(lambda _, a: read.append(a[0]))
    delta.base.network(**tiny_batch(family))
    assert torch.equal(read[0], entered[0])


@pytest.mark.parametrize(
    ("bottleneck", "placement", "expected"),
    [
        (512, ("parallel_ffn",), 12 * (2 * 1024 * 512 + 512 + 1024) * 2),
        (16, ("parallel_ffn", "parallel_attention"), 24 * 2 * (2 * 1024 * 16 + 16 + 1024)),
    ],
)
def test_the_count_is_the_closed_form(bottleneck, placement, expected):
    assert Parallel(bottleneck=bottleneck, placement=placement).count(Anatomy.of({"model_type": "bart"})) == expected


def test_the_first_matrix_is_kaiming_uniform_and_the_second_zero():
    from peftcli.delta.delta import attach

    delta = attach((Parallel(bottleneck=64),), tiny_base("bert"), seed=0)
    block = block_at(delta, "layers.0.ffn")
    assert 0.9 / 4 < float(block.bottleneck.down.weight.detach().abs().max()) <= 1 / 4
    assert not block.bottleneck.up.weight.any()
