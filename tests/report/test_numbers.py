"""How numbers are written, everywhere."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from peftcli.report.tables import (
    count,
    difference,
    duration,
    file_size,
    markdown_text,
    percent,
    plain,
    score,
    seconds,
    short_count,
    spread,
)


@pytest.mark.parametrize(
    ("fraction", "text"),
    [
        (294_912 / 109_482_240, "0.269 %"),
        (0.0000269, "0.00269 %"),
        (0.001, "0.100 %"),
        (0.0999999, "10.0 %"),
        (1.0, "100 %"),
        (12.5, "1,250 %"),
        (0, "0 %"),
        (None, "-"),
        (math.nan, "-"),
    ],
)
def test_fractions_keep_three_digits_however_small(fraction, text):
    assert percent(fraction) == text


@given(st.floats(min_value=1e-12, max_value=0.99))
def test_a_percentage_reads_back_as_the_fraction(fraction):
    assert float(percent(fraction).split()[0]) / 100 == pytest.approx(fraction, rel=0.006)


@pytest.mark.parametrize(
    ("size", "text"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1000, "1.0 kB"),
        (1_179_648, "1.2 MB"),
        (99_960_000, "100 MB"),
        (999_999, "1.0 MB"),
        (498_818_054, "499 MB"),
        (2_102_000_000, "2.1 GB"),
        (7e15, "7,000 TB"),
        (None, "-"),
    ],
)
def test_bytes_are_in_the_largest_fitting_unit(size, text):
    assert file_size(size) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.92317, "0.9232"),
        (12.3456, "12.3456"),
        (1234.5, "1,234.50"),
        (0.0, "0.0000"),
        (0.00001, "1.0e-05"),
        (None, "-"),
        (math.inf, "inf"),
    ],
)
def test_scores_have_four_decimals(value, text):
    assert score(value) == text


def test_differences_show_their_sign():
    assert difference(0.92, 0.51) == "+0.4100"
    assert difference(0.51, 0.92) == "-0.4100"
    assert difference(0.5, 0.5) == "0.0000"
    assert difference(None, 0.5) == "-"


def test_a_deviation_that_is_not_known_is_not_shown():
    assert spread(None) == ""
    assert spread(0.00412) == "± 0.0041"


def test_counts_have_their_thousands_apart():
    assert count(294_912) == "294,912"
    assert count(None) == "-"
    assert [short_count(n) for n in (500, 10_000, 2_000_000, 1e9)] == ["500", "10k", "2M", "1B"]


def test_times_are_in_the_units_people_say():
    assert [duration(s) for s in (4.2, 59.6, 724.9, 5400, None)] == [
        "4.20 s",
        "1 min 00 s",
        "12 min 05 s",
        "1 h 30 min",
        "-",
    ]
    assert [seconds(s) for s in (4.2, 42.25, 2470.4, None)] == ["4.20", "42.2", "2,470", "-"]


def test_a_long_list_says_how_long_it_is():
    assert plain(["x"] * 77) == ", ".join(["x"] * 12) + ", ... (77 in all)"


def test_any_value_fits_on_one_line():
    assert plain({"a": 1}) == "{'a': 1}"
    assert [plain(v) for v in (True, False, None, 1234, 5e-4, ["a", 1], "a\n  b")] == [
        "yes",
        "no",
        "-",
        "1,234",
        "0.0005",
        "a, 1",
        "a b",
    ]


def test_markdown_shows_every_character_as_it_is():
    assert markdown_text("a|b <i>*x*</i> `y`") == r"a\|b &lt;i&gt;\*x\*&lt;/i&gt; \`y\`"
