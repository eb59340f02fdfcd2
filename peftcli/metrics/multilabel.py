"""Metrics of classification with any number of labels per example.

``accuracy`` counts examples whose whole set of labels is right, ``hamming`` is the fraction of wrong single decisions
(less is better). Macro and weighted means run over the labels that occur or are predicted. ``f1_samples`` of an
example without labels is 1 if none was predicted.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from peftcli.metrics.classes import macro_f1, weighted_f1
from peftcli.metrics.scored import Scored, averaged, ratio, summed

if TYPE_CHECKING:
    import numpy as np


def scored(name: str, labels: np.ndarray, predictions: np.ndarray) -> Scored:
    """Return a metric on sets of labels.

    Shapes: labels (examples, labels) and predictions (examples, labels), 0 or 1.
    """
    import numpy as np

    labels, predictions = np.asarray(labels, dtype=float), np.asarray(predictions, dtype=float)
    return PER_EXAMPLE[name](labels, predictions) if name in PER_EXAMPLE else _from_counts(name, labels, predictions)


def _from_counts(name: str, labels: np.ndarray, predictions: np.ndarray) -> Scored:
    import numpy as np

    score = FROM_COUNTS[name]
    return summed(np.hstack([labels * predictions, labels, predictions]), lambda sums: score(*np.split(sums, 3)))


def _micro_f1(hits: np.ndarray, actual: np.ndarray, predicted: np.ndarray) -> float:
    return ratio(2 * hits.sum(), (actual + predicted).sum())


def _subset_accuracy(labels: np.ndarray, predictions: np.ndarray) -> Scored:
    return averaged((labels == predictions).all(axis=1))


def _hamming(labels: np.ndarray, predictions: np.ndarray) -> Scored:
    return averaged((labels != predictions).mean(axis=1))


def _samples_f1(labels: np.ndarray, predictions: np.ndarray) -> Scored:
    import numpy as np

    hits = (labels * predictions).sum(axis=1)
    named = (labels + predictions).sum(axis=1)
    return averaged(np.where(named == 0, 1.0, 2 * hits / np.maximum(named, 1)))


FROM_COUNTS = {"f1": macro_f1, "f1_micro": _micro_f1, "f1_weighted": weighted_f1}
PER_EXAMPLE = {"accuracy": _subset_accuracy, "f1_samples": _samples_f1, "hamming": _hamming}
