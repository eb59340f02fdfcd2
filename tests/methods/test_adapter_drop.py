"""AdapterDrop: the adapters of its base method, absent where it says, and drawn reproducibly."""

from __future__ import annotations

import pytest
import torch
from methods.streams import base_of, randomised
from tiny import tiny_base, tiny_batch

from peftcli.delta.delta import Delta, attach
from peftcli.errors import MethodError
from peftcli.methods.adapter_drop import AdapterDrop
from peftcli.methods.houlsby import Houlsby
from peftcli.methods.pfeiffer import Pfeiffer

ROBUST = AdapterDrop(bottleneck=3, dropped=1, mode="robust")


@torch.no_grad()
def output(delta: Delta, family: str = "bert") -> torch.Tensor:
    return delta.base.network(**tiny_batch(family)).logits


def lend(one: Delta, other: Delta) -> None:
    """Give ``other`` the numbers of ``one``, which another method's label stands before."""
    names = (other.methods[0].name, one.methods[0].name)
    other.load({n.replace(f"{names[1]}.", f"{names[0]}.", 1): t for n, t in one.state().items()})


def present(delta: Delta) -> int:
    """Run a pass and return how many adapters it had."""
    delta.base.network(**tiny_batch("bert"))
    return sum(b.present for _, b in delta.blocks())


@pytest.mark.parametrize(("name", "method"), [("houlsby", Houlsby), ("pfeiffer", Pfeiffer)])
def test_a_specialised_one_is_its_base_method_in_the_other_layers(name, method):
    drop = randomised(AdapterDrop(adapter=name, bottleneck=3, dropped=1), "bert")
    plain = randomised(method(bottleneck=3, layers=1), "bert")
    lend(drop, plain)
    assert torch.equal(output(drop), output(plain))


def test_a_gradient_stops_below_the_first_adapter():
    delta = attach((AdapterDrop(bottleneck=3, dropped=1),), base_of("bert"), seed=0)
    first = []
    delta.base.network.bert.encoder.layer[0].register_forward_hook(lambda *a: first.append(a[2]))
    delta.base.network(**tiny_batch("bert")).logits.sum().backward()
    assert not first[0].requires_grad


@pytest.mark.parametrize("dropped", [0, 1])
def test_a_robust_delta_serves_with_any_number_afterwards(dropped):
    trained = randomised(ROBUST, "bert")
    method = ROBUST.model_copy(update={"dropped": dropped})
    again = attach((method,), base_of("bert"), seed=1)
    again.load(trained.state())
    whole = randomised(Pfeiffer(bottleneck=3), "bert")
    lend(trained, whole)
    for _, block in whole.blocks():
        block.enabled = f"layers.{dropped - 1}." not in block.address
    assert torch.equal(output(again), output(whole))


def test_a_robust_one_draws_for_every_pass_from_torchs_generator():
    delta = attach((ROBUST,), base_of("bert"), seed=0)
    delta.base.network.train()
    torch.manual_seed(3)
    drawn = [present(delta) for _ in range(12)]
    torch.manual_seed(3)
    assert drawn == [present(delta) for _ in range(12)]
    assert set(drawn) == {1, 2}
    delta.base.network.eval()
    assert [present(delta) for _ in range(4)] == [1, 1, 1, 1]


def test_what_was_dropped_from_a_pass_has_a_gradient_of_zero_and_costs_no_backward():
    delta = attach((ROBUST,), base_of("bert"), seed=0)
    delta.base.network.train()
    first = []
    delta.base.network.bert.encoder.layer[0].register_forward_hook(lambda *a: first.append(a[2]))
    for seed in range(20):
        torch.manual_seed(seed)
        out = delta.base.network(**tiny_batch("bert")).logits
        if [b.present for _, b in delta.blocks()].count(True) == 1:
            break
    out.sum().backward()
    assert not first[-1].requires_grad
    below = [p for a, p in delta.parameters.items() if "layers.0" in a]
    assert all(p.grad is not None and not p.grad.any() for p in below)


def test_a_checkpointed_layer_runs_again_with_the_adapters_it_had():
    gradients = []
    for checkpointed in (False, True):
        delta = randomised(ROBUST, "gpt2")
        network = delta.base.network.train()
        for module in network.modules():
            if isinstance(module, torch.nn.Dropout):
                module.p = 0.0
        if checkpointed:
            network.activation_checkpointing_enable({"use_reentrant": False})
        torch.manual_seed(4)
        for _ in range(4):
            network(**tiny_batch("gpt2"), use_cache=False).logits.pow(2).mean().backward()
        gradients.append([p.grad for p in delta.parameters.values()])
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6)


def test_dropping_every_layer_is_refused():
    with pytest.raises(MethodError, match="first 2 layers, the encoder of bert has none"):
        attach((AdapterDrop(dropped=2),), tiny_base("bert"), seed=0)
