"""MAM is the stack of a prefix and a scaled parallel adapter: a layer computed densely."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tiny import tiny_base
from torch.nn import functional as F

from peftcli.base.anatomy import Anatomy
from peftcli.delta.count import closed_form
from peftcli.delta.delta import attach
from peftcli.methods.parallel import Parallel
from peftcli.methods.prefix import Prefix
from peftcli.pipeline.reading import read


def test_the_recipe_is_the_stack_for_glue():
    methods = read(Path(__file__).parents[2] / "recipes" / "mam.yaml", []).method
    assert closed_form(methods, Anatomy.of({"model_type": "roberta"})).delta == 599_232


@torch.no_grad()
@pytest.mark.parametrize("order", [slice(None), slice(None, None, -1)], ids=["in-order", "reversed"])
def test_a_layer_attends_to_the_prefix_and_adds_the_scaled_adapter_of_the_ffns_input(order):
    methods = (Prefix(prefix_length=3, reparameterise=False, layers=0), Parallel(bottleneck=4, scale=2.0, layers=0))
    base, plain = tiny_base("bert"), tiny_base("bert")
    delta = attach(methods[order], base, seed=0)
    generator = torch.Generator().manual_seed(1)
    for parameter in delta.parameters.values():
        parameter.copy_(0.5 * torch.randn(parameter.shape, generator=generator))
    blocks = {b.address.partition(".")[0]: b for _, b in delta.blocks()}
    prefix, adapter = blocks["prefix"], blocks["parallel"].bottleneck
    layer = plain.network.encoder.layer[0]
    inner = layer.attention.self
    x = torch.randn(2, 5, 16)

    def heads(t):
        return t.view(2, -1, 4, 4).transpose(1, 2)

    q, k, v = heads(inner.query(x)), heads(inner.key(x)), heads(inner.value(x))
    k, v = (torch.cat([p.expand(2, -1, -1, -1), t], 2) for p, t in ((prefix.keys, k), (prefix.values, v)))
    attended = (torch.softmax(q @ k.transpose(2, 3) / 2, -1) @ v).transpose(1, 2).reshape(2, 5, 16)
    middle = layer.attention.output.LayerNorm(x + layer.attention.output.dense(attended))
    added = F.relu(middle @ adapter.down.weight.T + adapter.down.bias) @ adapter.up.weight.T + adapter.up.bias
    h = layer.output.dense(layer.intermediate(middle)) + 2.0 * added
    expected = layer.output.LayerNorm(middle + h)
    out = base.network.encoder.layer[0](x)
    torch.testing.assert_close(out[0] if isinstance(out, tuple) else out, expected, rtol=1e-4, atol=1e-5)
