"""Which of the measured deltas is kept, and when waiting for a better one ends."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from peftcli.errors import RecipeError
from peftcli.training.checkpoint import RunState

LAST = "last"


@dataclass(frozen=True, kw_only=True)
class Selection:
    """By what the best delta is chosen.

    Attributes:
        metric: Its name, or ``last``.
        higher_is_better: What better means.
        patience: Evaluations without a better one after which the run ends; None: never.
    """

    metric: str
    higher_is_better: bool
    patience: int | None

    def __post_init__(self) -> None:
        if self.metric == LAST and self.patience is not None:
            raise RecipeError(
                "training.early_stopping has nothing to go by: evaluation.select is 'last'",
                hint="Name a metric in evaluation.select, or leave training.early_stopping out.",
            )

    def consider(self, state: RunState, metrics: Mapping[str, float], *, finished: bool = True) -> bool:
        """Enter the metrics measured at ``state.step`` into ``state``, and return whether they are the best so far.

        Args:
            state: Where the run stands.
            metrics: What was measured.
            finished: Whether this could be the finished delta; in an earlier phase it is another thing.

        Raises:
            RecipeError: The metric was not measured.
        """
        state.evaluated = state.step
        if self.metric == LAST:
            return False
        if self.metric not in metrics:
            names = ", ".join(name for name in metrics if name != "n") or "none"
            raise RecipeError(
                f"evaluation.select is {self.metric!r}, which was not measured",
                hint=f"The metrics of this run are: {names}. Or write 'last'.",
            )
        if not finished:
            return False
        if self._better(metrics[self.metric], state):
            state.best_step, state.best_metrics, state.worse = state.step, dict(metrics), 0
            return True
        state.worse += 1
        state.stopped_early = self.patience is not None and state.worse >= self.patience
        return False

    def _better(self, value: float, state: RunState) -> bool:
        if math.isnan(value):
            return False
        if state.best_step is None:
            return True
        best = state.best_metrics[self.metric]
        return value > best if self.higher_is_better else value < best
