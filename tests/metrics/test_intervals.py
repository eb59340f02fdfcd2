"""The bootstrap."""

import time

import numpy as np
import pytest

from peftcli.metrics import classes, numbers, registry, texts
from peftcli.metrics.intervals import bootstrap
from peftcli.metrics.scored import averaged


def accuracy(size, seed, rate=0.8):
    return averaged(np.random.default_rng(seed).random(size) < rate)


def test_a_seed_gives_one_interval():
    scored = averaged(np.random.default_rng(0).random(50))
    assert bootstrap(scored, seed=3, samples=200) == bootstrap(scored, seed=3, samples=200)
    assert bootstrap(scored, seed=3, samples=200) != bootstrap(scored, seed=4, samples=200)


def test_the_interval_contains_the_value_and_more_examples_or_less_confidence_narrow_it():
    few, many = accuracy(40, 1), accuracy(4000, 1)
    widths = []
    for scored, confidence in ((few, 0.95), (few, 0.5), (many, 0.95)):
        low, high = bootstrap(scored, seed=0, confidence=confidence)
        assert low <= scored.value <= high
        widths.append(high - low)
    assert widths[0] > widths[1] > 0
    assert widths[2] < widths[0] / 5


def test_the_width_is_the_textbooks():
    low, high = bootstrap(accuracy(1000, 2), seed=0)
    assert high - low == pytest.approx(2 * 1.96 * (0.8 * 0.2 / 1000) ** 0.5, rel=0.1)


def test_about_95_of_100_intervals_hold_the_truth():
    intervals = [bootstrap(accuracy(100, seed), seed=seed, samples=300) for seed in range(200)]
    assert 0.9 <= np.mean([low <= 0.8 <= high for low, high in intervals]) <= 0.98


def test_pairs_stay_together_when_examples_are_drawn():
    """A statistic of labels and predictions apart from each other would lose its correlation."""
    targets = np.random.default_rng(0).normal(size=100)
    low, high = bootstrap(numbers.scored("spearman", targets, targets**3), seed=0, samples=100)
    assert (low, high) == pytest.approx((1.0, 1.0))


def test_no_examples_and_one_have_an_interval_of_no_width():
    assert bootstrap(averaged([]), seed=0) == (0.0, 0.0)
    assert bootstrap(averaged([0.25]), seed=0) == (0.25, 0.25)


@pytest.mark.parametrize("name", ["accuracy", "f1", "matthews"])
def test_a_thousand_samples_of_a_thousand_classes_are_quick(name):
    labels, predictions = np.random.default_rng(0).integers(0, 77, (2, 1000))
    scored = classes.scored(name, labels, predictions, 77)
    began = time.process_time()
    bootstrap(scored, seed=0)
    assert time.process_time() - began < 3


@pytest.mark.parametrize("name", [name for name in registry.NAMES["texts"] if name not in ("ter", *registry.ELSEWHERE)])
def test_a_thousand_samples_of_texts_are_quick(name):
    scored = texts.scored(
        name, ["The tea room is cheap .", "It is near the river ."] * 50, [["A cheap tea room ."]] * 100
    )
    scored = type(scored)(np.tile(scored.rows, (10, 1)), scored.score)
    began = time.process_time()
    low, high = bootstrap(scored, seed=0)
    assert low <= scored.value <= high
    assert time.process_time() - began < 3
