from __future__ import annotations

import random

import numpy as np
import torch
from safetensors.torch import load, save

from peftcli.training.randomness import capture, from_bytes, restore, seed_all, to_bytes


def draw():
    # Normal numbers come in pairs: one of each may be kept for later.
    numbers = [random.random(), random.gauss(), float(np.random.standard_normal()), float(torch.randn(()))]
    return [*numbers, float(torch.rand(())), int(np.random.randint(1000))]


def test_one_seed_repeats_and_two_differ():
    draws = []
    for seed in (1, 1, 2):
        seed_all(seed)
        draws.append(draw())
    assert draws[0] == draws[1] != draws[2]


def test_each_process_draws_numbers_of_its_own():
    draws = []
    for rank in (0, 1, 2):
        seed_all(7, rank)
        draws.append(tuple(draw()))
    assert len(set(draws)) == 3


def test_restored_generators_go_on_where_they_were():
    seed_all(3)
    for _ in range(3):
        draw()
        states = load(save(capture()))
        expected = [draw() for _ in range(3)]
        restore(states)
        assert [draw() for _ in range(3)] == expected


def test_states_survive_as_a_row_of_bytes():
    seed_all(4)
    draw()
    states = capture()
    again = from_bytes(to_bytes(states), states)
    assert all(torch.equal(again[name], states[name]) and again[name].dtype == states[name].dtype for name in states)
