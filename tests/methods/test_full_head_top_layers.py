"""The methods that only unfreeze, against a plain network with the same parameters unfrozen."""

from __future__ import annotations

import pytest
import torch
from tiny import tiny_base, tiny_batch, tiny_network

from peftcli.delta.delta import attach
from peftcli.errors import MethodError
from peftcli.methods.full import Full
from peftcli.methods.head import Head
from peftcli.methods.top_layers import TopLayers


def losses(network, parameters) -> list[float]:
    optimizer = torch.optim.AdamW(parameters, lr=1e-3, weight_decay=0.0)
    found = []
    for _ in range(5):
        optimizer.zero_grad()
        loss = network(**tiny_batch("bert")).logits.pow(2).mean()
        loss.backward()
        optimizer.step()
        found.append(loss.item())
    return found


@pytest.mark.parametrize(
    ("method", "chosen"),
    [
        (Full(), lambda name: True),
        (Head(), lambda name: name.startswith("classifier")),
        (TopLayers(count_layers=1), lambda name: name.startswith(("bert.encoder.layer.1.", "classifier"))),
    ],
)
def test_training_equals_a_plain_network_with_the_same_parameters_unfrozen(method, chosen):
    delta = attach((method,), tiny_base("bert", "classification"), seed=0)
    plain = tiny_network("bert", "classification")
    for name, parameter in plain.named_parameters():
        parameter.requires_grad_(chosen(name))
    unfrozen = [p for p in plain.parameters() if p.requires_grad]
    assert sum(p.numel() for p in unfrozen) == delta.size + delta.head_size
    assert losses(delta.base.network, delta.trained().values()) == losses(plain, unfrozen)


def test_lower_layers_get_no_gradient():
    delta = attach((TopLayers(count_layers=1),), tiny_base("bert", "classification"), seed=0)
    delta.base.network(**tiny_batch("bert")).logits.sum().backward()
    assert all(
        p.grad is None for n, p in delta.base.network.named_parameters() if ".layer.0." in n or "embeddings" in n
    )


def test_more_layers_than_there_are_is_refused():
    with pytest.raises(MethodError, match="has 2"):
        attach((TopLayers(count_layers=3),), tiny_base("bert"), seed=0)
