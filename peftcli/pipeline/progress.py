"""What a pipeline tells whoever watches it: what training tells, with notes about all that comes before and after."""

from __future__ import annotations

from collections.abc import Mapping

from peftcli.training.progress import Progress

__all__ = ["Progress", "Silent"]


class Silent:
    """A watcher who looks away."""

    def note(self, text: str) -> None: ...

    def start(self, total_steps: int) -> None: ...

    def step(self, step: int, loss: float, learning_rate: float, examples_per_second: float) -> None: ...

    def evaluation(self, step: int, metrics: Mapping[str, float], best: bool) -> None: ...

    def finish(self) -> None: ...
