from __future__ import annotations

import torch
from torch import nn

from peftcli.training.optimizer import decays, make_optimizer, moments, restore_moments, set_learning_rate


def parameters():
    torch.manual_seed(0)
    prompt = nn.Parameter(torch.randn(3, 4))
    prompt.no_decay = True
    return {"A": nn.Parameter(torch.randn(2, 4)), "bias": nn.Parameter(torch.randn(4)), "prompt": prompt}


def step(optimizer, given, number):
    for p in given.values():
        p.grad = torch.full_like(p, 0.1 * number)
    set_learning_rate(optimizer, 1e-2)
    optimizer.step()


def test_only_matrices_without_a_mark_decay():
    assert [decays(p) for p in parameters().values()] == [True, False, False]


def test_the_groups_hold_every_parameter_once_with_its_decay():
    given = parameters()
    decaying, free = make_optimizer(given, 0.1).param_groups
    assert [id(p) for p in decaying["params"]] == [id(given["A"])]
    assert [id(p) for p in free["params"]] == [id(given["bias"]), id(given["prompt"])]
    assert (decaying["weight_decay"], free["weight_decay"]) == (0.1, 0.0)


def test_a_step_is_that_of_adamw():
    given = parameters()
    expected = {n: nn.Parameter(p.detach().clone()) for n, p in given.items()}
    plain = [
        torch.optim.AdamW([expected["A"]], lr=1e-2, weight_decay=0.1, fused=False),
        torch.optim.AdamW([expected["bias"], expected["prompt"]], lr=1e-2, weight_decay=0.0, fused=False),
    ]
    optimizer = make_optimizer(given, 0.1)
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
    optimizer = make_optimizer(given, 0.1)
    for number in range(1, 4):
        step(optimizer, given, number)
    copies = {n: nn.Parameter(p.detach().clone()) for n, p in given.items()}
    copies["prompt"].no_decay = True
    other = make_optimizer(copies, 0.1)
    restore_moments(other, copies, {n: t.clone() for n, t in moments(optimizer, given).items()})
    step(optimizer, given, 4)
    step(other, copies, 4)
    assert all(torch.equal(given[n], copies[n]) for n in given)


def test_a_parameter_that_was_never_stepped_has_no_moments():
    given = parameters()
    optimizer = make_optimizer(given, 0.1)
    given["A"].grad = torch.ones_like(given["A"])
    optimizer.step()
    assert set(moments(optimizer, given)) == {"step.A", "exp_avg.A", "exp_avg_sq.A"}
    other = make_optimizer(given, 0.1)
    restore_moments(other, given, moments(optimizer, given))
    assert list(other.state) == [given["A"]]
