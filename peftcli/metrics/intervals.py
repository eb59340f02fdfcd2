"""How far a value may be chance: confidence intervals by resampling examples."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from peftcli.metrics.scored import Scored


def bootstrap(scored: Scored, *, seed: int, samples: int = 1000, confidence: float = 0.95) -> tuple[float, float]:
    """Return the bounds of the percentile bootstrap interval (Efron 1979) over examples.

    It says how the value would vary with other examples of the same kind, not with another seed of training. The same
    seed draws the same examples for every metric, so that intervals of one set are comparable.

    Args:
        seed: Of the draws.
        samples: How many sets, each as large as the original one, are drawn with replacement.
        confidence: The fraction of their values between the bounds.
    """
    import numpy as np

    size = len(scored.rows)
    if size == 0:
        return scored.value, scored.value
    draws = np.random.default_rng(seed)
    values = [scored.score(scored.rows[draws.integers(0, size, size)]) for _ in range(samples)]
    low, high = np.quantile(values, [(1 - confidence) / 2, (1 + confidence) / 2])
    return float(low), float(high)
