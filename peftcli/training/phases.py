"""The phases of a run: what one of them trains with, and the way from one to the next."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from peftcli.data.batches import Position
from peftcli.errors import DistributedError
from peftcli.training import processes
from peftcli.training.optimizer import make_optimizer, moments, restore_moments
from peftcli.training.proofs import Proofs, prove_before, proven_before
from peftcli.training.schedule import Plan
from peftcli.training.step import Stepper

if TYPE_CHECKING:
    from peftcli.training.checkpoint import Checkpoint
    from peftcli.training.job import Job


_DELTA = "delta."


class Phase:
    """What one phase trains with: a fresh optimizer over what trains now, and the network prepared for it.

    Attributes:
        number: From 0.
        trained: What trains, by address.
        rate: The peak learning rate that is told: that of the delta's first tensor.
    """

    def __init__(self, job: Job, number: int, spare: Mapping[str, Tensor]) -> None:
        self.number = number
        self._open = ExitStack()
        network: nn.Module = self._open.enter_context(processes.prepared(job.accelerator, job.delta.base.network))
        rates = job.rates(job.delta)
        self.trained = job.delta.trained()
        self.optimizer = make_optimizer(self.trained, rates, job.training.weight_decay)
        self.rate = next((rates[address] for address in self.trained), 0.0)
        self.stepper = Stepper(
            task=job.task,
            delta=job.delta,
            network=network,
            parameters=list(self.trained.values()),
            optimizer=self.optimizer,
            accelerator=job.accelerator,
            clip=job.training.clip,
            spare=spare,
        )

    def close(self) -> None:
        """Leave the network as it was found."""
        self._open.close()


class Phases:
    """The phases of a run under way.

    Attributes:
        proofs: Of the phase that the run is in.
        most: How many numbers of the delta any phase so far has trained, without the head.
    """

    proofs: Proofs

    def __init__(self, job: Job, plan: Plan, note: Callable[[str], None]) -> None:
        self.job = job
        self.plan = plan
        self.most = 0
        self._note = note
        self._now: Phase | None = None

    @property
    def now(self) -> Phase:
        """The phase that the run is in."""
        assert self._now, "a run starts or is taken up first"
        return self._now

    def start(self) -> None:
        """Begin the first phase, and prove that training can begin.

        Raises:
            DivergedError: It cannot.
            DistributedError: There are more processes than examples in a batch.
        """
        job = self.job
        self._become(0)
        self._open(0)
        first = job.batches.batch(Position(0, 0))
        self._watch(prove_before(job.delta, job.task, first, job.accelerator.device, job.precision))

    def take_up(self, found: Checkpoint) -> None:
        """Go on from a checkpoint."""
        state, tensors = found.state, found.tensors
        number = self.plan.phase(state.step)
        for phase in range(number + 1):
            self._become(phase)
        delta = {name.removeprefix(_DELTA): tensor for name, tensor in tensors.items() if name.startswith(_DELTA)}
        self.job.delta.load(delta)
        self._open(number)
        restore_moments(self.now.optimizer, self.now.trained, tensors)
        self._watch(state.proofs, state.noted)

    def tensors(self) -> dict[str, Tensor]:
        """Return what ``take_up`` needs."""
        delta = {_DELTA + address: tensor for address, tensor in self.job.delta.state().items()}
        return delta | moments(self.now.optimizer, self.now.trained)

    def enter(self, step: int) -> Phase:
        """Return the phase of ``step``, which begins with what the one before it left.

        Raises:
            DivergedError: The one before it moved a frozen tensor.
        """
        number = self.plan.phase(step)
        if number != self.now.number:
            self.proofs.finish()
            self.leave()
            self.job.accelerator.free_memory()  # or it would hold what only the last phase trained
            self._become(number)
            self._open(number)
            self._watch(proven_before(self.proofs.results, self.job.delta))
        return self.now

    def leave(self) -> None:
        """Leave the network as it was found."""
        if self._now:
            self._now.close()
            self._now = None

    def _become(self, number: int) -> None:
        self.job.delta.begin_phase(number)
        self.most = max(self.most, self.job.delta.size)

    def _open(self, number: int) -> None:
        self._now = Phase(self.job, number, _spare(self.job))
        if self.plan.phases > 1:
            size = self.job.delta.size
            self._note(f"phase {number + 1} of {self.plan.phases}: {size:,} numbers train, without the head")

    def _watch(self, proven: Mapping[str, Any], noted: Mapping[str, Any] | None = None) -> None:
        warmup = self.plan.warmup(self.now.number, self.job.training)
        self.proofs = Proofs(self.job.delta, proven, warmup=warmup, noted=noted)


def _spare(job: Job) -> Mapping[str, Tensor]:
    first = job.batches.batch(Position(0, 0))
    world = job.accelerator.num_processes
    if first.examples < world:
        raise DistributedError(
            f"a batch of {first.examples} examples cannot be shared by {world} processes",
            hint="Raise training.batch_size, or start fewer processes.",
        )
    return first.micro[0]
