from __future__ import annotations

import pytest
import torch
from torch import nn

from peftcli.training.optimizer import decays, make_optimizer, moments, restore_moments, scale_learning_rates


def parameters():
    torch.manual_seed(0)
    prompt = nn.Parameter(torch.randn(3, 4))
    prompt.no_decay = True
    return {"A": nn.Parameter(torch.randn(2, 4)), "bias": nn.Parameter(torch.randn(4)), "prompt": prompt}


def optimizer_of(given, **rates):
    return make_optimizer(given, {**dict.fromkeys(given, 0.1), **rates}, 0.1)


def step(optimizer, given, number):
    for p in given.values():
        p.grad = torch.full_like(p, 0.1 * number)
    scale_learning_rates(optimizer, 0.1)
    optimizer.step()


def test_only_matrices_without_a_mark_decay():
    assert [decays(p) for p in parameters().values()] == [True, False, False]


def test_the_groups_hold_every_parameter_once_with_its_decay():
    given = parameters()
    decaying, free = optimizer_of(given).param_groups
    assert [id(p) for p in decaying["params"]] == [id(given["A"])]
    assert [id(p) for p in free["params"]] == [id(given["bias"]), id(given["prompt"])]
    assert (decaying["weight_decay"], free["weight_decay"]) == (0.1, 0.0)


def test_tensors_with_another_rate_are_a_group_of_their_own():
    given = parameters()
    optimizer = optimizer_of(given, bias=0.5)
    scale_learning_rates(optimizer, 0.1)
    rates = {id(p): group["lr"] for group in optimizer.param_groups for p in group["params"]}
    assert [rates[id(p)] for p in given.values()] == pytest.approx([0.01, 0.05, 0.01])


def test_a_step_is_that_of_adamw():
    given = parameters()
    expected = {n: nn.Parameter(p.detach().clone()) for n, p in given.items()}
    plain = [
        torch.optim.AdamW([expected["A"]], lr=1e-2, weight_decay=0.1, fused=False),
        torch.optim.AdamW([expected["bias"], expected["prompt"]], lr=1e-2, weight_decay=0.0, fused=False),
    ]
    optimizer = optimizer_of(given)
    for number in range(1, 4):
        step(optimizer, given, number)
        for p in expected.values():
            p.grad = torch.full_like(p, 0.1 * number)
        for one in plain:
            one.step()
    for name in given:
        torch.testing.assert_close(given[name], expected[name], rtol=1e-6, atol=1e-7)


def test_an_optimizer_with_restored_moments_goes_on_bit_for_bit():
    given = parameters()
    optimizer = optimizer_of(given)
    for number in range(1, 4):
        step(optimizer, given, number)
    copies = {n: nn.Parameter(p.detach().clone()) for n, p in given.items()}
    copies["prompt"].no_decay = True
    other = optimizer_of(copies)
    restore_moments(other, copies, {n: t.clone() for n, t in moments(optimizer, given).items()})
    step(optimizer, given, 4)
    step(other, copies, 4)
    assert all(torch.equal(given[n], copies[n]) for n in given)


def test_a_parameter_that_was_never_stepped_has_no_moments():
    given = parameters()
    optimizer = optimizer_of(given)
    given["A"].grad = torch.ones_like(given["A"])
    optimizer.step()
    assert set(moments(optimizer, given)) == {"step.A", "exp_avg.A", "exp_avg_sq.A"}
    other = optimizer_of(given)
    restore_moments(other, given, moments(optimizer, given))
    assert list(other.state) == [given["A"]]
