"""Several runs side by side."""

from __future__ import annotations

import difflib
import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from peftcli.errors import ArtifactError, Problem, RecipeError
from peftcli.report.entries import Entry, base_identity, canonical, entries, grouped, measured_on, trained_on
from peftcli.report.record import NAME, Report, read_report
from peftcli.report.tables import LEGEND, comparison_table, markdown_text, plain

SORTABLE = ("method", "delta", "fraction", "artifact_bytes", "score", "seconds", "peak_memory_bytes")
MACHINE = ("device", "cpu", "platform", "threads", "precision")


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Runs, measured by one metric.

    Attributes:
        rows: One per method (runs that differ in their seed alone are one) and one per un-tuned base, sorted.
        metric: What the score is.
        warnings: Why the rows may not be comparable; full sentences.
    """

    reports: tuple[Report, ...]
    rows: tuple[Entry, ...]
    metric: str
    higher_is_better: bool
    warnings: tuple[str, ...]

    def to_text(self) -> str:
        """Return the table in aligned columns, its legend and its warnings."""
        lines = [LEGEND, *(f"warning: {w}" for w in self.warnings)]
        return comparison_table(self.rows, self.metric).to_text() + "".join(f"{line}\n" for line in lines)

    def to_markdown(self) -> str:
        """Return the same as Markdown."""
        notes = [LEGEND, *(f"**Warning:** {markdown_text(w)}" for w in self.warnings)]
        return "\n\n".join([comparison_table(self.rows, self.metric).to_markdown().rstrip(), *notes]) + "\n"

    def to_json(self) -> dict[str, Any]:
        """Return the same as an object that JSON can hold; a score that is not finite is null."""
        rows = [{k: _finite(v) for k, v in asdict(row).items()} for row in self.rows]
        return {
            "metric": self.metric,
            "higher_is_better": self.higher_is_better,
            "rows": rows,
            "warnings": list(self.warnings),
        }


def compare(paths: Sequence[Path], sort: str | None = None, *, aggregate: bool = True) -> Comparison:
    """Put the runs in ``paths`` side by side.

    Args:
        paths: Run folders, or their report.json.
        sort: A column (see SORTABLE) or the metric; default: the score, best first.
        aggregate: Whether runs that differ in their seed alone become one row: mean and standard deviation.

    Raises:
        ArtifactError: A report is missing or damaged; all of them are named.
        RecipeError: There is no run, or no such column.
    """
    if not paths:
        raise RecipeError("there is no run to compare", hint="Name run folders, such as runs/*.")
    return side_by_side(_read_all(paths), sort, aggregate=aggregate)


def side_by_side(reports: Sequence[Report], sort: str | None = None, *, aggregate: bool = True) -> Comparison:
    """Put reports that are read already side by side (see compare)."""
    metric, higher = reports[0].select, reports[0].higher_is_better
    key = _sort_key("score" if sort in (None, metric) else str(sort), higher)
    groups = grouped(reports, aggregate)
    return Comparison(
        reports=tuple(reports),
        rows=tuple(sorted(entries(groups, metric, higher), key=key)),
        metric=metric,
        higher_is_better=higher,
        warnings=tuple(_warnings(reports, groups)),
    )


def _read_all(paths: Sequence[Path]) -> list[Report]:
    reports: list[Report] = []
    problems: list[Problem] = []
    seen: set[Path] = set()
    for path in paths:
        file = (path / NAME if path.is_dir() else path).resolve()
        if file in seen:
            continue
        seen.add(file)
        try:
            reports.append(read_report(path))
        except ArtifactError as error:
            problems += error.problems
    if problems:
        raise ArtifactError(problems)
    return reports


def _sort_key(column: str, higher_is_better: bool) -> Callable[[Entry], tuple[bool, float, float, str]]:
    if column not in SORTABLE:
        near = difflib.get_close_matches(column, SORTABLE, 1)
        hint = f"Did you mean '{near[0]}'?" if near else f"Name one of {', '.join(SORTABLE)}."
        raise RecipeError(f"a comparison has no column '{column}'", hint=hint)
    sign = -1 if column == "score" and higher_is_better else 1

    def key(entry: Entry) -> tuple[bool, float, float, str]:
        if column == "method":
            return entry.untuned, 0.0, 0.0, entry.label
        size = math.inf if entry.delta is None else entry.delta
        value: float | None = getattr(entry, column)
        if value is None or not math.isfinite(value):
            return True, 0.0, size, entry.label  # rows without a value stand last
        return False, sign * value, size, entry.label

    return key


def _warnings(reports: Sequence[Report], groups: Sequence[Sequence[Report]]) -> list[str]:
    """Return why the rows may not be comparable."""
    found = []
    if len({base_identity(r) for r in reports}) > 1:
        found.append("Runs start from different base models.")
    if len({trained_on(r) for r in reports}) > 1:
        found.append("Runs were trained on different data.")
    if len({measured_on(r) for r in reports}) > 1:
        found.append("Runs were measured on different validation data.")
    selects = list(dict.fromkeys(r.select for r in reports))
    if len(selects) > 1:
        names = ", ".join(map(plain, selects))
        found.append(f"Runs kept their best step by different metrics ({names}); the score is {plain(selects[0])}.")
    if len({tuple(sorted(r.training.seed for r in group)) for group in groups}) > 1:
        found.append("Rows were run with different seeds.")
    if len({canonical([r.environment.get(key) for key in MACHINE]) for r in reports}) > 1:
        found.append(
            "Runs were made on different machines, versions or threads: seconds and peak memory do not compare."
        )
    counted = sum(len(group) for group in groups)
    if counted < len(reports):
        found.append(f"{len(reports) - counted} of {len(reports)} runs repeat another's recipe and seed; left out.")
    if missing := [r.name for r in reports if (r.metrics.validation or {}).get(selects[0]) is None]:
        found.append(f"Runs without a score by {plain(selects[0])}: {', '.join(map(plain, missing))}.")
    return found


def _finite(value: Any) -> Any:  # noqa: ANN401  # a field of an Entry
    return None if isinstance(value, float) and not math.isfinite(value) else value
