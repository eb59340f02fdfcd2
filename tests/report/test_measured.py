"""What was measured, in tables and as a picture."""

import re

import pytest

from peftcli.report.confusion import NUMBERED, confusion_svg
from peftcli.report.measured import confusions, detail_tables, metrics_table, signature_table


def test_every_metric_stands_beside_its_interval(make, made_up):
    table = metrics_table(make(made_up()))
    accuracy = dict(zip(table.columns, table.rows[0], strict=False))
    assert table.columns[3] == "95 % interval"
    assert accuracy["95 % interval"] == "0.9227 to 0.9543"


def test_a_metric_without_an_interval_has_a_dash(make, made_up):
    table = metrics_table(make({**made_up(), "intervals": {}}))
    assert {row[3] for row in table.rows[:-1]} == {"-"}


def test_scores_by_class_are_a_table(make, made_up):
    (title, table), *_ = detail_tables(make(made_up()))
    assert title == "classes, validation"
    assert table.columns == ("label", "n", "precision", "recall", "f1")
    assert table.rows[0] == ("negative", "428", "0.9400", "0.9300", "0.9350")
    assert table.align == "lrrrr"


def test_how_a_metric_is_computed_is_told(make, made_up):
    assert signature_table(make(made_up())).rows == (("accuracy", "fraction of right predictions"),)


def test_details_of_an_unknown_form_do_no_harm(make, made_up):
    report = make({**made_up(), "details": {"validation": {"confusion": "none", "note": 3, "classes": []}}})
    assert detail_tables(report) == ()
    assert confusions(report) == {}


@pytest.mark.parametrize("size", [2, NUMBERED, NUMBERED + 1, 77])
def test_a_confusion_matrix_is_drawn_at_any_size(size):
    labels = [f"label <{i}>" for i in range(size)]
    matrix = [[5 if i == j else (i + j) % 3 == 0 for j in range(size)] for i in range(size)]
    svg = confusion_svg(labels, matrix, "validation")
    cells = sum(bool(number) for row in matrix for number in row)
    assert len(re.findall("<path", svg)) >= cells
    assert f"Confusion matrix of {size} labels" in svg
    assert ("label &lt;1&gt;" in svg) == (size <= 40)
    assert len(svg) < 2_000_000


def test_a_label_without_rows_and_cells_without_counts_are_no_failure():
    assert "<path" in confusion_svg(["a", "b"], [[0, 0], [1, 0]], "test")
