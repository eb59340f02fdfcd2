from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import nn

from peftcli.data.batches import Batch, Position
from peftcli.delta.block import Block
from peftcli.delta.method import Method
from peftcli.delta.registry import find
from peftcli.errors import DivergedError
from peftcli.training.loop import fit
from peftcli.training.proofs import Proofs, checksums, prove_before

CPU = torch.device("cpu")
Lora, Bitfit = find("lora"), find("bitfit")


class Shift(Block):
    """Adds a vector, and whatever else a test wants it to do wrong."""

    def __init__(self, wrapped, address, mistake):
        super().__init__(wrapped, address)
        self.mistake = mistake
        self.shift = nn.Parameter(torch.zeros(wrapped.weight.shape[0]))
        self.idle = nn.Parameter(torch.ones(2)) if mistake == "idle" else None

    def initialise(self, generator):
        if self.mistake == "elsewhere":
            nn.init.normal_(self.shift, generator=generator)

    def adapted(self, x):
        if self.mistake == "writes" and self.training:
            with torch.no_grad():
                self.wrapped.weight[0, 0] += 1e-3
        return self.wrapped(x) + self.shift


class Shifting(Method):
    """A method with a mistake."""

    card = Lora.card
    name = "shifting"
    mistake: str = "none"

    def attach(self, base):
        site = base.sites(["W_v"])[0]
        base.replace(site, Shift(base.module(site), site.address, self.mistake))


def test_a_sound_run_says_what_was_proven(make_job):
    job = make_job()
    proofs = fit(job).proofs
    trained = job.delta.trained()
    assert proofs == {
        "trained_tensors": len(trained),
        "trained_numbers": job.delta.size + job.delta.head_size,
        "supervised_items": 4,
        "difference_from_base": 0.0,
        "tensors_with_gradient": len(trained),
        "tensors_without_gradient": [],
        "tensors_moved": len(trained),
        "frozen_tensors": sum(not p.requires_grad for p in job.delta.base.network.parameters()),
        "frozen_tensors_moved": 0,
    }


def test_the_bias_of_the_keys_may_stay_without_gradient(make_job):
    job = make_job(methods=(Bitfit(),))
    keys = [address for address in job.delta.trained() if address.endswith("W_k.bias")]
    assert len(keys) == 2
    assert fit(job).proofs["tensors_with_gradient"] >= len(job.delta.trained()) - len(keys)


def test_a_delta_that_does_not_start_at_the_base_is_refused(make_job):
    with pytest.raises(DivergedError, match="does not start at the base"):
        fit(make_job(methods=(Shifting(mistake="elsewhere"),)))


def test_a_trained_tensor_without_gradient_is_named(make_job):
    with pytest.raises(DivergedError, match=r"1 of \d+ trained tensors received no gradient in 3 steps: .*idle"):
        fit(make_job(methods=(Shifting(mistake="idle"),)))


def test_a_frozen_tensor_that_moves_is_named(make_job):
    with pytest.raises(DivergedError, match=r"1 of \d+ frozen tensors moved in training: .*value"):
        fit(make_job(methods=(Shifting(mistake="writes"),)))


def test_a_delta_too_coarse_to_move_is_named(make_job):
    job = make_job(learning_rate=1e-12, section={"warmup": 0})
    for parameter in job.delta.trained().values():
        nn.init.normal_(parameter.data)
    with pytest.raises(DivergedError, match=r"did not move in 3 steps"):
        Proving(job).three_steps()


class Proving:
    """The proofs around three bare steps."""

    def __init__(self, job, warmup=0):
        self.job = job
        self.proofs = Proofs(job.delta, {}, warmup=warmup)
        self.optimizer = torch.optim.AdamW(
            job.delta.trained().values(), lr=next(iter(job.rates(job.delta).values())), weight_decay=0.0
        )

    def three_steps(self):
        for index in range(3):
            batch = self.job.batches.batch(Position(0, index))
            self.job.task.loss(self.job.delta.base.network, batch.micro[0]).backward()
            self.proofs.gradients()
            self.optimizer.step()
            self.optimizer.zero_grad()
            self.proofs.stepped()
        return self.proofs.results


def test_during_the_warm_up_a_tensor_may_stand_still(make_job):
    job = make_job(learning_rate=1e-12)
    for parameter in job.delta.trained().values():
        nn.init.normal_(parameter.data)
    assert "tensors_moved" not in Proving(job, warmup=5).three_steps()


def test_a_batch_without_a_label_is_refused(make_job):
    job = make_job()
    with pytest.raises(DivergedError, match="every label of the first batch is masked"):
        prove_before(job.delta, job.task, Batch(micro=[], items=0, examples=4, tokens=9), CPU)


def test_a_delta_that_trains_nothing_is_refused(make_job):
    job = make_job()
    nothing = replace(job.delta, parameters={}, head={})
    with pytest.raises(DivergedError, match="nothing trains"):
        prove_before(nothing, job.task, job.batches.batch(Position(0, 0)), CPU)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16, torch.int8])
def test_a_checksum_sees_the_smallest_change_of_one_number(dtype):
    tensor = torch.arange(-50, 50).to(dtype).reshape(4, 25)
    before = checksums([tensor, tensor.clone().t().contiguous().t()])
    assert before[0] == before[1]
    changed = tensor.clone()
    changed.view(torch.uint8)[2, 5] ^= 1
    assert checksums([changed]) != before[:1]


def test_a_checksum_sees_changes_that_cancel():
    start = torch.tensor([0.3, 0.3, 0.3, 0.3])
    for signs in ([1, -1, 0, 0], [1, -1, -1, 1], [1, -3, 3, -1]):
        assert checksums([start]) != checksums([start + 2**-20 * torch.tensor(signs)])


def test_a_checksum_of_a_long_tensor_sees_its_last_number():
    tensor = torch.zeros(2**20 + 5)
    before = checksums([tensor])
    tensor[-1] = 1.0
    assert checksums([tensor]) != before


def test_a_sampled_checksum_looks_at_the_whole_length():
    tensor = torch.zeros(10_000)
    changed = tensor.clone()
    changed[5_000:] = 1.0
    assert checksums([tensor], 100) != checksums([changed], 100)
    assert checksums([tensor], 100) == checksums([torch.zeros(100)], 100)


def test_the_method_of_these_tests_is_sound_without_a_mistake(make_job):
    assert fit(make_job(methods=(Shifting(),))).proofs["difference_from_base"] == 0.0
