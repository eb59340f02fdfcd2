"""Our closed forms beside every count that the papers print, and the lectures' arithmetic that does not hold."""

from __future__ import annotations

from itertools import pairwise

import pytest
from methods.published_counts import ROWS, SHAPES, Row

from peftcli.base.anatomy import Anatomy


def _name(row: Row) -> str:
    return f"{row.printed}{row.unit}-{row.base}-{row.settings()}"


@pytest.mark.parametrize("row", ROWS, ids=_name)
def test_the_closed_form_is_what_the_formula_of_the_paper_gives(row):
    assert row.count() == row.computed


@pytest.mark.parametrize("row", ROWS, ids=_name)
def test_the_printed_figure_is_equal_or_has_a_reason_not_to_be(row):
    assert row.judged() == row.verdict
    assert row.verdict == "equal" or row.reason


def test_a_tenth_of_a_percent_is_what_the_lora_paper_prints_for_gpt2():
    """Its 0.35M and 0.77M are no counts of rank 4, which is 0.39M and 0.74M."""
    for base, printed in (("GPT-2 medium", 0.35), ("GPT-2 large", 0.77)):
        assert round(Anatomy.of(SHAPES[base], task="causal-lm").size / 1e9, 2) == printed


def test_the_square_of_12288_is_not_what_lectures_say():
    assert 12288**2 == 150_994_944 != 151_000_064


def test_what_rank_16_saves_of_a_matrix_of_gpt3_is_not_what_lectures_say():
    saved = 100 * (1 - 2 * 16 / 12288)
    assert round(saved, 4) == 99.7396 != 99.7402
    assert round(100 * (1 - 393_216 / 151_000_064), 4) != 99.7402  # nor with the wrong square


def test_a_tenth_of_a_percent_of_the_width_of_gpt3_is_a_bottleneck_of_12():
    d = 12288
    assert int(d / 1000) == 12
    per_layer = 2 * (2 * d * 12 + 12 + d)
    assert round(100 * per_layer / (12 * d**2 + 13 * d), 3) == 0.034  # the rule leaves out a constant of 2 k / 12


def test_the_network_for_mnist_has_199210_numbers():
    widths = (784, 200, 200, 10)
    assert sum(i * o + o for i, o in pairwise(widths)) == 199_210
