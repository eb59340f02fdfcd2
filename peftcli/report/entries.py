"""The lines of a comparison: runs that differ in their seed alone are one line, each un-tuned base is another."""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from peftcli.report.record import Report

SECTIONS = ("method", "training", "data", "evaluation", "base")
MOST_SETTINGS = 3  # more of them would hide the method they follow
WIDE = 24  # a longer value is cut


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One line of a comparison; None where there is no value.

    Attributes:
        label: What tells it from the other lines: the method, and where that is not enough, its settings.
        runs: The names of the runs it sums up.
        deviation: The sample standard deviation of the score over the seeds.
        interval: Of a single run's score: where it would lie on other rows of the same kind.
        untuned: Whether it is an un-tuned base.
        on_front: Whether no method scores better with as few trainable parameters.
    """

    label: str
    method: str | None = None
    base: str
    runs: tuple[str, ...]
    seeds: tuple[int, ...]
    delta: int | None = None
    fraction: float | None = None
    artifact_bytes: float | None = None
    score: float | None = None
    deviation: float | None = None
    interval: tuple[float | None, float | None] | None = None
    seconds: float | None = None
    peak_memory_bytes: int | None = None
    untuned: bool = False
    on_front: bool = False


def grouped(reports: Sequence[Report], aggregate: bool) -> list[list[Report]]:
    """Return the reports of each line: one, or all that differ in nothing but their seed."""
    if not aggregate:
        return [[report] for report in reports]
    groups: dict[str, dict[int, Report]] = {}
    for report in reports:
        # The same recipe with the same seed is the same number again: counting it twice would shrink the deviation.
        groups.setdefault(_without_seed(report), {}).setdefault(report.training.seed, report)
    return [list(group.values()) for group in groups.values()]


def entries(groups: Sequence[Sequence[Report]], metric: str, higher_is_better: bool) -> list[Entry]:
    """Return a line per group and one per un-tuned base, the Pareto front marked."""
    methods = [_method_entry(group, label, metric) for group, label in zip(groups, labels(groups), strict=True)]
    points = [(e.delta, e.score) if e.delta is not None else (0, None) for e in methods]
    marks = pareto_front(points, higher_is_better)
    marked = [replace(entry, on_front=mark) for entry, mark in zip(methods, marks, strict=True)]
    return [*_untuned([r for group in groups for r in group], metric), *marked]


def pareto_front(points: Sequence[tuple[int, float | None]], higher_is_better: bool) -> list[bool]:
    """Return which points (trainable parameters, score) no other point beats in one and equals in the other.

    Points without a finite score are never on the front and beat nobody.
    """
    sign = 1 if higher_is_better else -1
    known = [(size, sign * score) for size, score in points if score is not None and math.isfinite(score)]

    def beaten(size: int, score: float) -> bool:
        return any(s <= size and v >= score and (s, v) != (size, score) for s, v in known)

    return [v is not None and math.isfinite(v) and not beaten(size, sign * v) for size, v in points]


def labels(groups: Sequence[Sequence[Report]]) -> list[str]:
    """Return a name per group: the method, then its settings that differ, then, when all else is equal, the run."""
    firsts = [group[0] for group in groups]
    result = [r.method for r in firsts]
    _tell_apart(result, lambda same: _differing([_settings(firsts[i]) for i in same]))
    _tell_apart(result, lambda same: [f"({firsts[i].name})" for i in same])
    if len({base_identity(r) for r in firsts}) > 1:
        result = [f"{label} on {r.base.name}" for label, r in zip(result, firsts, strict=True)]
    return result


def base_identity(report: Report) -> str:
    """Return what tells one base from another."""
    return report.base.fingerprint or f"{report.base.name}@{report.base.commit}"


def measured_on(report: Report) -> str:
    """Return what tells one set of validation rows from another; where the files lie does not matter."""
    asked = _asked(report)
    source, limit = asked.get("validation"), asked.get("limit_validation")
    split_off = isinstance(source, str) and source.strip().endswith("%")
    return canonical(
        [
            trained_on(report) if split_off else _hashes(report, "validation"),
            source if split_off or not _hashes(report, "validation") else None,
            limit,
            report.training.seed if split_off or limit is not None else None,  # such rows are drawn with it
            (report.metrics.validation or {}).get("n"),
        ]
    )


def trained_on(report: Report) -> str:
    """Return what tells one set of training rows from another."""
    asked = _asked(report)
    return canonical([_hashes(report, "train") or asked.get("train"), asked.get("limit"), asked.get("shots")])


def canonical(value: Any) -> str:  # noqa: ANN401  # any JSON
    """Return one text for equal JSON."""
    return json.dumps(value, sort_keys=True)


def _without_seed(report: Report) -> str:
    recipe = {key: value for key, value in report.recipe.items() if key not in ("seed", "name")}
    return canonical([report.method, base_identity(report), report.select, recipe])


def _asked(report: Report) -> dict[str, Any]:
    section = report.recipe.get("data")
    return section if isinstance(section, dict) else {}


def _hashes(report: Report, split: str) -> list[str]:
    """Return the sha256 of every file of a split: what the files were, wherever they lay."""
    files = report.data.get("files")
    found = files.get(split) if isinstance(files, dict) else None
    return [str(f.get("sha256")) for f in found if isinstance(f, dict)] if isinstance(found, list) else []


def _tell_apart(names: list[str], suffixes: Callable[[list[int]], list[str]]) -> None:
    """Append to names that occur more than once what ``suffixes`` finds for their places."""
    places: dict[str, list[int]] = {}
    for place, name in enumerate(names):
        places.setdefault(name, []).append(place)
    for same in places.values():
        if len(same) > 1:
            for place, suffix in zip(same, suffixes(same), strict=True):
                names[place] = f"{names[place]} {suffix}".rstrip()


def _settings(report: Report) -> dict[str, str]:
    """Return the recipe's settings by name, the method's own first."""
    found: dict[str, str] = {}
    for section in SECTIONS:
        value = report.recipe.get(section)
        parts = value if isinstance(value, list) else [value]
        for part in parts:
            if isinstance(part, dict):
                prefix = f"{part.get('name')}." if len(parts) > 1 else ""
                found |= {f"{prefix}{k}": _short(v) for k, v in part.items() if f"{prefix}{k}" not in found}
    return found


def _differing(settings: Sequence[dict[str, str]]) -> list[str]:
    """Return the fewest settings that tell as many of them apart as can be, long values last."""
    names = list(dict.fromkeys(name for one in settings for name in one))
    wide = {name: max(len(one.get(name, "")) for one in settings) for name in names}
    told: list[str] = []
    apart = 1
    for name in sorted(names, key=lambda name: wide[name] > WIDE):
        kinds = len({tuple(one.get(n) for n in (*told, name)) for one in settings})
        if kinds > apart and len(told) < MOST_SETTINGS:
            told, apart = [*told, name], kinds
    return [" ".join(f"{n}={_cut(one[n])}" for n in told if n in one) for one in settings]


def _cut(value: str) -> str:
    return value if len(value) <= WIDE else f"{value[: WIDE - 1]}…"


def _short(value: Any) -> str:  # noqa: ANN401  # any JSON
    if isinstance(value, list):
        return "+".join(map(_short, value))
    return value if isinstance(value, str) else json.dumps(value)


def _method_entry(group: Sequence[Report], label: str, metric: str) -> Entry:
    first = group[0]
    score, deviation = _spread((r.metrics.validation or {}).get(metric) for r in group)
    return Entry(
        label=label,
        method=first.method,
        base=first.base.name,
        runs=tuple(r.name for r in group),
        seeds=tuple(r.training.seed for r in group),
        delta=first.parameters.delta,
        fraction=first.parameters.fraction,
        artifact_bytes=_spread(r.cost.artifact_bytes for r in group)[0],
        score=score,
        deviation=deviation,
        interval=first.intervals.get("validation", {}).get(metric) if len(group) == 1 else None,
        seconds=_spread(r.cost.seconds for r in group)[0],
        peak_memory_bytes=max((r.cost.peak_memory_bytes for r in group if r.cost.peak_memory_bytes), default=None),
    )


def _untuned(reports: Sequence[Report], metric: str) -> list[Entry]:
    """Return a line per distinct base and validation rows; a new head makes its score depend on the seed."""
    groups: dict[tuple[str, str], dict[int, Report]] = {}
    for report in reports:
        if (report.metrics.base or {}).get(metric) is not None:
            identity = (base_identity(report), measured_on(report))
            groups.setdefault(identity, {}).setdefault(report.training.seed, report)
    several = len({base for base, _ in groups}) > 1
    found = []
    for by_seed in groups.values():
        group = list(by_seed.values())
        score, deviation = _spread((r.metrics.base or {}).get(metric) for r in group)
        name = group[0].base.name
        label = f"un-tuned {name}" if several else "un-tuned base"
        seeds, runs = tuple(by_seed), tuple(r.name for r in group)
        found.append(
            Entry(
                label=label,
                base=name,
                runs=runs,
                seeds=seeds,
                score=score,
                deviation=deviation,
                interval=group[0].intervals.get("base", {}).get(metric) if len(group) == 1 else None,
                untuned=True,
            )
        )
    return found


def _spread(values: Iterable[float | None]) -> tuple[float | None, float | None]:
    """Return the mean, and the sample standard deviation where there are two values or more."""
    known = [v for v in values if v is not None]
    if not known:
        return None, None
    finite = len(known) > 1 and all(map(math.isfinite, known))
    return math.fsum(known) / len(known), statistics.stdev(known) if finite else None
