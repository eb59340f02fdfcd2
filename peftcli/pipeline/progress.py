"""What a pipeline tells whoever watches it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol


class Progress(Protocol):
    """Receives what happens during a run; the command line shows it, a test may collect it."""

    def note(self, text: str) -> None:
        """Take one line about what is being done or was decided."""

    def start(self, total_steps: int) -> None:
        """Take the number of optimizer steps of the whole run."""

    def step(self, step: int, loss: float, learning_rate: float, examples_per_second: float) -> None:
        """Take one optimizer step."""

    def evaluation(self, step: int, metrics: Mapping[str, float], best: bool) -> None:
        """Take the scores after ``step``."""

    def finish(self) -> None:
        """Take that training is over."""


class Silent:
    """A watcher who looks away."""

    def note(self, text: str) -> None: ...

    def start(self, total_steps: int) -> None: ...

    def step(self, step: int, loss: float, learning_rate: float, examples_per_second: float) -> None: ...

    def evaluation(self, step: int, metrics: Mapping[str, float], best: bool) -> None: ...

    def finish(self) -> None: ...
