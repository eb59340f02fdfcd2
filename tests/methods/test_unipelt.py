"""UniPELT against a dense re-computation of a layer with its gates."""

from __future__ import annotations

import pytest
import torch
from tiny import tiny_base, tiny_batch
from torch.nn import functional as F

from peftcli.base.anatomy import Anatomy
from peftcli.blocks.adapters import AroundNorm
from peftcli.blocks.gates import Gate, GatedLowRank, GatedPrefix, RealTokens
from peftcli.delta.delta import Delta, attach
from peftcli.errors import MethodError
from peftcli.methods.lora import Lora
from peftcli.methods.pfeiffer import Pfeiffer
from peftcli.methods.prefix import Prefix
from peftcli.methods.unipelt import Unipelt

SMALL = Unipelt(prefix_length=3, reparameterise=False, bottleneck=4, rank=2, layers=0)


def filled(method: Unipelt = SMALL, task: str | None = None) -> Delta:
    delta = attach((method,), tiny_base("bert", task), seed=0)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in delta.parameters.values():
            parameter.copy_(0.5 * torch.randn(parameter.shape, generator=generator))
    return delta


def g(gate: Gate, x: torch.Tensor) -> torch.Tensor:
    """The mean over tokens of sigmoid(w x + b): one number for each row."""
    return torch.stack([torch.sigmoid(row @ gate.weight + gate.bias).mean() for row in x])


@torch.no_grad()
def test_a_layer_computes_its_three_parts_each_times_its_gate():
    delta, plain = filled(), tiny_base("bert")
    found = {type(b): b for _, b in delta.blocks() if not isinstance(b, GatedLowRank)}
    lora = {b.site.name: b for _, b in delta.blocks() if isinstance(b, GatedLowRank)}
    prefix, adapter = found[GatedPrefix], found[AroundNorm].bottleneck
    layer = plain.network.encoder.layer[0]
    inner = layer.attention.self
    x = torch.randn(3, 5, 16)

    def moved(linear, block):
        rows = [scale * row @ block.A.T @ block.B.T for scale, row in zip(g(block.gate, x), x, strict=True)]
        return linear(x) + torch.stack(rows)

    def heads(t):
        return t.view(3, -1, 4, 4).transpose(1, 2)

    opened = g(prefix.gate, x)[:, None, None, None]
    q, k, v = heads(moved(inner.query, lora["W_q"])), heads(inner.key(x)), heads(moved(inner.value, lora["W_v"]))
    k = torch.cat([prefix.keys * opened, k], 2)
    v = torch.cat([prefix.values * opened, v], 2)
    attended = (torch.softmax(q @ k.transpose(2, 3) / 2, -1) @ v).transpose(1, 2).reshape(3, 5, 16)
    middle = layer.attention.output.LayerNorm(x + layer.attention.output.dense(attended))
    t = middle + layer.output.dense(layer.intermediate(middle))
    z = layer.output.LayerNorm(t)
    added = F.relu(z @ adapter.down.weight.T + adapter.down.bias) @ adapter.up.weight.T + adapter.up.bias
    expected = layer.output.LayerNorm(t + g(adapter.gate, z)[:, None, None] * added)
    out = delta.base.network.encoder.layer[0](x)
    difference = float(((out[0] if isinstance(out, tuple) else out) - expected).abs().max())
    print(f"max |difference| of a layer to the formula: {difference:.1e}")
    assert difference <= 1e-5


@torch.no_grad()
@pytest.mark.parametrize("mask", [True, False])
def test_padding_opens_gates_only_where_they_are_not_masked(mask):
    """A row alone and the same row padded in a batch give the same, or differ as in the authors' code."""
    delta = filled(SMALL.model_copy(update={"mask": mask}), "classification")
    batch = tiny_batch("bert")
    length = int(batch["attention_mask"][1].sum())
    alone = {n: t[1:, :length] for n, t in batch.items()}
    both, one = delta.base.network(**batch).logits[1:], delta.base.network(**alone).logits
    assert torch.allclose(both, one, rtol=1e-4, atol=1e-5) == mask


def test_a_masked_gate_is_the_mean_over_real_tokens():
    base = tiny_base("bert")
    real = RealTokens(base)
    gate = Gate(16, real)
    gate.initialise(torch.Generator().manual_seed(0))
    batch = tiny_batch("bert")
    base.network(**batch)
    x = torch.randn(*batch["input_ids"].shape, 16)
    lengths = batch["attention_mask"].sum(1)
    expected = torch.stack([g(gate, row[None, :n])[0] for row, n in zip(x, lengths, strict=True)])
    torch.testing.assert_close(gate(x)[:, 0, 0], expected)


def test_the_count_is_the_sum_of_its_parts_and_the_gates():
    anatomy = Anatomy.of({"model_type": "bert"})
    parts = [Prefix(prefix_length=10), Pfeiffer(bottleneck=48), Lora(rank=8)]
    assert Unipelt().count(anatomy) == sum(p.count(anatomy) for p in parts) + 36_912


def test_a_causal_model_is_refused():
    with pytest.raises(MethodError, match="may not see those that come later"):
        attach((Unipelt(),), tiny_base("gpt2", "causal-lm"), seed=0)


def test_it_is_no_change_of_weights():
    delta = filled()
    assert not delta.mergeable
    assert all(b.folds() == () for _, b in delta.blocks())
