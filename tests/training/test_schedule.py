from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from peftcli.recipe.recipe import TrainingSection
from peftcli.training.schedule import factor, total_steps, warmup_steps


def curve(total, **keys):
    section = TrainingSection(**keys)
    return [factor(step, total, section) for step in range(1, total + 1)]


def test_linear_rises_in_equal_parts_stands_at_the_peak_once_and_falls_evenly():
    assert curve(8, warmup=3) == pytest.approx([0.25, 0.5, 0.75, 1.0, 0.8, 0.6, 0.4, 0.2])


def test_cosine_falls_along_half_a_cosine():
    expected = [0.5, *(0.5 * (1 + math.cos(math.pi * k / 4)) for k in range(4))]
    assert curve(5, warmup=1, schedule="cosine") == pytest.approx(expected)


def test_constant_stays_at_the_peak():
    assert curve(4, warmup=1, schedule="constant") == pytest.approx([0.5, 1.0, 1.0, 1.0])


def test_without_warm_up_the_first_step_stands_at_the_peak():
    assert curve(4, warmup=0) == pytest.approx([1.0, 0.75, 0.5, 0.25])


def test_a_run_shorter_than_its_warm_up_only_rises():
    assert curve(3, warmup=10) == pytest.approx([0.25, 0.5, 0.75])


@given(
    total=st.integers(1, 300),
    warmup=st.one_of(st.integers(0, 400), st.sampled_from(["0%", "6%", "12.5%", "100%"])),
    schedule=st.sampled_from(["linear", "cosine", "constant"]),
)
def test_no_step_is_wasted_or_above_the_peak(total, warmup, schedule):
    assert all(0 < value <= 1 for value in curve(total, warmup=warmup, schedule=schedule))


@pytest.mark.parametrize(
    ("warmup", "total", "steps"),
    [("6%", 100, 6), ("6%", 101, 7), ("10%", 30, 3), ("0%", 9, 0), (" 50 %", 9, 5), (4, 9, 4), (40, 9, 9)],
)
def test_a_share_of_warm_up_counts_up_to_whole_steps(warmup, total, steps):
    assert warmup_steps(TrainingSection(warmup=warmup), total) == steps


@pytest.mark.parametrize(
    ("keys", "per_epoch", "steps"),
    [({}, 10, 30), ({"steps": 7}, 10, 7), ({"epochs": 0.1}, 30, 3), ({"epochs": 1.5}, 3, 5), ({"epochs": 0.01}, 3, 1)],
)
def test_part_of_an_epoch_counts_up_to_whole_steps(keys, per_epoch, steps):
    assert total_steps(TrainingSection(**keys), per_epoch) == steps
