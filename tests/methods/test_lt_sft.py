"""LT-SFT against the paper's algorithm in bare torch, and a sparse change of any tensor against a plain network."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tiny import FAMILIES, tasks, tiny_base, tiny_batch, tiny_network

from peftcli.base.anatomy import Anatomy
from peftcli.blocks.sparse import Sparse, largest
from peftcli.delta.delta import attach
from peftcli.errors import ArtifactError, MethodError
from peftcli.methods.lt_sft import LtSft

XLM_R = {"model_type": "xlm-roberta", "vocab_size": 250_002, "max_position_embeddings": 514, "type_vocab_size": 1}
STEPS = 4


def outputs(network, family):
    out = network(**tiny_batch(family))
    return out.logits if "logits" in out else out.last_hidden_state


def loss_of(network):
    return network(**tiny_batch("bert")).logits.pow(2).mean()


def steps(network, parameters, after=lambda: None):
    optimizer = torch.optim.AdamW(parameters, lr=1e-2, weight_decay=0.0)
    for _ in range(STEPS):
        optimizer.zero_grad()
        loss_of(network).backward()
        after()
        optimizer.step()


def plain():
    """Return a plain network, what trains of it in phase one by address, and its base model for the addresses."""
    network = tiny_network("bert", "classification")
    base = tiny_base("bert", "classification")
    norms = {base.name(t.address) for t in base.anatomy.norms}
    trained = {base.address(n): p for n, p in network.named_parameters() if n not in norms}
    return network, trained


def test_both_phases_are_the_papers():
    entries = 100
    delta = attach((LtSft(entries=entries),), tiny_base("bert", "classification"), seed=0)
    network, trained = plain()
    start = {a: p.detach().clone() for a, p in trained.items()}
    heads = {a.removeprefix("head.") for a in delta.head}

    delta.begin_phase(0)
    steps(delta.base.network, delta.trained().values())
    steps(network, trained.values())
    moved = {a: (p - start[a]).detach() for a, p in trained.items() if a not in heads}
    for address, change in moved.items():
        if address.endswith("W_k.bias"):
            continue  # its gradient is rounding alone, which Adam makes as large as any other
        torch.testing.assert_close(delta.parameters[f"lt_sft.{address}"].detach(), change, rtol=1e-3, atol=1e-5)

    delta.begin_phase(1)
    mask = {a: torch.zeros_like(p, dtype=torch.bool) for a, p in moved.items()}
    for name, indices in delta.buffers.items():
        mask[name.removeprefix("lt_sft.").removesuffix(".indices")].view(-1)[indices] = True
    others = {a: m for a, m in mask.items() if not a.endswith("W_k.bias")}
    inside = torch.cat([moved[a][m].abs() for a, m in others.items()])
    outside = torch.cat([moved[a][~m].abs() for a, m in others.items()])
    assert sum(int(m.sum()) for m in mask.values()) == entries == delta.size
    assert inside.min() >= outside.max() - 1e-4
    with torch.no_grad():
        for address, parameter in trained.items():
            parameter.copy_(start[address])
    assert torch.equal(loss_of(delta.base.network), loss_of(network))

    def masked():
        for address, m in mask.items():
            trained[address].grad[~m] = 0  # without decay and with fresh moments, this is the masked update

    steps(delta.base.network, delta.trained().values())
    steps(network, trained.values(), masked)
    for address in moved:
        block, name = place(delta, address)
        now = block.changed(name) if name in block.changes else block.start(name)
        torch.testing.assert_close(now, trained[address].detach(), rtol=1e-3, atol=2e-4)
        assert torch.equal(now[~mask[address]], start[address][~mask[address]])


def place(delta, address):
    path, _, own = delta.base.name(address).rpartition(".")
    block = delta.base.module(path)
    return block, own


@torch.no_grad()
@pytest.mark.parametrize("family", FAMILIES)
def test_a_change_of_entries_is_that_of_a_plain_network_wherever_the_tensor_is_used(family):
    """Tied heads, tables that are read without a call, class tokens, convolutions, fused projections."""
    base = tiny_base(family, tasks(family)[-1])
    network = tiny_network(family, tasks(family)[-1])
    delta = attach((LtSft(entries="60%", freeze_norms=False),), base, seed=0)
    own = dict(network.named_parameters())
    generator = torch.Generator().manual_seed(1)
    for address, values in delta.parameters.items():
        values.copy_(torch.randn(values.shape, generator=generator))
        tensor = own[base.name(address.removeprefix("lt_sft."))]
        tensor.view(-1)[delta.buffers[f"{address}.indices"]] += values
    assert torch.equal(outputs(base.network, family), outputs(network, family))


@pytest.mark.parametrize("entries", [14_155_776, 7_667_712])
def test_the_count_is_k_as_in_the_published_scripts(entries):
    anatomy = Anatomy.of({**XLM_R, "model_type": "roberta"}, task="classification", labels=3)
    assert LtSft(entries=entries).count(anatomy) == entries


def test_a_share_is_of_what_may_change():
    anatomy = Anatomy.of({"model_type": "bert"})
    norms = sum(t.size for t in anatomy.norms)
    assert LtSft(entries="5%").count(anatomy) == int((anatomy.size - norms) * 0.05)
    assert LtSft(entries="100%", freeze_norms=False).count(anatomy) == anatomy.size


def test_more_entries_than_there_are_is_refused():
    with pytest.raises(MethodError, match="entries is 99,999,999, but bert has"):
        attach((LtSft(entries=99_999_999),), tiny_base("bert"), seed=0)


@pytest.mark.parametrize("share", ["0%", "101%"])
def test_a_share_that_is_none_is_refused(share):
    with pytest.raises(ValueError, match="is no share of the entries"):
        LtSft(entries=share)


def test_frozen_norms_are_never_changed_in_either_phase():
    delta = attach((LtSft(),), tiny_base("bert"), seed=0)
    delta.begin_phase(0)
    assert not any("norm" in address.lower() for address in delta.parameters)


@given(
    numbers=st.lists(st.lists(st.integers(-3, 3), max_size=6), min_size=1, max_size=4),
    share=st.floats(0, 1),
)
def test_the_largest_are_those_of_a_stable_sort_with_ties_in_order(numbers, share):
    tensors = [torch.tensor(row, dtype=torch.float32) for row in numbers]
    count = int(share * sum(map(len, numbers)))
    places = [(t, i) for t, row in enumerate(numbers) for i in range(len(row))]
    expected = sorted(sorted(places, key=lambda p: -abs(numbers[p[0]][p[1]]))[:count])
    found = largest([lambda t=t: t for t in tensors], count)
    assert [(t, i) for t, rows in enumerate(found) for i in rows.tolist()] == expected


def test_the_head_goes_back_to_its_start_for_the_second_phase():
    delta = attach((LtSft(),), tiny_base("bert", "classification"), seed=0)
    before = {a: p.detach().clone() for a, p in delta.head.items()}
    delta.begin_phase(0)
    steps(delta.base.network, delta.trained().values())
    assert not any(torch.equal(before[a], p) for a, p in delta.head.items())
    delta.begin_phase(1)
    assert all(torch.equal(before[a], p) for a, p in delta.head.items())


def test_a_finished_delta_holds_values_and_indices_alone_and_is_restored_exactly():
    delta = attach((LtSft(entries=50),), tiny_base("bert", "classification"), seed=0)
    for phase in range(2):
        delta.begin_phase(phase)
        steps(delta.base.network, delta.trained().values())
    state = delta.pack().state()
    values = {n: t for n, t in state.items() if f"{n}.indices" in state}
    assert sum(t.numel() for t in values.values()) == 50
    assert {t.dtype for n, t in state.items() if n.endswith(".indices")} == {torch.int64}
    assert state.keys() == {*values, *(f"{n}.indices" for n in values), *delta.head}
    fresh = attach(delta.methods, tiny_base("bert", "classification"), seed=5)
    fresh.load(state)
    assert torch.equal(outputs(fresh.base.network, "bert"), outputs(delta.base.network, "bert"))
    assert all(torch.equal(t, fresh.state()[n]) for n, t in state.items())


@pytest.mark.parametrize("indices", [[3, 3], [5, 2], [-1, 4], [0, 10**6], []])
def test_indices_that_do_not_rise_or_point_outside_are_refused(indices):
    delta = attach((LtSft(entries=50),), tiny_base("bert"), seed=0)
    state = delta.state()
    name = next(n for n in delta.parameters)
    state[name], state[f"{name}.indices"] = torch.zeros(len(indices)), torch.tensor(indices, dtype=torch.int64)
    with pytest.raises(ArtifactError, match=f"the indices of {name} do not rise, or point outside"):
        delta.load(state)


@torch.no_grad()
def test_a_part_of_a_tensor_is_folded_as_the_whole():
    change = Sparse(torch.tensor([0, 3, 4, 9]), torch.tensor([1.0, 2.0, 3.0, 4.0]))
    tensor = torch.zeros(5, 2)
    for rows in (slice(0, 2), slice(2, 3), slice(3, 5)):
        change.add_to(tensor[rows].view(-1), first=rows.start * 2)
    assert torch.equal(tensor, change(torch.zeros(5, 2)))


@torch.no_grad()
def test_in_bfloat16_the_sum_is_rounded_once_as_in_a_merged_model():
    base = tiny_base("bert")
    base.network.to(torch.bfloat16)
    delta = attach((LtSft(entries=50),), base, seed=0)
    for values in delta.parameters.values():
        values.fill_(0.01)
    block, name = place(delta, next(iter(delta.parameters)).removeprefix("lt_sft."))
    start = block.start(name)
    exact = start.float()
    exact.view(-1)[block.changes[name].indices] += 0.01
    assert torch.equal(block.changed(name), exact.to(torch.bfloat16))
