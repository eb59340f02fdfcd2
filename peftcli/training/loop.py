"""The training loop: steps, measurements, checkpoints, and nothing that happens silently."""

from __future__ import annotations

import math
import time
from typing import Any

from peftcli.data.batches import Position
from peftcli.errors import DivergedError, Stopped
from peftcli.training import modes, processes, signals
from peftcli.training.checkpoint import Checkpoint, Checkpoints, RunState
from peftcli.training.job import Job, Outcome
from peftcli.training.log import Log, finite, to_json
from peftcli.training.memory import peak_memory_bytes
from peftcli.training.phases import Phases
from peftcli.training.schedule import Plan, total_steps
from peftcli.training.selection import Selection
from peftcli.training.step import Computed

__all__ = ["Job", "Outcome", "fit"]

PATIENCE = 3  # steps in a row whose loss or gradient is not finite
CHECKPOINTS, LOG = "checkpoints", "log.jsonl"


def fit(job: Job) -> Outcome:
    """Train ``job.delta``; afterwards it holds the selected state.

    Raises:
        DivergedError: A proof failed, or loss or gradient were not finite for some steps in a row.
        Stopped: A signal asked for it; a checkpoint was saved first.
        ArtifactError: No checkpoint to resume from is whole, or it belongs to another run.
        RecipeError: The metric to select by was not measured.
        DistributedError: The processes disagree, or there are too many of them for a batch.
        ResourceError: A checkpoint cannot be written.
    """
    section, network = job.training, job.delta.base.network
    with (
        signals.listening() as request,
        modes.training(
            network,
            base_dropout=section.base_dropout == "keep",
            gradient_checkpointing=section.gradient_checkpointing,
        ),
    ):
        run = _Run(job, request)
        try:
            run.begin()
            run.go()
        finally:
            run.leave()
        return run.end()


class _Run:
    """A job under way."""

    def __init__(self, job: Job, request: signals.StopRequest) -> None:
        self.job = job
        self.request = request
        self.main = job.accelerator.is_main_process
        self.per_epoch = job.batches.steps_per_epoch
        self.total = total_steps(job.training, self.per_epoch)
        self.plan = Plan(total=self.total, phases=job.delta.phases)
        self.phases = Phases(job, self.plan, self._note)
        self.selection = Selection(
            metric=job.select, higher_is_better=job.higher_is_better, patience=job.training.early_stopping
        )
        self.checkpoints = Checkpoints(job.folder / CHECKPOINTS, job.identity)
        self.log = Log(job.folder / LOG, writes=self.main)
        self.state = RunState()
        self.saved = -1  # the step of the newest checkpoint
        self.asked = False  # whether some process was asked to stop
        self.before = 0.0  # seconds spent by earlier processes
        self.started = time.monotonic()

    def begin(self) -> None:
        """Take up the newest checkpoint, or prove that a new run can begin."""
        job = self.job
        found = self.checkpoints.newest(self._note) if job.resume else None
        facts = {**job.identity, "the checkpoint": str(found.state.step if found else None)}
        processes.check_agreement(job.accelerator, facts)
        if self.main:
            self.checkpoints.tidy(found)
        self.log.begin(found.log if found else b"")
        if found:
            self._take_up(found)
        else:
            self.phases.start()
        processes.take_up_randomness(job.accelerator, found.tensors if found else {}, self.state.step)
        if self.main:
            job.progress.start(self.total)
        self.first = (self.state.examples, time.monotonic())

    def leave(self) -> None:
        """Leave the network as it was found, however the run ended."""
        self.phases.leave()
        if self.main:
            self.job.progress.finish()

    def go(self) -> None:
        """Take all steps, with the evaluations and checkpoints between them."""
        while True:
            due = self._evaluation_due()
            if self._asked() and (due or not self._done):
                self._stop()
            if due:
                self._evaluate()
            if self._checkpoint_due():
                self._save()
            if self._done:
                return
            self._step()

    def end(self) -> Outcome:
        """Put the selected state into the delta, and return what happened."""
        job, state = self.job, self.state
        self.phases.proofs.finish()
        evaluations = self.log.evaluations()
        job.accelerator.wait_for_everyone()  # the first process has written what all of them read
        best_step, best_metrics = state.step, evaluations[-1][1] if evaluations else {}
        if state.best_step is not None:
            best_step, best_metrics = state.best_step, state.best_metrics
            job.delta.load(self.checkpoints.best(best_step))
            job.accelerator.wait_for_everyone()  # and none removes it before all have read it
        self._count_costs()
        return Outcome(
            steps=state.step,
            best_step=best_step,
            best_metrics=best_metrics,
            evaluations=evaluations,
            losses=self.log.series("loss"),
            learning_rates=self.log.series("learning_rate"),
            examples=state.examples,
            tokens=state.tokens,
            seconds=state.seconds,
            stopped_early=state.stopped_early,
            peak_memory_bytes=state.peak_memory_bytes,
            trained=self.phases.most,
            proofs=self.phases.proofs.results,
            resumed=state.resumed,
        )

    @property
    def _done(self) -> bool:
        return self.state.stopped_early or self.state.step >= self.total

    def _step(self) -> None:
        state, position = self.state, self.state.position
        phase = self.phases.enter(state.step + 1)
        self.job.delta.before_step(state.step + 1, self.total)
        batch = self.job.batches.batch(position)
        share = self.plan.factor(state.step + 1, self.job.training)
        computed = phase.stepper.compute(batch, self.request)
        self.asked = computed.stop
        state.step += 1
        state.examples += batch.examples
        state.tokens += batch.tokens
        state.position = self.job.batches.after(position)
        usable = math.isfinite(computed.loss) and math.isfinite(computed.gradient_norm)
        if usable:
            self.phases.proofs.gradients()
            self.job.delta.before_update()
            phase.stepper.apply(share)
            state.unusable = 0
        else:
            self._skip(computed, position)
        self._log_step(computed, phase.rate * share)
        if usable:
            self.phases.proofs.stepped()

    def _skip(self, computed: Computed, position: Position) -> None:
        mendable = self.phases.now.stepper.discard() and math.isfinite(computed.loss)
        self.state.unusable += 1
        if self.state.unusable >= PATIENCE and not mendable:
            what = "gradient" if math.isfinite(computed.loss) else "loss"
            raise DivergedError(
                f"the {what} was not finite in {self.state.unusable} steps in a row, the last of them "
                f"step {self.state.step} (epoch {position.epoch + 1}, batch {position.index + 1})",
                hint="Lower training.learning_rate, or compute in bfloat16 or float32 (training.precision).",
            )

    def _log_step(self, computed: Computed, learning_rate: float) -> None:
        state = self.state
        line: dict[str, Any] = {
            "step": state.step,
            "epoch": round(state.step / self.per_epoch, 4) if self.per_epoch else None,
            "loss": finite(computed.loss),
            "learning_rate": learning_rate,
            "gradient_norm": finite(computed.gradient_norm),
        }
        if self.plan.phases > 1:
            line["phase"] = self.phases.now.number + 1
        if line["loss"] is None or line["gradient_norm"] is None:
            line["skipped"] = state.unusable
        self.log.append(line)
        if self.main:
            examples, since = self.first
            speed = (state.examples - examples) / max(time.monotonic() - since, 1e-9)
            self.job.progress.step(state.step, computed.loss, learning_rate, speed)

    def _evaluation_due(self) -> bool:
        step, every = self.state.step, self.job.every
        if step == self.state.evaluated or step == 0:
            return False
        if step >= self.total:
            return True
        interval = self.per_epoch if every == "epoch" else every
        return isinstance(interval, int) and step % interval == 0

    def _evaluate(self) -> None:
        begun = time.monotonic()
        metrics = self.job.evaluate()
        state = self.state
        best = self.selection.consider(state, metrics, finished=self.plan.is_last(state.step))
        if metrics:
            self.log.append({"step": state.step, "evaluation": to_json(metrics)})
        if best and self.main:
            self.checkpoints.keep_best(state.step, metrics, self.job.delta.state())
        if metrics and self.main:
            self.job.progress.evaluation(state.step, metrics, best)
        examples, since = self.first
        self.first = (examples, since + time.monotonic() - begun)  # the speed is that of training
        self.asked = processes.any_process(self.job.accelerator, self.request.requested)

    def _checkpoint_due(self) -> bool:
        step, every = self.state.step, self.job.training.checkpoint_every
        if step in (0, self.saved):
            return False
        return self._done or (step == self.state.evaluated if every is None else step % every == 0)

    def _save(self) -> None:
        randomness = processes.gather_randomness(self.job.accelerator)
        self._count_costs()
        self.state.proofs, self.state.noted = self.phases.proofs.results, self.phases.proofs.noted
        self.state.scaler = self.job.accelerator.scaler.state_dict() if self.job.accelerator.scaler else {}
        self.saved = self.state.step
        if self.main:
            self.checkpoints.save(self.state, self.phases.tensors() | randomness, self.log.content())

    def _asked(self) -> bool:
        return self.request.requested if self.job.accelerator.num_processes == 1 else self.asked

    def _stop(self) -> None:
        if self.saved != self.state.step:
            self._save()
        raise Stopped(
            f"stopped on request after step {self.state.step} of {self.total}; a checkpoint is saved",
            where=str(self.job.folder),
            hint="Run it again with --resume to continue.",
        )

    def _take_up(self, found: Checkpoint) -> None:
        job = self.job
        self.state = found.state
        self.state.resumed += 1
        self.saved = found.state.step
        self.before = found.state.seconds
        self.phases.take_up(found)
        if found.state.scaler and job.accelerator.scaler is not None:
            job.accelerator.scaler.load_state_dict(found.state.scaler)
        self._note(f"resumed from step {found.state.step} of {self.total}")
        if note := processes.difference_in_number(job.accelerator, found.tensors):
            self._note(note)

    def _count_costs(self) -> None:
        self.state.seconds = self.before + time.monotonic() - self.started
        peak = peak_memory_bytes(self.job.accelerator.device)
        self.state.peak_memory_bytes = max(self.state.peak_memory_bytes, peak)

    def _note(self, text: str) -> None:
        if self.main:
            self.job.progress.note(text)
