"""The length of a run and the learning rate of each of its steps: pure functions, so nothing of them is saved."""

from __future__ import annotations

import math

from peftcli.recipe.recipe import TrainingSection

EPOCHS = 3.0  # where a recipe names neither epochs nor steps
_ROUNDING = 1e-9  # 0.1 epochs of 30 steps are 3 steps, though 0.1 * 30 > 3 in binary


def total_steps(section: TrainingSection, steps_per_epoch: int) -> int:
    """Return the number of optimizer steps of the whole run; part of an epoch counts up."""
    if section.steps is not None:
        return section.steps
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
