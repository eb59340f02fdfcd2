"""The length of a run and the learning rate of each of its steps: pure functions, so nothing of them is saved."""

from __future__ import annotations

import math
from dataclasses import dataclass

from peftcli.errors import RecipeError
from peftcli.recipe.recipe import TrainingSection

EPOCHS = 3.0  # where a recipe names neither epochs nor steps
_ROUNDING = 1e-9  # 0.1 epochs of 30 steps are 3 steps, though 0.1 * 30 > 3 in binary


def total_steps(section: TrainingSection, steps_per_epoch: int | None) -> int:
    """Return the number of optimizer steps of the whole run; part of an epoch counts up."""
    if section.steps is not None:
        return section.steps
    assert steps_per_epoch, "what is streamed has its steps given"
    return max(1, math.ceil((section.epochs or EPOCHS) * steps_per_epoch - _ROUNDING))


def warmup_steps(section: TrainingSection, total: int) -> int:
    """Return the number of steps taken below the peak before it is reached; a share of the total counts up."""
    if isinstance(section.warmup, int):
        return min(section.warmup, total)
    percent = float(section.warmup.strip().removesuffix("%"))
    return min(math.ceil(total * percent / 100 - _ROUNDING), total)


def factor(step: int, total: int, section: TrainingSection) -> float:
    """Return the share of the peak learning rate that ``step`` (from 1 to ``total``) is taken with; never zero.

    The warm-up rises in equal parts and the step after it stands at the peak; then ``linear`` and ``cosine`` fall so
    that they would reach zero at the step after the last one.
    """
    warmup = warmup_steps(section, total)
    if step <= warmup:
        return step / (warmup + 1)
    done = (step - 1 - warmup) / (total - warmup)
    if section.schedule == "linear":
        return 1.0 - done
    if section.schedule == "cosine":
        return 0.5 * (1.0 + math.cos(math.pi * done))
    return 1.0


@dataclass(frozen=True, kw_only=True)
class Plan:
    """How the steps of a run are shared out: a function of their number alone, so nothing of it is saved.

    Attributes:
        total: Steps of the whole run.
        phases: How many phases it has: equal parts, the first ones taking one step more where they do not divide.
    """

    total: int
    phases: int

    def __post_init__(self) -> None:
        if self.total < self.phases:
            raise RecipeError(
                f"{self.total} steps cannot be shared out between the {self.phases} phases of the method",
                hint="Raise training.epochs or training.steps.",
            )

    def phase(self, step: int) -> int:
        """Return the phase (from 0) of a step (from 1); before the first step, the first phase."""
        return next(n for n in range(self.phases) if step <= self._end(n))

    def is_last(self, step: int) -> bool:
        """Whether a step belongs to the last phase, whose outcome is the finished delta."""
        return self.phase(step) == self.phases - 1

    def length(self, phase: int) -> int:
        """Return how many steps a phase has."""
        return self._end(phase) - self._end(phase - 1)

    def factor(self, step: int, section: TrainingSection) -> float:
        """Return the share of the peak learning rate for a step: every phase has the whole schedule."""
        phase = self.phase(step)
        return factor(step - self._end(phase - 1), self.length(phase), section)

    def warmup(self, phase: int, section: TrainingSection) -> int:
        """Return how many steps of a phase are taken below the peak."""
        return warmup_steps(section, self.length(phase))

    def _end(self, phase: int) -> int:
        """Return the last step of a phase."""
        return -(-self.total * (phase + 1) // self.phases)
