"""The loss per token (or per row), and the perplexity."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import TYPE_CHECKING

from peftcli.metrics.scored import Scored, ratio, summed

if TYPE_CHECKING:
    import numpy as np

_LARGEST = 700.0  # whose exponential is still a number


def scored(name: str, losses: Iterable[float], items: Iterable[float]) -> Scored:
    """Return ``loss``, the sum of the losses over that of the items, or ``perplexity``, its exponential.

    Args:
        name: Which of the two.
        losses: Of every example, summed over its items.
        items: Of every example: its labelled tokens, or 1.
    """
    return summed(zip(losses, items, strict=True), _loss if name == "loss" else _perplexity)


def _loss(sums: np.ndarray) -> float:
    return ratio(sums[0], sums[1])


def _perplexity(sums: np.ndarray) -> float:
    loss = _loss(sums)
    return math.exp(loss) if loss < _LARGEST else math.inf
