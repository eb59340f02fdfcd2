"""Tables of text, and the one place where numbers become words."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from peftcli.base.sites import SITE_NAMES

if TYPE_CHECKING:
    from peftcli.report.entries import Entry
    from peftcli.report.record import Report

NONE = "-"
FRONT = "★"
LEGEND = f"{FRONT} on the Pareto front: no method here scores better with as few trainable parameters."
LONG_LIST = 12
NOUGHT = 5e-5  # what four decimals would show as 0.0000


@dataclass(frozen=True)
class Table:
    """Cells of text under titles.

    Attributes:
        align: One letter per column, l or r.
    """

    columns: tuple[str, ...]
    align: str
    rows: tuple[tuple[str, ...], ...]

    def to_text(self) -> str:
        """Return the table in aligned columns, two blanks apart."""
        lines = (self.columns, *self.rows)
        widths = [max(len(line[i]) for line in lines) for i in range(len(self.columns))]
        return "".join("  ".join(map(_pad, line, widths, self.align)).rstrip() + "\n" for line in lines)

    def to_markdown(self) -> str:
        """Return the table in GitHub's Markdown."""
        rule = ("---:" if a == "r" else "---" for a in self.align)
        lines = (map(markdown_text, self.columns), rule, *(map(markdown_text, row) for row in self.rows))
        return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def _pad(cell: str, width: int, align: str) -> str:
    return cell.rjust(width) if align == "r" else cell.ljust(width)


def markdown_text(text: str) -> str:
    """Return ``text`` so that Markdown shows it as it is."""
    text = text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return "".join(f"\\{c}" if c in "\\|*[]`" else c for c in text)


def count(number: float | None) -> str:
    """Return a whole number with its thousands apart: 294,912."""
    return NONE if number is None else f"{number:,.0f}"


def short_count(number: float) -> str:
    """Return a round number for an axis: 10k, 100k, 1M."""
    for size, letter in ((1e9, "B"), (1e6, "M"), (1e3, "k")):
        if number >= size:
            return f"{number / size:g}{letter}"
    return f"{number:g}"


def percent(fraction: float | None) -> str:
    """Return a fraction (0-1) in percent with three significant digits, never in powers of ten: 0.269 %."""
    if fraction is None or not math.isfinite(fraction):
        return NONE
    if fraction == 0:
        return "0 %"
    exponent = int(f"{fraction * 100:.2e}".split("e")[1])
    return f"{fraction * 100:,.{max(0, 2 - exponent)}f} %"


def file_size(size: float | None) -> str:
    """Return bytes in the largest unit (of 1000) that leaves a number of at least one: 1.2 MB."""
    if size is None:
        return NONE
    if size < 1000:
        return f"{size:.0f} B"
    for unit in ("kB", "MB", "GB"):
        size /= 1000
        if round(size) < 1000:
            return _three_digits(size, unit)
    return _three_digits(size / 1000, "TB")


def _three_digits(number: float, unit: str) -> str:
    return f"{number:,.1f} {unit}" if round(number, 1) < 100 else f"{number:,.0f} {unit}"


def score(value: float | None) -> str:
    """Return a metric with four decimals, two from a hundred on: 0.9232."""
    if value is None:
        return NONE
    if not math.isfinite(value):
        return str(value)
    if 0 < abs(value) < NOUGHT:
        return f"{value:.1e}"
    return f"{value:.4f}" if abs(value) < 100 else f"{value:,.2f}"


def spread(deviation: float | None) -> str:
    """Return what a metric varies by: ± 0.0041."""
    return "" if deviation is None else f"± {score(deviation)}"


def bounds(interval: Sequence[float | None] | None) -> str:
    """Return an interval of a metric: 0.8210 to 0.8704."""
    return NONE if interval is None else " to ".join(map(score, interval))


def difference(value: float | None, reference: float | None) -> str:
    """Return how far a metric is from another, with its sign: +0.4140."""
    if value is None or reference is None:
        return NONE
    return ("+" if value > reference else "") + score(value - reference)


def seconds(value: float | None) -> str:
    """Return seconds as a bare number, with as many decimals as are worth reading."""
    return NONE if value is None else f"{value:,.{2 if value < 10 else 1 if value < 100 else 0}f}"


def duration(value: float | None) -> str:
    """Return seconds in the units people say: 12 min 04 s."""
    if value is None:
        return NONE
    if round(value) < 60:
        return f"{seconds(value)} s"
    minutes, rest = divmod(round(value), 60)
    if minutes < 60:
        return f"{minutes} min {rest:02d} s"
    return f"{minutes // 60:,} h {minutes % 60:02d} min"


def plain(value: Any) -> str:  # noqa: ANN401  # any JSON
    """Return one value on one line, as people write it."""
    if value is None:
        return NONE
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return count(value)
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, list | tuple):
        more = f", ... ({count(len(value))} in all)" if len(value) > LONG_LIST else ""
        return (", ".join(map(plain, value[:LONG_LIST])) or NONE) + more
    return " ".join(str(value).split())


def facts(title: str, pairs: Iterable[tuple[str, str]]) -> Table:
    """Return a table of names and values."""
    return Table((title, "value"), "lr", tuple(pairs))


def mapping_table(title: str, mapping: dict[str, Any]) -> Table:
    """Return a nested mapping as names and values, one line per leaf."""
    return Table((title, "value"), "ll", tuple(_leaves(mapping)))


def _leaves(mapping: dict[str, Any], above: str = "") -> Iterable[tuple[str, str]]:
    for key, value in mapping.items():
        name = above + plain(str(key)).replace("_", " ")
        if isinstance(value, dict):
            yield from _leaves(value, f"{name} / ")
        elif isinstance(value, list) and value and all(isinstance(v, dict) for v in value):
            for number, part in enumerate(value, 1):
                yield from _leaves(part, f"{name} {number} / ")
        elif str(key).split()[-1:] in (["sha256"], ["fingerprint"]) and isinstance(value, str):
            yield name, value[:12]  # enough to compare by eye; report.json holds all of it
        else:
            yield name, plain(value)


def parameter_table(report: Report) -> Table:
    """Return the counts: what is trained, the head apart, and both fractions."""
    counts = report.parameters
    pairs = [
        ("method", plain(report.method)),
        ("trainable parameters |Φ|", count(counts.delta)),
        ("base parameters |Θ|", count(counts.base)),
        ("trainable fraction |Φ|/|Θ|", percent(counts.fraction)),
        ("of all |Φ|/(|Θ|+|Φ|)", percent(counts.fraction_of_all)),
        ("head, trained too, counted apart", count(counts.head)),
    ]
    if counts.trained_during_training not in (None, counts.delta):
        pairs.append(("held while training (the finished delta drops some)", count(counts.trained_during_training)))
    for budget in counts.budgets:
        asked = f" ({plain(budget.asked)})" if isinstance(budget.asked, str) else ""
        pairs += [
            (f"budget of {plain(budget.method)}{asked}", count(budget.wanted)),
            (f"largest {plain(budget.setting)} within it", plain(budget.value)),
        ]
    return facts("parameters", pairs)


def per_site(report: Report) -> dict[str, int]:
    """Return the trained parameters of each site, in the order the field names them."""
    order = {name: place for place, name in enumerate(SITE_NAMES)}
    items = sorted(report.parameters.per_site.items(), key=lambda i: (order.get(i[0].split(" ")[-1], len(order)), i[0]))
    return {plain(name): number for name, number in items}


def per_layer(report: Report) -> dict[str, int]:
    """Return the trained parameters of each layer; layer 10 follows layer 9."""
    items = sorted(report.parameters.per_layer.items(), key=lambda item: _natural(item[0]))
    return {plain(name): number for name, number in items}


def _natural(name: str) -> list[tuple[int, int, str]]:
    return [(0, int(p), "") if p.isdecimal() else (1, 0, p) for p in re.split(r"(\d+)", name) if p]


def comparison_table(entries: Sequence[Entry], metric: str) -> Table:
    """Return one row per method, and one per un-tuned base; a star marks the Pareto front."""
    columns: list[tuple[str, str, Callable[[Entry], str]]] = [
        ("method", "l", lambda e: plain(e.label)),
        ("|Φ|", "r", lambda e: count(e.delta)),
        ("|Φ|/|Θ|", "r", lambda e: percent(e.fraction)),
        ("stored", "r", lambda e: file_size(e.artifact_bytes)),
        (plain(metric), "r", lambda e: score(e.score)),
        ("seconds", "r", lambda e: seconds(e.seconds)),
        ("peak memory", "r", lambda e: file_size(e.peak_memory_bytes)),
        ("Pareto", "l", lambda e: FRONT if e.on_front else ""),
    ]
    if any(entry.interval for entry in entries):
        columns[5:5] = [("95 % interval", "r", lambda e: bounds(e.interval))]
    if any(len(entry.runs) > 1 for entry in entries):
        columns[5:5] = [("sd", "r", lambda e: spread(e.deviation)), ("runs", "r", lambda e: count(len(e.runs)))]
    titles, aligns, cells = zip(*columns, strict=True)
    return Table(titles, "".join(aligns), tuple(tuple(cell(entry) for cell in cells) for entry in entries))
