"""The plot of a comparison: what is scored against what is trained."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

from peftcli.report.comparison import Comparison
from peftcli.report.drawing import BLUE, FAINT, GREEN, figure, look, place_label, to_svg
from peftcli.report.entries import Entry
from peftcli.report.tables import plain, score, short_count

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.transforms import Bbox

CLEARANCE = 10  # pixels around a point: another's label any closer would seem to be its own
TOUCHING = 6  # pixels around a point that its own label leaves free
FAR = 1.5  # times the range of the trained methods' scores: what lies beyond would flatten their differences


@dataclass(frozen=True)
class Mark:
    """An entry with a finite score: a point, or a line across where nothing is trained."""

    entry: Entry
    size: int
    score: float

    @property
    def label(self) -> str:
        """What stands beside it."""
        return plain(self.entry.label) if self.size else f"{plain(self.entry.label)} {score(self.score)}"


@dataclass(frozen=True)
class Panels:
    """Where marks are drawn.

    Attributes:
        strip: Holds the lines that lie far from the points, behind a break in the axis.
    """

    figure: Figure
    main: Axes
    strip: Axes | None
    far: tuple[Mark, ...]


def score_vs_parameters_svg(comparison: Comparison) -> str | None:
    """Return score against trainable parameters; None where no method has both.

    What trains nothing, as the un-tuned base, has no place on a logarithmic axis: it is a dashed line.
    """
    marks = [Mark(e, e.delta or 0, e.score) for e in comparison.rows if e.score is not None and math.isfinite(e.score)]
    points = sorted((m for m in marks if m.size), key=lambda m: (m.size, m.label))
    lines = [m for m in marks if not m.size]
    if not points:
        return None
    with look():
        panels = _panels(points, lines)
        _draw_points(panels.main, points)
        _draw_front(panels.main, [m for m in points if m.entry.on_front])
        for line in lines:
            _axes_of(panels, line).axhline(line.score, color=FAINT, lw=1, ls=(0, (5, 4)), zorder=1)
        better = "higher" if comparison.higher_is_better else "lower"
        panels.figure.axes[0].set_title(f"{plain(comparison.metric)} ({better} is better)", parse_math=False)
        panels.figure.axes[-1].set_xlabel("trainable parameters |Φ| (logarithmic)")
        panels.figure.draw_without_rendering()  # the layout must stand before labels are measured
        _label(panels, points, lines)
        return to_svg(panels.figure, f"{plain(comparison.metric)} against trainable parameters of each method")


def _panels(points: Sequence[Mark], lines: Sequence[Mark]) -> Panels:
    far = _far(points, lines)
    if not far:
        drawn, (main,) = figure(height=4.4)
        strip = None
    else:
        below = far[0].score < points[0].score
        drawn, axes = figure(2, height=4.6, sharex=True, height_ratios=[7, 1] if below else [1, 7])
        main, strip = axes if below else reversed(axes)
        _break(axes[0], axes[1], strip)
    _scale(main, points)
    main.margins(y=0.14)
    return Panels(drawn, main, strip, far)


def _far(points: Sequence[Mark], lines: Sequence[Mark]) -> tuple[Mark, ...]:
    """Return the lines too far from the points to share their scale, when all of them lie on one side."""
    low, high = min(m.score for m in points), max(m.score for m in points)
    reach = FAR * (high - low)
    if not reach:
        return ()
    below = tuple(m for m in lines if m.score < low - reach)
    above = tuple(m for m in lines if m.score > high + reach)
    return () if below and above else below or above


def _axes_of(panels: Panels, mark: Mark) -> Axes:
    return panels.strip if panels.strip is not None and mark in panels.far else panels.main


def _break(upper: Axes, lower: Axes, strip: Axes) -> None:
    """Show that the axis leaves something out between the two panels."""
    upper.spines["bottom"].set_visible(False)
    upper.tick_params(axis="x", which="both", length=0)
    strip.set_yticks([])
    strip.margins(y=0.6)
    slash = [(-1.0, -0.6), (1.0, 0.6)]
    for axes, edge in ((upper, 0), (lower, 1)):
        axes.plot([0], [edge], marker=slash, ms=8, color=FAINT, mew=1, transform=axes.transAxes, clip_on=False)


def _scale(axes: Axes, points: Sequence[Mark]) -> None:
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    margin = max((points[-1].size / points[0].size) ** 0.08, 1.8)
    axes.set_xscale("log")
    axes.set_xlim(points[0].size / margin, points[-1].size * margin)
    narrow = points[-1].size / points[0].size * margin**2 < 100
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if narrow else (1,)))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: short_count(value)))
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.xaxis.minorticks_off()


def _draw_points(axes: Axes, points: Sequence[Mark]) -> None:
    for m in points:
        colour = GREEN if m.entry.on_front else BLUE
        axes.errorbar([m.size], [m.score], yerr=m.entry.deviation, fmt="o", ms=6.5, color=colour, elinewidth=1)


def _draw_front(axes: Axes, front: Sequence[Mark]) -> None:
    if len(front) > 1:
        sizes, scores = [m.size for m in front], [m.score for m in front]
        # A step: between two methods, the best that fits is the smaller one.
        axes.step(sizes, scores, color=GREEN, lw=1.1, alpha=0.7, where="post", zorder=1)


def _label(panels: Panels, points: Sequence[Mark], lines: Sequence[Mark]) -> None:
    taken = {panels.main: _front_boxes(panels.main, points)}
    if panels.strip is not None:
        taken[panels.strip] = []
    for line in lines:
        axes = _axes_of(panels, line)
        x, y = _at(axes, axes.get_xlim()[0], line.score)
        taken[axes].append(_rectangle(x, y, axes.bbox.x1, y, 1))
    for line in lines:
        axes = _axes_of(panels, line)
        ends = [(x, line.score) for x in axes.get_xlim()]
        obstacles = taken[axes] + ([_point_box(axes, m, CLEARANCE) for m in points] if axes is panels.main else [])
        place_label(axes, ends, line.label, obstacles, tied=False).set_color(FAINT)
        taken[axes].append(obstacles[-1])
    for own in points:
        obstacles = [_point_box(panels.main, m, TOUCHING if m is own else CLEARANCE) for m in points]
        obstacles += taken[panels.main]
        place_label(panels.main, [(own.size, own.score)], own.label, obstacles)
        taken[panels.main].append(obstacles[-1])


def _point_box(axes: Axes, mark: Mark, padding: float) -> Bbox:
    spread = mark.entry.deviation or 0.0
    low, high = _at(axes, mark.size, mark.score - spread), _at(axes, mark.size, mark.score + spread)
    return _rectangle(*low, *high, padding)


def _front_boxes(axes: Axes, points: Sequence[Mark]) -> list[Bbox]:
    boxes = []
    for one, two in pairwise([m for m in points if m.entry.on_front]):
        corner = _at(axes, two.size, one.score)
        boxes.append(_rectangle(*_at(axes, one.size, one.score), *corner, 1))
        boxes.append(_rectangle(*corner, *_at(axes, two.size, two.score), 1))
    return boxes


def _at(axes: Axes, x: float, y: float) -> tuple[float, float]:
    across, up = axes.transData.transform((x, y))
    return float(across), float(up)


def _rectangle(x0: float, y0: float, x1: float, y1: float, padding: float) -> Bbox:
    from matplotlib.transforms import Bbox

    return Bbox.from_extents(min(x0, x1) - padding, min(y0, y1) - padding, max(x0, x1) + padding, max(y0, y1) + padding)
