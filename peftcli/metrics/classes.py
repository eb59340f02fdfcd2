"""Metrics of one label per example, from how often each label was taken for which."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from peftcli.metrics.scored import Scored


def scored(name: str, labels: np.ndarray, predictions: np.ndarray, classes: int) -> Scored:
    """Return accuracy, f1 (macro), f1_micro, f1_weighted or matthews of ``predictions``, both given as numbers."""
    pairs = np.stack([labels, predictions], axis=1).astype(np.float64)

    def score(rows: np.ndarray) -> float:
        return _OF_MATRIX[name](_matrix(rows[:, 0].astype(int), rows[:, 1].astype(int), classes))

    return Scored(pairs, score)


def confusion(labels: np.ndarray, predictions: np.ndarray, classes: int) -> list[list[int]]:
    """Return how often each label (rows) was taken for which (columns)."""
    found: list[list[int]] = _matrix(labels, predictions, classes).tolist()
    return found


def class_table(labels: np.ndarray, predictions: np.ndarray, names: Sequence[str]) -> list[dict[str, Any]]:
    """Return n, precision, recall and F1 of every label."""
    matrix = _matrix(labels, predictions, len(names))
    hits, right, said = np.diag(matrix), matrix.sum(axis=1), matrix.sum(axis=0)
    columns = (right.tolist(), _share(hits, said).tolist(), _share(hits, right).tolist(), _f1(matrix).tolist())
    return [
        {"label": name, "n": n, "precision": precision, "recall": recall, "f1": f1}
        for name, n, precision, recall, f1 in zip(names, *columns, strict=True)
    ]


def _matrix(labels: np.ndarray, predictions: np.ndarray, classes: int) -> np.ndarray:
    return np.bincount(labels * classes + predictions, minlength=classes * classes).reshape(classes, classes)


def _share(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    return np.divide(part, whole, out=np.zeros(len(part)), where=whole > 0)


def _f1(matrix: np.ndarray) -> np.ndarray:
    return _share(2 * np.diag(matrix), matrix.sum(axis=0) + matrix.sum(axis=1))


def _accuracy(matrix: np.ndarray) -> float:
    return float(np.trace(matrix) / max(matrix.sum(), 1))


def _macro_f1(matrix: np.ndarray) -> float:
    seen = matrix.sum(axis=0) + matrix.sum(axis=1) > 0  # a label that neither occurs nor is predicted has no F1
    return float(_f1(matrix)[seen].mean()) if seen.any() else 0.0


def _weighted_f1(matrix: np.ndarray) -> float:
    return float(_f1(matrix) @ matrix.sum(axis=1) / max(matrix.sum(), 1))


def _matthews(matrix: np.ndarray) -> float:
    """Gorodkin's coefficient for any number of labels; 0 where one side is constant."""
    total, hits = float(matrix.sum()), float(np.trace(matrix))
    right, said = matrix.sum(axis=1).astype(float), matrix.sum(axis=0).astype(float)
    spread = (total**2 - said @ said) * (total**2 - right @ right)
    return float((hits * total - right @ said) / np.sqrt(spread)) if spread > 0 else 0.0


_OF_MATRIX: dict[str, Callable[[np.ndarray], float]] = {
    "accuracy": _accuracy,
    "f1": _macro_f1,
    "f1_micro": _accuracy,  # with one label per example, every miss is one false positive and one false negative
    "f1_weighted": _weighted_f1,
    "matthews": _matthews,
}
