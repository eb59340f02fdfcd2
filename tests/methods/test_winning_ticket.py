"""Winning tickets: the rounds in bare torch, what is pruned and what is rewound, and what a ticket leaves alone."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from tiny import tiny_base, tiny_batch, tiny_network

from peftcli.base.anatomy import Anatomy
from peftcli.blocks.pruned import places
from peftcli.blocks.sparse import largest
from peftcli.delta.budget import solve
from peftcli.delta.delta import attach
from peftcli.delta.registry import find
from peftcli.errors import ArtifactError, MethodError
from peftcli.methods.winning_ticket import WinningTicket

BERT = {"model_type": "bert"}
MATRICES = 12 * (4 * 768 * 768 + 2 * 768 * 3072)
STEPS = 3
METHOD = WinningTicket(survivors=700, rounds=2)


def outputs(network, family="bert"):
    out = network(**tiny_batch(family))
    return out.logits if "logits" in out else out.last_hidden_state


def adapted(method=METHOD, family="bert", task="classification", *others):
    return attach((method, *others), tiny_base(family, task), seed=0)


def weights(delta):
    """Return every target weight as it is now, by address."""
    method = next(m for m in delta.methods if isinstance(m, WinningTicket))
    return {
        b.address_of(n).partition(".")[2]: b.changed(n).detach().clone() for b, n in places(delta.blocks_of(method))
    }


def steps(network, trained, after, count=STEPS):
    optimizer = torch.optim.AdamW(trained, lr=1e-2, weight_decay=0.0)
    for _ in range(count):
        optimizer.zero_grad()
        outputs(network).pow(2).mean().backward()
        after()
        optimizer.step()


class Dense:
    """The same rounds on a plain network whose weights are multiplied by a mask after every step."""

    def __init__(self, addresses, base):
        self.network = tiny_network("bert", "classification")
        own = dict(self.network.named_parameters())
        self.weights = {a: own[base.name(a)] for a in addresses}
        self.head = [own[n] for n in sorted(base.head)]
        self.start = {a: w.detach().clone() for a, w in self.weights.items()}
        self.head_start = [p.detach().clone() for p in self.head]
        self.mask = {a: torch.ones_like(w) for a, w in self.weights.items()}
        self.movement = {a: torch.zeros_like(w) for a, w in self.weights.items()}

    def train(self):
        steps(self.network, [*self.weights.values(), *self.head], self._mask_gradients)

    def _mask_gradients(self):
        for address, weight in self.weights.items():
            weight.grad *= self.mask[address]
            self.movement[address] -= weight.grad * weight.detach()

    @torch.no_grad()
    def prune(self, number, *, movement):
        scores = {a: self.movement[a] if movement else w.abs() for a, w in self.weights.items()}
        left = torch.cat([scores[a][self.mask[a] > 0] for a in scores]).sort(descending=True).values
        threshold = (left[number - 1] + left[number]) / 2
        for address, weight in self.weights.items():
            self.mask[address] *= scores[address] > threshold
            self.movement[address].zero_()
            weight.copy_(self.start[address] * self.mask[address])
        for parameter, start in zip(self.head, self.head_start, strict=True):
            parameter.copy_(start)


@pytest.mark.parametrize("score", ["magnitude", "movement"])
def test_the_rounds_are_those_of_a_dense_network_behind_a_mask(score):
    method = WinningTicket(survivors=700, rounds=2, score=score)
    delta = adapted(method)
    dense = Dense(weights(delta), delta.base)
    for phase in range(3):
        delta.begin_phase(phase)
        if phase:
            dense.prune(method.left(delta.base.anatomy, phase), movement=score == "movement")
            now = weights(delta)
            assert all(torch.equal(now[a] != 0, dense.mask[a] > 0) for a in now)
            assert all(torch.equal(now[a], dense.start[a] * dense.mask[a]) for a in now)
        assert torch.equal(outputs(delta.base.network), outputs(dense.network))
        steps(delta.base.network, delta.trained().values(), delta.before_update)
        dense.train()
        for address, weight in weights(delta).items():
            torch.testing.assert_close(weight, dense.weights[address].detach(), rtol=1e-3, atol=1e-5)
    assert delta.size == 700


def test_the_first_round_starts_at_the_base_bit_for_bit():
    delta = adapted()
    delta.begin_phase(0)
    assert torch.equal(outputs(delta.base.network), outputs(tiny_network("bert", "classification")))
    assert delta.size == 2 * (4 * 16 * 16 + 2 * 16 * 24)


@pytest.mark.parametrize(("survivors", "rounds"), [("10%", 1), ("30%", 3), (700, 5), ("100%", 2)])
def test_every_round_prunes_the_same_share_of_what_is_left(survivors, rounds):
    method = WinningTicket(survivors=survivors, rounds=rounds)
    delta = adapted(method)
    sizes = []
    for phase in range(method.phases):
        delta.begin_phase(phase)
        sizes.append(delta.size)
        assert sum(int((w != 0).sum()) for w in weights(delta).values()) == delta.size
    share = (sizes[-1] / sizes[0]) ** (1 / rounds)
    assert sizes[-1] == method.count(delta.base.anatomy)
    assert all(b == pytest.approx(a * share, abs=1) for a, b in pairwise(sizes))


def test_what_is_pruned_never_comes_back():
    delta = adapted(WinningTicket(survivors="20%", rounds=3, score="movement"))
    gone = {}
    for phase in range(4):
        delta.begin_phase(phase)
        steps(delta.base.network, delta.trained().values(), delta.before_update)
        now = weights(delta)
        assert all(not now[a][m].any() for a, m in gone.items())
        gone = {a: w == 0 for a, w in now.items()}


def test_survivors_begin_every_round_at_the_pretrained_values():
    delta = adapted()
    start = {a: delta.base.parameters[delta.base.name(a)].detach().clone() for a in weights(delta)}
    for phase in range(3):
        delta.begin_phase(phase)
        assert all(torch.equal(w[w != 0], start[a][w != 0]) for a, w in weights(delta).items())
        steps(delta.base.network, delta.trained().values(), lambda: None)


def test_late_rewinding_goes_back_to_the_values_after_a_share_of_the_first_round():
    method = WinningTicket(survivors=700, rounds=2, rewind="50%")
    delta = adapted(method)
    delta.begin_phase(0)
    noted = {}
    for step in range(1, 5):  # of 12 steps in three phases, which take four each
        delta.before_step(step, 12)
        noted[step] = weights(delta)
        steps(delta.base.network, delta.trained().values(), lambda: None, count=1)
    for phase in (1, 2):
        delta.begin_phase(phase)
        assert all(torch.equal(w[w != 0], noted[3][a][w != 0]) for a, w in weights(delta).items())
        steps(delta.base.network, delta.trained().values(), lambda: None)
    assert not any("late" in name for name in delta.buffers)


def test_the_head_begins_every_round_anew():
    delta = adapted()
    before = {a: p.detach().clone() for a, p in delta.head.items()}
    delta.begin_phase(0)
    steps(delta.base.network, delta.trained().values(), lambda: None)
    assert not any(torch.equal(before[a], p) for a, p in delta.head.items())
    delta.begin_phase(1)
    assert all(torch.equal(before[a], p) for a, p in delta.head.items())


def test_movement_keeps_those_that_move_away_from_zero_and_not_the_large():
    tensors = [torch.tensor([-3.0, 0.5, -0.0, 0.0]), torch.tensor([0.25, -0.1, float("-inf")])]
    makers = [lambda t=t: t for t in tensors]
    assert [i.tolist() for i in largest(makers, 2, signed=True)] == [[1], [0]]
    assert [i.tolist() for i in largest(makers, 3, signed=True)] == [[1, 2], [0]]
    assert [i.tolist() for i in largest(makers, 5, signed=True)] == [[1, 2, 3], [0, 1]]
    assert [i.tolist() for i in largest(makers, 2)] == [[0], [2]]


@torch.no_grad()
@pytest.mark.parametrize("family", ["gpt2", "phi3", "gpt_neox"])
def test_of_a_fused_projection_only_the_named_part_is_pruned(family):
    delta = adapted(WinningTicket(survivors="40%", target_modules=("W_v",), layers="0"), family, "causal-lm")
    site = delta.base.sites(("W_v",), 0)[0]
    ((address, weight),) = weights(delta).items()
    start = delta.base.parameters[delta.base.name(address)]
    features, before = (weight.T, start.T) if site.transposed else (weight, start)
    rows = torch.cat([torch.arange(a, b) for a, b in site.rows])
    others = torch.ones(len(features), dtype=torch.bool)
    others[rows] = False
    assert torch.equal(features[others], before[others])
    assert int((features[rows] != 0).sum()) == delta.size == int(site.d_in * site.d_out * 0.4)


@torch.no_grad()
def test_pruned_embeddings_prune_the_head_that_is_tied_to_them():
    delta = adapted(WinningTicket(survivors="50%", embeddings=True), "gpt2", "causal-lm")
    network = tiny_network("gpt2", "causal-lm")
    own = dict(network.named_parameters())
    for address, weight in weights(delta).items():
        own[delta.base.name(address)].copy_(weight)
    assert network.lm_head.weight is network.transformer.wte.weight
    assert not network.transformer.wte.weight.all()
    torch.testing.assert_close(outputs(delta.base.network, "gpt2"), outputs(network, "gpt2"), rtol=0, atol=0)


def test_a_network_without_token_embeddings_cannot_prune_them():
    with pytest.raises(MethodError, match="vit has no embeddings"):
        adapted(WinningTicket(embeddings=True), "vit")


def test_the_published_sparsity_leaves_that_share_of_berts_matrices():
    anatomy = Anatomy.of(BERT, task="classification", labels=2)
    assert WinningTicket().count(anatomy) == int(MATRICES * 0.3)
    assert WinningTicket(survivors="10%", layers="top:2").count(anatomy) == int(MATRICES / 6 * 0.1)
    assert WinningTicket(embeddings=True, survivors="100%").count(anatomy) == MATRICES + 30522 * 768


def test_a_budget_is_met_exactly():
    solved = solve(WinningTicket(), Anatomy.of(BERT), 123_456)
    assert (solved.setting, solved.achieved) == ("survivors", 123_456)


def test_more_survivors_than_there_are_weights_are_refused():
    with pytest.raises(MethodError, match="survivors is 99,999,999, but the target modules of bert have"):
        adapted(WinningTicket(survivors=99_999_999))


@pytest.mark.parametrize("share", ["0%", "100%", "late"])
def test_a_point_outside_the_first_round_is_refused(share):
    with pytest.raises(ValueError, match="rewind"):
        WinningTicket(rewind=share)


def test_a_weight_that_is_pruned_takes_no_other_change_and_other_weights_do():
    lora = find("lora")(rank=2, target_modules=("W_q",))
    for stack in ((METHOD, lora), (lora, METHOD)):
        with pytest.raises(MethodError, match="both change layer 0 W_q, and one of them needs the weight"):
            attach(stack, tiny_base("bert"), seed=0)
    with pytest.raises(MethodError, match=r"both change layers\.0\.W_q, and one of them"):
        attach((METHOD, find("lt_sft")()), tiny_base("bert"), seed=0)
    delta = adapted(WinningTicket(target_modules=("W_v",)), "bert", None, lora, find("bitfit")())
    assert {m.name for m in delta.owners.values()} == {"winning_ticket", "lora", "bitfit"}


def finished():
    """Return a ticket of a few weights, so that some matrices have none left."""
    delta = adapted(WinningTicket(survivors=20, rounds=1))
    for phase in range(2):
        delta.begin_phase(phase)
        steps(delta.base.network, delta.trained().values(), delta.before_update)
    return delta


def test_a_finished_ticket_holds_values_and_one_bit_a_weight_and_is_restored_exactly():
    delta = finished()
    state = delta.pack().state()
    kept = {n: t for n, t in state.items() if n.endswith(".kept")}
    assert sum(t.numel() for n, t in state.items() if f"{n}.kept" in state) == 20
    assert len(kept) == 12 > sum(f"{n}.kept" in state for n in state)
    assert sum(t.numel() for t in kept.values()) == 2 * (4 * 16 * 16 + 2 * 16 * 24) / 8
    assert {t.dtype for t in kept.values()} == {torch.uint8}
    fresh = attach(delta.methods, tiny_base("bert", "classification"), seed=5)
    fresh.load(state)
    assert torch.equal(outputs(fresh.base.network), outputs(delta.base.network))
    assert all(torch.equal(t, fresh.state()[n]) for n, t in state.items())


@pytest.mark.parametrize("mistake", ["one bit more", "one bit less", "no bits", "another length", "values of two axes"])
def test_survivors_that_do_not_fit_their_values_are_refused(mistake):
    delta = adapted()
    state = delta.state()
    name = next(iter(delta.parameters))
    kept = state[f"{name}.kept"]
    if mistake == "no bits":
        del state[f"{name}.kept"]
    elif mistake == "another length":
        state[f"{name}.kept"] = kept[1:]
    elif mistake == "values of two axes":
        state[name] = state[name][None]
    else:
        byte = int(((kept != 255) & (kept != 0)).nonzero()[0])
        bits = [b for b in range(8) if bool(int(kept[byte]) >> b & 1) is (mistake == "one bit less")]
        kept[byte] ^= 1 << bits[0]
    with pytest.raises(ArtifactError, match=r"does not fit this base model|survivors of .* are not as many"):
        delta.load(state)


def test_a_survivor_outside_the_named_part_is_refused():
    delta = adapted(WinningTicket(survivors="40%", target_modules=("W_v",), layers="0"), "phi3", "causal-lm")
    state = delta.state()
    (name,) = (n for n in state if n.endswith(".kept"))
    state[name] = state[name].flip(0)  # W_q's rows stand first
    with pytest.raises(ArtifactError, match="survivors of"):
        delta.load(state)


@torch.no_grad()
def test_a_part_of_a_weight_is_folded_as_the_whole():
    delta = adapted(WinningTicket(survivors="40%", target_modules=("W_v",)), "phi3", "causal-lm")
    for block, name in places(delta.blocks_of(delta.methods[0])):
        start, whole = block.start(name), block.changed(name)
        for rows in (slice(0, 1), slice(1, 20), slice(20, len(start))):
            assert torch.equal(block.fold(name, start[rows].clone(), rows), whole[rows])


@torch.no_grad()
def test_in_bfloat16_survivors_are_the_pretrained_numbers_and_the_others_zero():
    base = tiny_base("bert")
    base.network.to(torch.bfloat16)
    delta = attach((METHOD,), base, seed=0)
    for address, weight in weights(delta).items():
        start = base.parameters[base.name(address)]
        assert weight.dtype == torch.bfloat16
        assert torch.equal(weight[weight != 0], start[weight != 0])
