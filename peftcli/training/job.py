"""What a training run is told, and what it tells."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from peftcli.data.batches import BatchSource
from peftcli.recipe.recipe import TrainingSection
from peftcli.training.progress import Progress

if TYPE_CHECKING:
    from accelerate import Accelerator

    from peftcli.data.tasks.task import Task
    from peftcli.delta.delta import Delta


@dataclass(frozen=True, kw_only=True)
class Job:
    """One training run.

    Attributes:
        delta: What is trained; its network is on the accelerator's device.
        rates: Returns the peak learning rate of each tensor that trains, by address; asked as every phase begins.
        evaluate: Measures the delta as it is; called by all processes together. No metrics: nothing to measure on.
        every: After which steps: the last of each epoch (where they are counted), the last of all, or every so many.
        select: The metric that the best delta is chosen by, or ``last``.
        folder: The run's folder, seen by all processes; the log and ``checkpoints`` are written there.
        identity: Hashes of all that a resumed run must have in common with the one that was interrupted.
        resume: Whether to go on from the newest checkpoint; otherwise earlier checkpoints in the folder are removed.
        precision: What is computed in: float32, bfloat16 or float16.
    """

    delta: Delta
    task: Task
    batches: BatchSource
    training: TrainingSection
    rates: Callable[[Delta], Mapping[str, float]]
    evaluate: Callable[[], dict[str, float]]
    every: Literal["epoch", "end"] | int
    select: str
    higher_is_better: bool
    accelerator: Accelerator
    folder: Path
    identity: Mapping[str, str]
    resume: bool
    progress: Progress
    precision: str


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What training did.

    Attributes:
        steps: Steps taken, those without effect included.
        best_step: The step whose delta was selected.
        best_metrics: What was measured there.
        evaluations: All metrics, with their steps.
        losses: The mean loss of every step's batch, with the step; without those that were not finite.
        learning_rates: Of every step; where tensors differ, that of the delta's first.
        seconds: Over all processes that took the run up one after the other.
        peak_memory_bytes: Of the device; on a CPU, of the process.
        trained: How many numbers the delta trained without the head, with what a finished delta drops; the most that
            any phase did.
        proofs: What was proven.
        resumed: How often the run was taken up again.
    """

    steps: int
    best_step: int
    best_metrics: dict[str, float]
    evaluations: list[tuple[int, dict[str, float]]]
    losses: list[tuple[int, float]]
    learning_rates: list[tuple[int, float]]
    examples: int
    tokens: int
    seconds: float
    stopped_early: bool
    peak_memory_bytes: int
    trained: int
    proofs: dict[str, Any]
    resumed: int
