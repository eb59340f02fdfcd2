"""Phases come from the method: their steps, their schedules, what they train, and what never moves."""

from __future__ import annotations

import json

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from peftcli.blocks.pruned import places
from peftcli.blocks.sparse import Sparse
from peftcli.delta.registry import find
from peftcli.errors import RecipeError
from peftcli.methods.lora import Lora
from peftcli.recipe.recipe import TrainingSection
from peftcli.training.loop import fit
from peftcli.training.schedule import Plan, factor

LtSft, DiffPruning, WinningTicket = find("lt_sft"), find("diff_pruning"), find("winning_ticket")
LT_SFT = LtSft(entries=60)
DIFF = DiffPruning(entries=60, l0_penalty=1e-3)
SECTION = {"epochs": 4.0, "weight_decay": 0.1, "warmup": "0%"}


@given(total=st.integers(1, 200), phases=st.integers(1, 5))
def test_the_steps_are_shared_out_in_equal_parts(total, phases):
    if total < phases:
        with pytest.raises(RecipeError, match="cannot be shared out"):
            Plan(total=total, phases=phases)
        return
    plan = Plan(total=total, phases=phases)
    lengths = [plan.length(n) for n in range(phases)]
    assert sum(lengths) == total
    assert max(lengths) - min(lengths) <= 1
    numbers = [plan.phase(step) for step in range(1, total + 1)]
    assert numbers == sorted(numbers)
    assert [numbers.count(n) for n in range(phases)] == lengths
    assert plan.phase(0) == 0


def test_every_phase_has_the_whole_schedule():
    plan, section = Plan(total=7, phases=2), TrainingSection(warmup=1)
    found = [plan.factor(step, section) for step in range(1, 8)]
    assert found == [factor(s, 4, section) for s in range(1, 5)] + [factor(s, 3, section) for s in range(1, 4)]


def test_fewer_steps_than_phases_are_refused(make_job):
    with pytest.raises(RecipeError, match="1 steps cannot be shared out between the 2 phases"):
        fit(make_job(methods=(LT_SFT,), section={"steps": 1, "epochs": None}))


@pytest.mark.parametrize("method", [LT_SFT, DIFF], ids=["lt_sft", "diff_pruning"])
def test_what_the_mask_leaves_out_is_the_base_bit_for_bit_after_training(make_job, method):
    """With weight decay, and with moments of the first phase that would move everything."""
    job = make_job(methods=(method,), section=SECTION)
    before = {n: p.detach().clone() for n, p in job.delta.base.parameters.items() if n not in job.delta.base.head}
    outcome = fit(job)
    packed = job.delta.pack()
    assert packed.size == 60
    assert outcome.trained >= job.delta.base.size - 200  # all but the norms, in the first phase
    changed = 0
    for block in job.delta.blocks_of(method):
        for name in block.tensors:
            start = block.start(name)
            now = block.changed(name).detach() if name in block.changes else start
            changed += int((now != start).sum())
    assert 50 < changed <= 60
    assert all(torch.equal(before[n], job.delta.base.parameters[n]) for n in before)
    assert outcome.proofs["frozen_tensors_moved"] == 0
    assert outcome.proofs["trained_numbers"] == 60 + job.delta.head_size
    with packed.disabled():
        assert all(torch.equal(before[n], p) for n, p in job.delta.base.parameters.items() if n in before)


def test_the_log_names_the_phase_and_the_rate_begins_anew(make_job, tmp_path):
    outcome = fit(make_job(methods=(LT_SFT,), section=SECTION))
    lines = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert [line["phase"] for line in lines if "phase" in line] == [1] * 6 + [2] * 6
    rates = [rate for _, rate in outcome.learning_rates]
    assert rates[:6] == rates[6:]


def test_the_best_delta_is_chosen_in_the_last_phase_alone(make_job):
    scores = iter([0.1, 0.2, 0.9, 0.8])
    job = make_job(methods=(LT_SFT,), section=SECTION, evaluate_with=lambda _: {"loss": next(scores)})
    outcome = fit(job)
    assert [step for step, _ in outcome.evaluations] == [3, 6, 9, 12]
    assert outcome.best_step == 12
    assert [best for _, _, best in job.progress.evaluations] == [False, False, True, True]
    assert job.delta.size == 60


def test_waiting_for_a_better_score_begins_with_the_last_phase(make_job):
    scores = iter([0.1, 0.2, 0.3, 0.4, 0.5, 0.6])
    job = make_job(
        methods=(LT_SFT,),
        section={**SECTION, "epochs": 6.0, "early_stopping": 2},
        evaluate_with=lambda _: {"loss": next(scores)},
    )
    outcome = fit(job)
    assert (outcome.best_step, outcome.steps) == (12, 18)


def test_a_phase_begins_with_fresh_moments(make_job):
    """Moments of the first phase would move the second by much more than its first step."""
    job = make_job(methods=(LT_SFT,), section={**SECTION, "epochs": 2.0, "weight_decay": 0.0}, select="last")
    sizes = []
    job.progress.at_step = lambda step: sizes.append(
        max(float(p.detach().abs().max()) for p in job.delta.parameters.values())
    )
    fit(job)
    # The first step of Adam is the learning rate itself.
    assert sizes[0] == pytest.approx(1e-2, rel=1e-3)
    assert sizes[3] == pytest.approx(1e-2, rel=1e-3)


class Penalised(Lora):
    """LoRA with a penalty on its numbers, and a note of every step."""

    name = "penalised"
    card = Lora.card

    def penalty(self, delta):
        return 0.5 * sum((p - 1).pow(2).sum() for p in delta.parameters.values())

    def before_step(self, delta, step, total):
        SEEN.append((step, total))


SEEN: list[tuple[int, int]] = []


@pytest.mark.parametrize("micro_batch_size", [1, 4])
def test_a_penalty_is_added_to_the_mean_loss_once_a_step_however_the_batch_is_cut(make_job, micro_batch_size):
    SEEN.clear()
    section = {"steps": 1, "epochs": None, "base_dropout": "off", "clip": None}
    keys = {"section": section, "micro_batch_size": micro_batch_size, "select": "last"}
    plain = fit(make_job(methods=(Lora(rank=2),), **keys))
    job = make_job(methods=(Penalised(rank=2),), **keys)
    expected = float(job.delta.penalty().detach())
    outcome = fit(job)
    assert outcome.losses[0][1] - plain.losses[0][1] == pytest.approx(expected, rel=1e-5)
    assert SEEN == [(1, 1)]


def test_the_gradient_of_a_penalty_is_not_scaled_with_the_loss(make_job):
    section = {"steps": 2, "epochs": None, "base_dropout": "off", "clip": None}
    keys = {"methods": (Penalised(rank=2),), "section": section, "select": "last"}
    plain, scaled = make_job(**keys), make_job(**keys)
    scaled.accelerator.scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10)
    one = fit(plain)
    plain.accelerator.scaler = None
    torch.testing.assert_close(torch.tensor(fit(scaled).losses), torch.tensor(one.losses), rtol=1e-4, atol=1e-5)


def test_a_stack_has_the_phases_of_its_longest_method(make_job):
    job = make_job(methods=(Lora(rank=2), LT_SFT), section=SECTION)
    assert job.delta.phases == 2
    fit(job)
    assert {m.name for m in job.delta.owners.values()} == {"lora", "lt_sft"}
    assert all(m.name == a.partition(".")[0] for a, m in job.delta.owners.items())
    assert any(p.abs().max() > 0 for a, p in job.delta.parameters.items() if a.endswith(".B"))


def test_tensors_of_a_new_phase_have_their_methods_rate(make_job):
    job = make_job(methods=(DIFF,), section=SECTION)
    asked = []

    def rates(delta):
        asked.append({a: delta.owners[a].rate_factor(a.rpartition(".")[2]) for a in delta.parameters})
        return dict.fromkeys(delta.trained(), 1e-3)

    object.__setattr__(job, "rates", rates)
    fit(job)
    first, last = asked
    assert {first[a] for a in first if a.endswith((".alpha", ".group"))} == {1e4}
    assert set(last.values()) == {5.0}


def test_the_penalty_closes_gates(make_job):
    strong = DiffPruning(entries=60, l0_penalty=1.0)
    job = make_job(methods=(strong,), section={**SECTION, "epochs": 10.0}, learning_rate=1.0, select="last")
    costs = []
    job.progress.at_step = lambda _: costs.append(job.delta.penalty())
    fit(job)
    costs = [float(c.detach()) for c in costs if c is not None]
    assert costs[-1] < 0.5 * costs[0]


class Rare(LtSft):
    """Chooses the first entries of the first tensor: the row of padding, which no batch reads."""

    name = "rare"

    def begin_phase(self, delta, phase):
        blocks = delta.blocks_of(self)
        for block in blocks:
            for name in block.tensors:
                block.give(name, None)
        blocks[-1].give("weight", Sparse(torch.arange(4)))


def test_entries_that_no_batch_has_met_so_far_may_rest(make_job):
    job = make_job(methods=(Rare(),), section=SECTION, select="last")
    assert fit(job).proofs["tensors_without_gradient"] == list(job.delta.parameters)


TICKET = WinningTicket(survivors="30%", rounds=2)


def test_a_pruned_weight_is_zero_after_training_and_the_base_is_what_it_was(make_job):
    """With weight decay, and with moments of the rounds before that would move everything."""
    job = make_job(methods=(TICKET,), section={**SECTION, "epochs": 6.0})
    before = {n: p.detach().clone() for n, p in job.delta.base.parameters.items() if n not in job.delta.base.head}
    outcome = fit(job)
    packed = job.delta.pack()
    total = outcome.trained
    assert packed.size == int(0.3 * total)
    now = [b.changed(n).detach() for b in job.delta.blocks_of(TICKET) for n in b.tensors]
    assert sum(w.numel() for w in now) == total
    assert sum(int((w != 0).sum()) for w in now) == packed.size
    assert outcome.proofs["frozen_tensors_moved"] == 0
    assert all(torch.equal(before[n], job.delta.base.parameters[n]) for n in before)
    sizes = [int(note.split(": ")[1].split()[0].replace(",", "")) for note in job.progress.notes if "phase" in note]
    assert sizes == [total, round(total * (packed.size / total) ** 0.5), packed.size]


class Chance(WinningTicket):
    """Survivors drawn at random, as a control."""

    name = "chance"

    def before_update(self, delta):
        for block, name in places(delta.blocks_of(self)):
            if block.survivors(name).score is not None:
                block.survivors(name).score.uniform_()


@pytest.mark.parametrize("score", ["magnitude", "movement"])
def test_a_ticket_learns_more_than_as_many_weights_drawn_at_random(make_job, score):
    found = []
    for kind, by in ((WinningTicket, score), (Chance, "movement")):
        method = kind(survivors="10%", rounds=2, score=by)
        job = make_job(methods=(method,), section={**SECTION, "epochs": 30.0}, rows=24)
        found.append(sum(loss for _, loss in fit(job).losses[-12:]))
    assert found[0] < 0.9 * found[1]
