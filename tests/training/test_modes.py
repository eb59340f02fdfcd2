from __future__ import annotations

import pytest
import torch
from tiny import tiny_base, tiny_batch

from peftcli.delta.delta import attach
from peftcli.delta.registry import find
from peftcli.training.modes import evaluating, training

FAMILIES = ("bert", "distilbert", "gpt2", "llama", "opt", "falcon_mha", "bloom", "gpt_neox", "t5", "bart")


def adapted(family, dropout=0.0):
    base = tiny_base(family, "classification")
    attach((find("lora")(rank=2, dropout=dropout),), base, seed=0)
    with torch.no_grad():
        for parameter in base.network.parameters():
            if parameter.requires_grad:
                parameter.normal_(std=0.3)
    for module in base.network.modules():
        # Several families come without dropout: give every module and attribute some.
        for name in [n for n, v in vars(module).items() if "drop" in n and isinstance(v, float)]:
            setattr(module, name, 0.3)
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.3
    for name in [n for n, v in base.network.config.to_dict().items() if "drop" in n and isinstance(v, float)]:
        setattr(base.network.config, name, 0.3)
    for _, block in [(n, m) for n, m in base.network.named_modules() if hasattr(m, "wrapped")]:
        block.dropout = dropout
    return base.network


def logits(network, batch):
    return network(**batch).logits


def gradients(network, batch):
    network.zero_grad()
    logits(network, batch).pow(2).sum().backward()
    return [p.grad.clone() for p in network.parameters() if p.grad is not None]


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("family", FAMILIES)
def test_without_base_dropout_two_passes_are_those_of_evaluation(family, checkpointing):
    network, batch = adapted(family), tiny_batch(family)
    with evaluating(network):
        expected = logits(network, batch)
        expected_gradients = gradients(network, batch)
    with training(network, base_dropout=False, gradient_checkpointing=checkpointing):
        assert torch.equal(logits(network, batch), expected)
        assert torch.equal(logits(network, batch), expected)
        for got, wanted in zip(gradients(network, batch), expected_gradients, strict=True):
            torch.testing.assert_close(got, wanted)


@pytest.mark.parametrize("family", ["bert", "opt"])
def test_with_base_dropout_two_passes_differ(family):
    network, batch = adapted(family), tiny_batch(family)
    with training(network, base_dropout=True, gradient_checkpointing=False):
        assert not torch.equal(logits(network, batch), logits(network, batch))


def test_the_dropout_of_blocks_acts_without_that_of_the_base():
    network, batch = adapted("bert", dropout=0.5), tiny_batch("bert")
    with training(network, base_dropout=False, gradient_checkpointing=False):
        assert not torch.equal(logits(network, batch), logits(network, batch))


@pytest.mark.parametrize("base_dropout", [True, False])
def test_gradient_checkpointing_computes_layers_twice_and_gives_the_same_gradient(base_dropout):
    network, batch = adapted("bert", dropout=0.5), tiny_batch("bert")
    counts = []
    for checkpointing in (False, True):
        calls = []
        handle = network.bert.encoder.layer[0].intermediate.register_forward_hook(lambda *_: calls.append(1))  # noqa: B023
        with training(network, base_dropout=base_dropout, gradient_checkpointing=checkpointing):
            torch.manual_seed(0)
            counts.append((gradients(network, batch), len(calls)))
        handle.remove()
    (plain, once), (again, twice) = counts
    assert (once, twice) == (1, 2)
    assert all(torch.equal(a, b) for a, b in zip(plain, again, strict=True))


def test_evaluating_gives_every_module_its_mode_back():
    network = adapted("bert")
    network.train()
    network.bert.encoder.layer[0].eval()
    before = [m.training for m in network.modules()]
    with evaluating(network):
        assert not any(m.training for m in network.modules())
    assert [m.training for m in network.modules()] == before


def test_checkpointing_computes_no_gradient_below_the_lowest_block():
    network, batch = adapted("bert"), tiny_batch("bert")
    outputs = []
    network.bert.embeddings.register_forward_hook(lambda _, __, output: outputs.append(output))
    with training(network, base_dropout=True, gradient_checkpointing=True):
        gradients(network, batch)
    assert not outputs[0].requires_grad


def test_training_keeps_no_keys_and_values():
    network, batch = adapted("llama"), tiny_batch("llama")
    with training(network, base_dropout=True, gradient_checkpointing=False):
        assert network(**batch).past_key_values is None
    assert network.config.use_cache
