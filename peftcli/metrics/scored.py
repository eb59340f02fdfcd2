"""A metric on a set of examples, in a form that can be scored again on any part of the set."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np


@dataclass(frozen=True)
class Scored:
    """What every example contributes to a metric, and what a set of contributions is worth.

    Shapes: rows (examples, k), float64.

    Attributes:
        rows: Statistics that add up, the score of each example, or the labels and predictions themselves.
        score: From any of the rows, in any order and with repetition, to the metric's value; of no rows it is 0.
    """

    rows: np.ndarray
    score: Callable[[np.ndarray], float]

    @property
    def value(self) -> float:
        """The metric on all examples."""
        return float(self.score(self.rows))


def averaged(scores: Iterable[float]) -> Scored:
    """Return the metric that is the mean over examples."""
    import numpy as np

    return Scored(np.fromiter(scores, dtype=float).reshape(-1, 1), lambda rows: ratio(rows.sum(), len(rows)))


def summed(statistics: Iterable[Iterable[float]], score: Callable[[np.ndarray], float]) -> Scored:
    """Return the metric that is ``score`` of the sums over examples of ``statistics``."""
    import numpy as np

    rows = np.array([tuple(row) for row in statistics], dtype=float)
    return Scored(rows, lambda chosen: float(score(chosen.sum(axis=0))) if len(chosen) else 0.0)


def ratio(part: float, whole: float) -> float:
    """Return part / whole, and 0 where there is nothing to divide by."""
    return float(part / whole) if whole else 0.0
