"""A metric on a set of examples, in a form that can be computed again for any part of them."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Scored:
    """What every example contributes to a metric, and what a set of contributions is worth.

    Attributes:
        rows: Of shape (examples, k) in float64: statistics that add up, scores of single examples, or the values
            themselves.
        score: From rows (of any examples, some of them repeatedly) to the metric's value.
    """

    rows: np.ndarray
    score: Callable[[np.ndarray], float]

    @property
    def value(self) -> float:
        """The metric on all examples."""
        return self.score(self.rows)


def mean(values: Sequence[float]) -> Scored:
    """Return the mean of one value per example."""
    return Scored(np.asarray(values, dtype=np.float64)[:, None], lambda rows: float(rows.mean()))


def ratio(sums: Sequence[float], counts: Sequence[float]) -> Scored:
    """Return the sum of all ``sums`` over that of all ``counts``: a loss per token, from losses and tokens of rows."""
    rows = np.stack([np.asarray(sums, dtype=np.float64), np.asarray(counts, dtype=np.float64)], axis=1)
    return Scored(rows, _ratio)


def perplexity(losses: Sequence[float], tokens: Sequence[float]) -> Scored:
    """Return the exponential of the loss per token; infinite where that is too large for a number."""
    return Scored(ratio(losses, tokens).rows, _perplexity)


def _ratio(rows: np.ndarray) -> float:
    total, count = rows.sum(axis=0)
    return float(total / count) if count else 0.0


def _perplexity(rows: np.ndarray) -> float:
    loss = _ratio(rows)
    return math.exp(loss) if loss < 700 else math.inf
