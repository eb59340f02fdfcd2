"""Metrics of classification: one class per example.

F1 of a class is 2 TP / (2 TP + FP + FN). Macro and weighted means run over the classes that occur or are predicted
(a class that neither label nor prediction names says nothing), which is what scikit-learn does when it is not told
the classes. Matthews' correlation is 0 where labels or predictions are all the same, as in scikit-learn.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, TypedDict

from peftcli.metrics.scored import Scored, averaged, ratio

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np


class ClassRow(TypedDict):
    """One class of a table."""

    label: str
    n: int
    precision: float
    recall: float
    f1: float


def scored(name: str, labels: np.ndarray, predictions: np.ndarray, classes: int) -> Scored:
    """Return a metric on labels and predictions.

    Shapes: labels (examples,) and predictions (examples,), integers from 0 to classes - 1.
    """
    import numpy as np

    if name in ("accuracy", "f1_micro"):  # with one class per example they are the same number
        return averaged(labels == predictions)
    if name not in FROM_COUNTS:
        raise KeyError(name)

    def score(rows: np.ndarray) -> float:
        actual, predicted = rows.T.astype(np.int64)
        return FROM_COUNTS[name](
            np.bincount(actual[actual == predicted], minlength=classes),
            np.bincount(actual, minlength=classes),
            np.bincount(predicted, minlength=classes),
        )

    return Scored(np.stack([labels, predictions], axis=1).astype(float), score)


def f1_per_class(hits: np.ndarray, actual: np.ndarray, predicted: np.ndarray) -> np.ndarray:
    """Return 2 TP / (2 TP + FP + FN) of every class, 0 for those that neither occur nor are predicted."""
    import numpy as np

    return np.asarray(2 * hits / np.maximum(actual + predicted, 1))


def macro_f1(hits: np.ndarray, actual: np.ndarray, predicted: np.ndarray) -> float:
    """Return the mean F1 over the classes that occur or are predicted."""
    return ratio(f1_per_class(hits, actual, predicted).sum(), (actual + predicted > 0).sum())


def weighted_f1(hits: np.ndarray, actual: np.ndarray, predicted: np.ndarray) -> float:
    """Return the mean F1 over classes, each as often as it occurs."""
    return ratio((f1_per_class(hits, actual, predicted) * actual).sum(), actual.sum())


def _matthews(hits: np.ndarray, actual: np.ndarray, predicted: np.ndarray) -> float:
    n = float(actual.sum())
    covariance = hits.sum() * n - (actual * predicted).sum()
    spread = (n**2 - (actual**2).sum()) * (n**2 - (predicted**2).sum())
    return ratio(covariance, spread**0.5)


FROM_COUNTS = {"f1": macro_f1, "f1_weighted": weighted_f1, "matthews": _matthews}


def class_table(labels: np.ndarray, predictions: np.ndarray, names: Sequence[str]) -> list[ClassRow]:
    """Return precision, recall and F1 of every class; what has nothing to be a fraction of is 0.

    Shapes: labels (examples,), predictions (examples,); names, one for each class.
    """
    import numpy as np

    rows = []
    for number, name in enumerate(names):
        hits = int(np.sum((labels == number) & (predictions == number)))
        rows.append(table_row(name, hits, int(np.sum(labels == number)), int(np.sum(predictions == number))))
    return rows


def table_row(label: str, hits: int, actual: int, predicted: int) -> ClassRow:
    """Return one row from its counts."""
    return {
        "label": label,
        "n": actual,
        "precision": ratio(hits, predicted),
        "recall": ratio(hits, actual),
        "f1": ratio(2 * hits, actual + predicted),
    }


def confusion(labels: np.ndarray, predictions: np.ndarray, classes: int) -> list[list[int]]:
    """Return how often each class (a row) was predicted as each class (a column).

    Shapes: labels (examples,), predictions (examples,).
    """
    import numpy as np

    counts = np.bincount(labels * classes + predictions, minlength=classes**2)
    return [[int(count) for count in row] for row in counts.reshape(classes, classes)]
