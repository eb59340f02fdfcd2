"""DiffPruning: the gates, their penalty and its gradient in closed form, and what pruning leaves."""

from __future__ import annotations

import pytest
import torch
from tiny import tiny_base, tiny_batch

from peftcli.base.anatomy import Anatomy
from peftcli.blocks.hard_concrete import GatedChange, gate, probability_of_open
from peftcli.blocks.masked import changes
from peftcli.delta.delta import attach
from peftcli.errors import MethodError
from peftcli.methods.diff_pruning import DiffPruning

BERT_LARGE = {
    "model_type": "bert",
    "hidden_size": 1024,
    "num_hidden_layers": 24,
    "num_attention_heads": 16,
    "intermediate_size": 4096,
}
METHOD = DiffPruning(entries=60, l0_penalty=1e-3)


def adapted(method=METHOD):
    return attach((method,), tiny_base("bert", "classification"), seed=0)


def logits(delta):
    return delta.base.network(**tiny_batch("bert")).logits


def drawn(*shape):
    u = torch.rand(shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return (u / (1 - u)).log()


@pytest.mark.parametrize("alpha", [-3.0, -1.0, 0.0, 0.7, 5.0])
def test_the_probability_of_an_open_gate_is_the_closed_form(alpha):
    """P(z > 0) = 1 - Q(0), where Q is the distribution of the stretched concrete variable."""
    z = gate(torch.tensor(alpha), drawn(200_000))
    assert float(probability_of_open(torch.tensor(alpha))) == pytest.approx(float((z > 0).double().mean()), abs=5e-3)


def test_a_gate_is_the_papers():
    alpha, noise = torch.linspace(-4, 4, 9, dtype=torch.float64), drawn(9)
    u = torch.sigmoid(noise)
    s = torch.sigmoid(torch.log(u) - torch.log(1 - u) + alpha)
    for found, stretched in ((gate(alpha, noise), s * 3 - 1.5), (gate(alpha), alpha.sigmoid() * 3 - 1.5)):
        torch.testing.assert_close(found, torch.minimum(torch.ones(9).double(), torch.relu(stretched)))


@pytest.mark.parametrize("structured", [True, False])
def test_the_expected_l0_and_its_gradients_are_the_closed_form(structured):
    change = GatedChange(torch.zeros(3, 4), structured=structured)
    with torch.no_grad():
        change.alpha.copy_(torch.linspace(-2, 2, 12).view(3, 4))
        if structured:
            change.group.fill_(0.5)
    p = 1 / (1 + torch.exp(-change.alpha.detach()))
    group = 1 / (1 + torch.exp(torch.tensor(-0.5))) if structured else torch.tensor(1.0)
    found = change.expected_l0()
    torch.testing.assert_close(found.detach(), (p * group).sum())
    found.backward()
    torch.testing.assert_close(change.alpha.grad, p * (1 - p) * group)
    if structured:
        torch.testing.assert_close(change.group.grad, p.sum() * group * (1 - group))


def test_the_penalty_is_lambda_times_the_sum_over_all_tensors_and_spares_the_head():
    delta = adapted()
    assert delta.penalty() is None
    delta.begin_phase(0)
    gates = sum(p.numel() for a, p in delta.parameters.items() if a.endswith(".alpha"))
    assert gates == delta.base.size
    at_start = torch.sigmoid(torch.tensor(5.0)) ** 2
    torch.testing.assert_close(delta.penalty().detach(), 1e-3 * gates * at_start)
    delta.begin_phase(1)
    assert delta.penalty() is None


def test_it_starts_at_the_base_whatever_is_drawn():
    delta = adapted()
    expected = logits(delta)
    delta.begin_phase(0)
    delta.base.network.train()
    for module in delta.base.network.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    delta.before_step(1, 10)
    torch.testing.assert_close(logits(delta), expected, rtol=0, atol=0)


@torch.no_grad()
def test_gates_are_drawn_once_a_step_in_training_and_not_at_all_in_evaluation():
    delta = adapted()
    delta.begin_phase(0)
    for address, parameter in delta.parameters.items():
        parameter.copy_(torch.randn(parameter.shape) if address.endswith(".w") else torch.zeros(parameter.shape))
    change = next(c for c in changes(delta.blocks_of(delta.methods[0])) if c.w.ndim == 2)
    start = torch.zeros(change.w.shape)
    quiet = change.eval()(start)
    torch.testing.assert_close(quiet, torch.zeros_like(quiet))  # alpha is 0: without chance, z = 1.5 * 0.5 ... = 0
    change.train()
    delta.before_step(1, 10)
    first = change(start)
    assert torch.equal(change(start), first)
    delta.before_step(2, 10)
    assert not torch.equal(change(start), first)
    assert torch.equal(change.eval()(start), quiet)


def test_pruning_keeps_the_largest_to_the_number_and_they_go_on_from_where_they_are():
    delta = adapted()
    delta.begin_phase(0)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in delta.parameters.values():
            parameter.add_(torch.randn(parameter.shape, generator=generator))
    moves = {(b, n): b.changes[n].move().detach() for b in delta.blocks_of(METHOD) for n in b.tensors}
    starts = {(b, n): b.start(n).clone() for b, n in moves}
    delta.begin_phase(1)
    assert delta.size == 60
    kept = []
    for (block, name), move in moves.items():
        mask = torch.zeros(move.numel(), dtype=torch.bool)
        if name in block.changes:
            mask[block.changes[name].indices] = True
            assert torch.equal(block.changes[name].values, move.view(-1)[mask])
        after = block.changed(name) if name in block.changes else block.start(name)
        assert torch.equal(after.reshape(-1)[~mask], starts[block, name].view(-1)[~mask])
        kept.append((move.view(-1)[mask].abs(), move.view(-1)[~mask].abs()))
    assert min(float(a.min()) for a, _ in kept if len(a)) >= max(float(b.max()) for _, b in kept if len(b))


def test_half_a_percent_of_bert_large_is_the_published_budget():
    count = DiffPruning().count(Anatomy.of(BERT_LARGE, task="classification", labels=2))
    assert count == pytest.approx(1.68e6, rel=5e-3)


def test_the_gates_and_the_survivors_have_rates_of_their_own():
    rates = {n: METHOD.learning_rate * METHOD.rate_factor(n) for n in ("w", "alpha", "group", "weight")}
    assert rates == pytest.approx({"w": 1e-5, "alpha": 0.1, "group": 0.1, "weight": 5e-5})


def test_a_base_model_that_is_too_large_is_refused_before_memory_is_taken():
    delta = adapted(DiffPruning(entries=60, most_numbers=1000))
    with pytest.raises(MethodError, match=r"9 more copies of the .* numbers of bert") as error:
        delta.begin_phase(0)
    assert "most_numbers" in error.value.problems[0].hint


def test_what_is_finished_needs_no_more_memory_than_its_entries():
    delta = adapted(DiffPruning(entries=60, most_numbers=1000))
    delta.load(delta.state())
    assert delta.size == 60
