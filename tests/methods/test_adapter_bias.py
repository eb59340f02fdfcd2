"""AdapterBias against its formula, merged and not, and its count."""

from __future__ import annotations

import pytest
import torch
from methods.streams import LARGE, base_of, block_at, randomised
from pydantic import ValidationError
from tiny import tiny_base, tiny_batch
from torch.nn import functional as F

from peftcli.base.anatomy import Anatomy
from peftcli.delta.delta import attach
from peftcli.methods.adapter_bias import AdapterBias


@pytest.mark.parametrize("share", [False, True])
@torch.no_grad()
def test_a_token_is_shifted_as_far_as_it_asks_for(share):
    delta = randomised(AdapterBias(share_alpha=share), "bert")
    block = block_at(delta, "layers.1.W_down")
    token = block.weight_of_token
    u = torch.randn(2, 3, 24)
    expected = F.linear(u, block.weight, block.bias) + (u @ token.alpha + token.c)[..., None] * block.v
    torch.testing.assert_close(block(u), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("family", ["bert", "gpt2"])
@torch.no_grad()
def test_folded_into_the_projection_it_computes_the_same(family):
    delta = randomised(AdapterBias(), family)
    before = delta.base.network(**tiny_batch(family)).logits
    for _, block in delta.blocks():
        for name in block.folds():
            own = getattr(block.wrapped, name)
            own.copy_(block.fold(name, own.clone(), slice(0, len(own))))
        block.enabled = False
    torch.testing.assert_close(delta.base.network(**tiny_batch(family)).logits, before, rtol=1e-5, atol=1e-5)


def test_without_a_bias_nothing_holds_the_offset_of_a_merge():
    delta = attach((AdapterBias(),), tiny_base("llama"), seed=0)
    assert not any(block.folds() for _, block in delta.blocks())


@torch.no_grad()
def test_the_other_input_is_the_residual_stream():
    delta = randomised(AdapterBias(input="residual", train_norms=False), "gpt2")
    block = block_at(delta, "layers.0.ffn")
    plain = base_of("gpt2").network.transformer.h[0]
    streams, out = [], []
    layer = delta.base.network.transformer.h[0]
    layer.ln_2.register_forward_pre_hook(lambda _, a: streams.append(a[0]))
    layer.register_forward_hook(lambda *a: out.append(a[2] if isinstance(a[2], torch.Tensor) else a[2][0]))
    delta.base.network(**tiny_batch("gpt2"))
    x = streams[0]
    alpha, v = block.bottleneck.down.weight[0], block.bottleneck.up.weight[:, 0]
    expected = x + plain.mlp(plain.ln_2(x)) + (x @ alpha)[..., None] * v
    torch.testing.assert_close(out[0], expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("method", "expected"),
    [
        (AdapterBias(train_norms=False), 122_904),
        (AdapterBias(train_norms=False, share_alpha=True), 4096 + 1 + 24 * 1024),
    ],
)
def test_the_count_is_the_closed_form(method, expected):
    assert method.count(Anatomy.of({**LARGE, "model_type": "bert"})) == expected


def test_the_norms_of_the_ffn_and_the_embeddings_train():
    delta = attach((AdapterBias(),), tiny_base("bert"), seed=0)
    norms = {a for a in delta.parameters if a.startswith("base.")}
    ffn = {f"base.layers.{i}.ffn_norm.{n}" for i in range(2) for n in ("weight", "bias")}
    assert norms == ffn | {"base.embeddings.LayerNorm.weight", "base.embeddings.LayerNorm.bias"}


def test_stacks_share_alphas_of_their_own():
    delta = attach((AdapterBias(share_alpha=True),), tiny_base("bart"), seed=0)
    shared = {a: p.shape[0] for a, p in delta.parameters.items() if a.endswith("alpha")}
    assert shared == {"adapter_bias.shared.encoder.alpha": 24, "adapter_bias.shared.decoder.alpha": 20}


def test_only_alphas_of_the_inside_are_shared():
    with pytest.raises(ValidationError, match="only alphas of the FFN's inside are shared"):
        AdapterBias(share_alpha=True, input="residual")
