"""What training tells whoever watches it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol


class Progress(Protocol):
    """Hears of every step and every evaluation, on the first process alone."""

    def note(self, text: str) -> None:
        """Hear one sentence that does not stop the run."""

    def start(self, total_steps: int) -> None:
        """Hear that steps begin, and how many there are in all."""

    def step(self, step: int, loss: float, learning_rate: float, examples_per_second: float) -> None:
        """Hear that ``step`` (from 1) is done."""

    def evaluation(self, step: int, metrics: Mapping[str, float], best: bool) -> None:
        """Hear what was measured after ``step``, and whether nothing better was measured before."""

    def finish(self) -> None:
        """Hear that no more steps follow, however the run ended."""
