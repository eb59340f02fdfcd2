"""How training is watched: a live bar on a terminal, plain lines in a log, or nothing."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

from peftcli.cli import console
from peftcli.cli.environment import rank
from peftcli.pipeline.progress import Progress, Silent
from peftcli.report.tables import score

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import TaskID

_LINES_PER_RUN = 20


@contextlib.contextmanager
def progress(*, quiet: bool) -> Iterator[Progress]:
    """Yield the kind that suits the terminal; only the first process of a run shows any.

    However the work ends, the terminal is as it was before an error is shown on it.
    """
    shown = _suitable(quiet=quiet)
    try:
        yield shown
    finally:
        shown.finish()


def _suitable(*, quiet: bool) -> Progress:
    if quiet or rank() != 0:
        return Silent()
    stderr = console.stderr()
    return Bar(stderr) if stderr.is_terminal and not stderr.is_dumb_terminal else Lines()


class Lines:
    """Writes a line at every evaluation and about every twentieth of the steps."""

    def __init__(self) -> None:
        self._total = 0
        self._first: tuple[int, float] | None = None  # the step this process began with, and when

    def note(self, text: str) -> None:
        """Write a remark."""
        console.note(text)

    def start(self, total_steps: int) -> None:
        """Begin ``total_steps`` steps, counted from the first one of the run."""
        self._total, self._first = total_steps, None

    def step(self, step: int, loss: float, learning_rate: float, examples_per_second: float) -> None:
        """Write the step if a line is due."""
        self._first = self._first or (step - 1, time.monotonic())
        if step == self._total or step % max(1, self._total // _LINES_PER_RUN) == 0:
            console.note(
                f"step {step}/{self._total}  {step / max(1, self._total):.0%}  loss {loss:.4g}  "
                f"lr {learning_rate:.2e}  {examples_per_second:.1f} ex/s  eta {self._eta(step)}"
            )

    def evaluation(self, step: int, metrics: Mapping[str, float], best: bool) -> None:
        """Write a measurement."""
        console.note(measured(step, metrics, best))

    def finish(self) -> None:
        """End the steps."""

    def _eta(self, step: int) -> str:
        assert self._first, "a step has begun"
        begun, at = self._first
        seconds = (time.monotonic() - at) / max(1, step - begun) * (self._total - step)
        minutes, rest = divmod(round(seconds), 60)
        return f"{minutes // 60}:{minutes % 60:02}:{rest:02}" if minutes >= 60 else f"{minutes}:{rest:02}"


class Bar:
    """Draws one live line: step, loss, learning rate, examples a second, time left."""

    def __init__(self, stderr: Console) -> None:
        from rich.progress import BarColumn, MofNCompleteColumn, TaskProgressColumn, TextColumn, TimeRemainingColumn
        from rich.progress import Progress as RichProgress

        self._bar = RichProgress(
            TextColumn("step"),
            MofNCompleteColumn(),
            BarColumn(bar_width=24),
            TaskProgressColumn(),
            TextColumn("{task.fields[numbers]}"),
            TextColumn("eta"),
            TimeRemainingColumn(compact=True),
            console=stderr,
            refresh_per_second=4,
            speed_estimate_period=60,
        )
        self._task: TaskID | None = None

    def note(self, text: str) -> None:
        """Write a remark above the bar."""
        with contextlib.suppress(OSError):  # the terminal is gone: no reason to stop training
            self._bar.console.print(text, soft_wrap=True)

    def start(self, total_steps: int) -> None:
        """Show the bar."""
        self._task = self._bar.add_task("", total=total_steps, numbers="")
        self._bar.start()

    def step(self, step: int, loss: float, learning_rate: float, examples_per_second: float) -> None:
        """Move the bar."""
        assert self._task is not None, "start comes before step"
        numbers = f"loss {loss:.4g}  lr {learning_rate:.2e}  {examples_per_second:.1f} ex/s"
        self._bar.update(self._task, completed=step, numbers=numbers)

    def evaluation(self, step: int, metrics: Mapping[str, float], best: bool) -> None:
        """Write a measurement above the bar."""
        self.note(measured(step, metrics, best))

    def finish(self) -> None:
        """Leave the bar as it stands and restore the terminal."""
        with contextlib.suppress(OSError):
            self._bar.stop()


def measured(step: int, metrics: Mapping[str, float], best: bool) -> str:
    """Return one line on a measurement."""
    values = "  ".join(f"{name} {score(value)}" for name, value in metrics.items() if name != "n")
    return f"step {step}  {values}{'  (best so far)' if best else ''}"
