"""Pfeiffer's adapter against its formula under norms before and behind the sublayers."""

from __future__ import annotations

import pytest
import torch
from methods.streams import (
    POST_NORM,
    PRE_NORM,
    base_of,
    block_at,
    bottleneck,
    first_layer,
    randomised,
)
from tiny import tiny_base, tiny_batch

from peftcli.blocks.residual_stream import Entry
from peftcli.delta.delta import attach
from peftcli.methods.pfeiffer import Pfeiffer


@pytest.mark.parametrize("placement", ["after_ffn", "after_attention"])
@torch.no_grad()
def test_behind_a_norm_the_pretrained_norm_serves_twice(placement):
    delta = randomised(Pfeiffer(bottleneck=3, placement=placement, layers=0), "bert")
    plain = base_of("bert").network.bert
    block = block_at(delta, placement.removeprefix("after_"))
    x = x0 = plain.embeddings(tiny_batch("bert", rows=1)["input_ids"])
    layer = plain.encoder.layer[0]

    def end(norm, h, x, adapted):
        z = norm(h + x)
        return norm(h + bottleneck(block, z) + x) if adapted else z

    h = layer.attention.output.dense(layer.attention.self(x)[0])
    x = end(layer.attention.output.LayerNorm, h, x, placement == "after_attention")
    h = layer.output.dense(layer.intermediate(x))
    expected = end(layer.output.LayerNorm, h, x, placement == "after_ffn")
    found = delta.base.network.bert.encoder.layer[0](x0)
    found = found[0] if isinstance(found, tuple) else found
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("family", PRE_NORM)
@torch.no_grad()
def test_on_a_pre_norm_stream_it_adds_to_what_leaves_the_layer(family):
    delta = randomised(Pfeiffer(bottleneck=3, layers=0), family)
    z = first_layer(base_of(family), family)
    expected = z + bottleneck(block_at(delta, "layers.0.ffn"), z)
    torch.testing.assert_close(first_layer(delta.base, family), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("family", POST_NORM)
@torch.no_grad()
def test_behind_every_familys_norm_it_adds_before_the_norm(family):
    delta = randomised(Pfeiffer(bottleneck=3, layers=0), family)
    block = block_at(delta, "layers.0.ffn")
    heard = []
    norm = block.wrapped
    handle = norm.register_forward_hook(lambda _, args, out: heard.append((args[0], out)))
    first_layer(delta.base, family)
    handle.remove()
    (t, z), (moved, _) = heard[:2]
    torch.testing.assert_close(moved, t + bottleneck(block, z), rtol=1e-5, atol=1e-5)


@torch.no_grad()
def test_after_attention_it_adds_to_the_pre_norm_stream_between_the_sublayers():
    delta = randomised(Pfeiffer(bottleneck=3, placement="after_attention", layers=0), "gpt2")
    plain = base_of("gpt2").network.transformer
    block, layer = block_at(delta, "attention"), plain.h[0]
    ids = tiny_batch("gpt2", rows=1)["input_ids"]
    x = plain.wte(ids) + plain.wpe(torch.arange(ids.shape[1]))
    causal = torch.ones(7, 7).tril()[None, None].log()
    z = x + layer.attn(layer.ln_1(x), attention_mask=causal)[0]
    y = z + bottleneck(block, z)
    expected = y + layer.mlp(layer.ln_2(y))
    ids = {"input_ids": ids}
    found = []
    delta.base.network.transformer.h[0].register_forward_hook(lambda *args: found.append(args[2]))
    delta.base.network(**ids)
    found = found[0] if isinstance(found[0], torch.Tensor) else found[0][0]
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize(("start", "bound"), [("zero_up", 0.0), ("bert", 0.2)])
def test_it_starts_at_the_base_or_near_it(start, bound):
    batch = tiny_batch("gpt2")
    plain = tiny_base("gpt2", "causal-lm").network(**batch).logits
    base = tiny_base("gpt2", "causal-lm")
    attach((Pfeiffer(bottleneck=4, start=start),), base, seed=0)
    difference = float((base.network(**batch).logits - plain).abs().max())
    assert difference <= bound
    assert start == "zero_up" or difference > 0


def test_the_norms_stay_frozen():
    delta = attach((Pfeiffer(bottleneck=2),), tiny_base("bert"), seed=0)
    assert not any("norm" in address.lower() for address in delta.parameters)


@pytest.mark.parametrize("checkpointed", [False, True])
def test_nothing_of_the_stream_is_kept_after_a_pass(checkpointed):
    delta = attach((Pfeiffer(bottleneck=2),), tiny_base("llama", "causal-lm"), seed=0)
    network = delta.base.network.train()
    if checkpointed:
        network.activation_checkpointing_enable({"use_reentrant": False})
    network(**tiny_batch("llama"), use_cache=False).logits.sum().backward()
    entries = [b.entry for _, b in delta.blocks() if isinstance(b.entry, Entry)]
    assert len(entries) == 2
    assert all(e._x is None for e in entries)
