"""Metrics of regression: one number per example.

A correlation with what never changes is undefined; here it is 0, because a constant prediction explains nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from peftcli.metrics.scored import Scored, averaged

if TYPE_CHECKING:
    import numpy as np


def scored(name: str, targets: np.ndarray, predictions: np.ndarray) -> Scored:
    """Return a metric on numbers.

    Shapes: targets (examples,), predictions (examples,).
    """
    import numpy as np

    targets, predictions = np.asarray(targets, dtype=float), np.asarray(predictions, dtype=float)
    if name == "mse":
        return averaged((targets - predictions) ** 2)
    if name == "mae":
        return averaged(np.abs(targets - predictions))
    return Scored(np.stack([targets, predictions], axis=1), CORRELATIONS[name])


def _pearson(rows: np.ndarray) -> float:
    import numpy as np

    if len(rows) < 2 or (np.ptp(rows, axis=0) == 0).any():
        return 0.0
    centred = rows - rows.mean(axis=0)
    # Dividing by the largest first keeps the squares of tiny and huge numbers within range.
    centred /= np.abs(centred).max(axis=0)
    centred /= np.sqrt((centred**2).sum(axis=0))
    return float(np.clip((centred[:, 0] * centred[:, 1]).sum(), -1.0, 1.0))


def _spearman(rows: np.ndarray) -> float:
    import numpy as np

    return _pearson(np.stack([_ranks(column) for column in rows.T], axis=1))


def _ranks(values: np.ndarray) -> np.ndarray:
    """Return the rank of every value; equal ones share the mean of their ranks."""
    import numpy as np

    _, places, counts = np.unique(values, return_inverse=True, return_counts=True)
    return np.asarray((np.cumsum(counts) - (counts - 1) / 2)[places])


CORRELATIONS = {"pearson": _pearson, "spearman": _spearman}
