"""What was measured, as tables: the metrics with their intervals, and what is behind them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from peftcli.report.record import Report
from peftcli.report.tables import Table, bounds, count, difference, mapping_table, plain, score

SPLITS = ("base", "validation", "test")
INTERVAL = "95 % interval"
# Of what report.json has sorted by name.
ORDER = ("of", "label", "n", "mean", "deviation", "least", "most", "precision", "recall", "f1")


def metrics_table(report: Report) -> Table:
    """Return every metric of the un-tuned base and of the delta; the one that selects comes first."""
    base, validation, test = (getattr(report.metrics, split) or {} for split in SPLITS)
    names = sorted({*base, *validation, *test} - {"n"}, key=lambda name: (name != report.select, name))
    columns = ["metric", "un-tuned base", "validation", INTERVAL, "change"]
    rows = []
    for name in names:
        own, start = validation.get(name), base.get(name)
        cells = [plain(name), score(start), score(own), interval(report, "validation", name), difference(own, start)]
        rows.append([*cells, score(test.get(name)), interval(report, "test", name)] if test else cells)
    counts = ["rows (n)", count(base.get("n")), count(validation.get("n")), "", ""]
    rows.append([*counts, count(test.get("n")), ""] if test else counts)
    titles = (*columns, "test", INTERVAL) if test else columns
    return Table(tuple(titles), "l" + "r" * (len(titles) - 1), tuple(map(tuple, rows)))


def interval(report: Report, split: str, metric: str) -> str:
    """Return where the value would lie on other rows of the same kind: 0.8210 to 0.8704."""
    return bounds(report.intervals.get(split, {}).get(metric))


def signature_table(report: Report) -> Table:
    """Return how exactly each metric is computed."""
    return Table(("metric", "how it is computed"), "ll", mapping_table("", dict(report.signatures)).rows)


def detail_tables(report: Report) -> tuple[tuple[str, Table], ...]:
    """Return what a task shows beside its metrics, split by split: scores by class, for instance."""
    found = []
    for split, details in report.details.items():
        for name, value in details.items():
            if rows := _records(value):
                found.append((f"{plain(name)}, {split}", _record_table(rows)))
    return tuple(found)


def confusions(report: Report) -> dict[str, tuple[list[str], list[list[int]]]]:
    """Return the labels and the confusion matrix of every split that has one (rows: what was right)."""
    found = {}
    for split, details in report.details.items():
        names = [plain(row.get("label")) for row in _records(details.get("classes"))]
        matrix = details.get("confusion")
        if isinstance(matrix, list) and len(matrix) == len(names) > 1:
            found[split] = (names, matrix)
    return found


def _records(value: Any) -> list[Mapping[str, Any]]:  # noqa: ANN401  # any JSON
    rows = value if isinstance(value, list) else []
    return [row for row in rows if isinstance(row, Mapping)]


def _record_table(rows: Sequence[Mapping[str, Any]]) -> Table:
    found = dict.fromkeys(key for row in rows for key in row)
    titles = tuple(sorted(found, key=lambda key: ORDER.index(key) if key in ORDER else len(ORDER)))
    cells = tuple(tuple(_cell(row.get(title)) for title in titles) for row in rows)
    return Table(titles, "".join("l" if isinstance(rows[0].get(t), str) else "r" for t in titles), cells)


def _cell(value: Any) -> str:  # noqa: ANN401  # any JSON
    return score(value) if isinstance(value, float) else plain(value)


def forgetting_table(report: Report) -> Table:
    """Return the scores of text that the base knew, before and after training; no rows where none was measured."""
    columns = ("source text", "before", "after", "change")
    found = report.forgetting
    if found is None:
        return Table(columns, "lrrr", ())
    names = sorted(found.before)
    rows = [(name, found.before.get(name), found.after.get(name)) for name in names]
    return Table(columns, "lrrr", tuple((plain(n), score(b), score(a), difference(a, b)) for n, b, a in rows))
