from __future__ import annotations

import json
import shutil

import pytest
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState

from peftcli.delta.registry import find
from peftcli.errors import DivergedError, RecipeError
from peftcli.training.loop import fit


def lines(folder):
    return [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]


def test_training_lowers_the_loss(make_job):
    outcome = fit(make_job(section={"steps": 40, "epochs": None, "base_dropout": "off"}, every="end"))
    losses = [loss for _, loss in outcome.losses]
    assert sum(losses[-3:]) < 0.8 * sum(losses[:3])


def test_the_same_job_gives_the_same_numbers(make_job, tmp_path):
    one = make_job(folder=tmp_path)
    first = fit(one)
    log = (tmp_path / "log.jsonl").read_bytes()
    two = make_job(folder=tmp_path)
    assert fit(two).losses == first.losses
    assert (tmp_path / "log.jsonl").read_bytes() == log
    a, b = one.delta.state(), two.delta.state()
    assert all(torch.equal(a[name], b[name]) for name in a)


def test_another_seed_gives_other_numbers(make_job):
    assert fit(make_job(seed=1)).losses != fit(make_job(seed=0)).losses


def test_the_outcome_says_what_happened(make_job):
    job = make_job()
    outcome = fit(job)
    assert outcome.steps == 6
    assert outcome.examples == 24
    assert outcome.tokens == 2 * sum(e.length for e in job.batches.examples)
    assert [step for step, _ in outcome.evaluations] == [3, 6]
    assert [step for step, _ in outcome.losses] == [1, 2, 3, 4, 5, 6]
    assert outcome.best_metrics == min((m for _, m in outcome.evaluations), key=lambda m: m["loss"])
    assert outcome.seconds > 0
    assert outcome.peak_memory_bytes > 10**7
    assert outcome.resumed == 0
    assert job.progress.total == 6
    assert job.progress.finished == 1
    assert [s for s, _, _ in job.progress.steps] == [1, 2, 3, 4, 5, 6]


def test_the_log_has_a_line_for_each_step_and_evaluation_and_no_wall_time(make_job, tmp_path):
    fit(make_job())
    kinds = [tuple(line) for line in lines(tmp_path)]
    step, evaluation = ("step", "epoch", "loss", "learning_rate", "gradient_norm"), ("step", "evaluation")
    assert kinds == [step] * 3 + [evaluation] + [step] * 3 + [evaluation]


def test_the_logged_loss_is_the_mean_over_the_whole_batch_however_it_is_cut(make_job):
    settings = {"section": {"base_dropout": "off", "clip": None}, "methods": (find("lora")(rank=2),)}
    whole, cut = make_job(micro_batch_size=4, **settings), make_job(micro_batch_size=1, **settings)
    a, b = fit(whole), fit(cut)
    torch.testing.assert_close(torch.tensor(a.losses), torch.tensor(b.losses), rtol=1e-4, atol=1e-5)


def test_a_last_smaller_batch_is_a_step_of_its_own(make_job):
    assert fit(make_job(rows=9)).steps == 6


def test_the_best_delta_is_what_remains(make_job):
    scores = iter([0.5, 0.9, 0.1])
    states = []

    def measure(delta):
        states.append(delta.state())
        return {"accuracy": next(scores)}

    job = make_job(evaluate_with=measure, every=2, select="accuracy", higher_is_better=True)
    outcome = fit(job)
    assert outcome.best_step == 4
    assert outcome.best_metrics == {"accuracy": 0.9}
    after = job.delta.state()
    assert all(torch.equal(after[name], states[1][name]) for name in after)


def test_last_keeps_the_last_delta(make_job, tmp_path):
    states = []

    def measure(delta):
        states.append(delta.state())
        return {"loss": float(len(states))}

    job = make_job(evaluate_with=measure, select="last")
    outcome = fit(job)
    after = job.delta.state()
    assert outcome.best_step == 6
    assert outcome.best_metrics == {"loss": 2.0}
    assert all(torch.equal(after[name], states[-1][name]) for name in after)
    assert not list((tmp_path / "checkpoints").glob("best-*"))


def test_training_stops_early_when_nothing_gets_better(make_job):
    scores = iter([0.5, 0.4, 0.4, 0.9])
    job = make_job(
        evaluate_with=lambda _: {"accuracy": next(scores)},
        every=1,
        select="accuracy",
        higher_is_better=True,
        section={"early_stopping": 2},
    )
    outcome = fit(job)
    assert outcome.stopped_early
    assert outcome.steps == 3
    assert outcome.best_step == 1


def test_a_score_that_is_not_a_number_is_never_the_best(make_job):
    scores = iter([float("nan"), 0.2])
    job = make_job(evaluate_with=lambda _: {"loss": next(scores)})
    assert fit(job).best_step == 6


def test_a_metric_that_was_not_measured_is_named(make_job):
    with pytest.raises(RecipeError, match="'acuracy', which was not measured") as error:
        fit(make_job(select="acuracy"))
    assert "accuracy, f1, loss" in error.value.problems[0].hint


def test_early_stopping_without_a_metric_is_refused(make_job):
    with pytest.raises(RecipeError, match="nothing to go by"):
        fit(make_job(select="last", section={"early_stopping": 2}))


@pytest.mark.parametrize("every", ["end", 4])
def test_the_last_step_is_always_measured(make_job, every):
    assert fit(make_job(every=every)).evaluations[-1][0] == 6


def broken(job, steps, value=float("nan")):
    """Return the job with a loss that is ``value`` at some calls."""
    calls = iter(range(1, 1000))
    loss = type(job.task).loss

    class Broken(type(job.task)):
        def loss(self, network, batch):
            return loss(self, network, batch) * (value if next(calls) in steps else 1.0)

    object.__setattr__(job, "task", Broken(**vars(job.task)))
    return job


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_step_whose_loss_is_not_finite_is_not_taken(make_job, tmp_path, value):
    job = broken(make_job(micro_batch_size=4), {2}, value)
    states = {}
    job.progress.at_step = lambda step: states.update({step: job.delta.state()})
    outcome = fit(job)
    assert [step for step, _ in outcome.losses] == [1, 3, 4, 5, 6]
    assert all(torch.equal(states[1][name], states[2][name]) for name in states[1])
    assert any(not torch.equal(states[2][name], states[3][name]) for name in states[1])
    line = lines(tmp_path)[1]
    assert line["loss"] is None
    assert line["skipped"] == 1


def test_three_such_steps_in_a_row_end_the_run(make_job):
    with pytest.raises(DivergedError, match=r"3 steps in a row, the last of them step 5 \(epoch 2, batch 2\)"):
        fit(broken(make_job(micro_batch_size=4), {3, 4, 5}))


def test_such_steps_with_good_ones_between_do_not(make_job):
    assert fit(broken(make_job(micro_batch_size=4), {1, 2, 4, 5})).steps == 6


def test_the_network_is_left_as_it_was(make_job):
    job = make_job(section={"base_dropout": "off"})
    network = job.delta.base.network
    modes = [m.training for m in network.modules()]
    fit(job)
    assert [m.training for m in network.modules()] == modes
    assert "forward" not in vars(network)
    assert not hasattr(network, "_original_forward")


def test_bfloat16_trains_a_float32_delta(make_job):
    AcceleratorState._reset_state(True)
    try:
        job = make_job(accelerator=Accelerator(cpu=True, mixed_precision="bf16"), precision="bfloat16")
        outcome = fit(job)
    finally:
        AcceleratorState._reset_state(True)
    assert {p.dtype for p in job.delta.trained().values()} == {torch.float32}
    exact = fit(make_job())
    assert outcome.losses != exact.losses
    torch.testing.assert_close(torch.tensor(outcome.losses), torch.tensor(exact.losses), rtol=0.1, atol=0.1)


def test_each_tensor_moves_with_its_own_rate(make_job):
    job = make_job(section={"warmup": 0, "weight_decay": 0.0, "steps": 1, "epochs": None}, select="last")
    before = job.delta.state()
    rates = {a: 1e-3 if a in job.delta.head else 1e-2 for a in job.delta.trained()}
    object.__setattr__(job, "rates", lambda _: rates)
    outcome = fit(job)
    moved = {a: (t - before[a]).abs().max().item() for a, t in job.delta.state().items()}
    # The first step of AdamW is the learning rate itself, wherever there is a gradient.
    assert max(moved[a] for a in job.delta.head) == pytest.approx(1e-3, rel=1e-3)
    assert max(moved[a] for a in job.delta.parameters) == pytest.approx(1e-2, rel=1e-3)
    assert outcome.learning_rates == [(1, 1e-2)]


def test_without_rows_to_measure_on_nothing_is_told_of_it(make_job):
    job = make_job(evaluate_with=lambda _: {}, select="last")
    outcome = fit(job)
    assert outcome.evaluations == []
    assert outcome.best_metrics == {}
    assert job.progress.evaluations == []


def scaled(make_job, start, **keys):
    """Return a job whose loss is scaled as float16 needs it; the CPU computes on in float32."""
    job = make_job(accelerator=Accelerator(cpu=True), section={"base_dropout": "off"}, **keys)
    job.accelerator.scaler = torch.amp.GradScaler("cpu", init_scale=start)
    return job


def test_a_scaled_loss_gives_the_same_delta(make_job):
    plain = fit(make_job(section={"base_dropout": "off"}))
    outcome = fit(scaled(make_job, 2.0**10))
    torch.testing.assert_close(torch.tensor(outcome.losses), torch.tensor(plain.losses), rtol=1e-4, atol=1e-5)


def test_a_scale_that_is_too_large_costs_steps_but_not_the_run(make_job, tmp_path):
    outcome = fit(broken(scaled(make_job, 2.0**127), set(range(1000)), 20.0))
    logged = [line for line in lines(tmp_path) if "loss" in line]
    assert logged[0]["skipped"] == 1
    assert logged[0]["loss"] is not None
    assert "skipped" not in logged[-1]
    assert outcome.steps == 6


def test_the_scale_is_taken_up_again(make_job, tmp_path):
    fit(broken(scaled(make_job, 2.0**127), set(range(1000)), 20.0))
    for last in (tmp_path / "checkpoints").glob("*-000006"):
        shutil.rmtree(last)
    again = scaled(make_job, 2.0**127, resume=True)
    assert fit(again).resumed == 1
    assert again.accelerator.scaler.get_scale() < 2.0**127


def test_a_network_prepared_for_evaluation_is_prepared_for_training_too(make_job):
    job = make_job()
    job.accelerator.prepare_model(job.delta.base.network, evaluation_mode=True)
    assert fit(job).steps == 6
