"""The plots of a report, as SVG to be put into a page."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

from peftcli.report.drawing import BLUE, FAINT, INK, ORANGE, RULE, figure, look, to_svg
from peftcli.report.record import Report
from peftcli.report.tables import count, per_layer, per_site, plain, score
from peftcli.report.tradeoff import score_vs_parameters_svg

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["loss_curve_svg", "parameters_bar_svg", "score_vs_parameters_svg", "smoothed", "thinned"]

Curve = Sequence[tuple[float, float]]
MOST_POINTS = 800  # more than a screen is wide
MOST_TICKS = 16
FEW_BARS = 4


def loss_curve_svg(report: Report) -> str | None:
    """Return the training loss, raw and smoothed, above the selecting metric; None where there is no curve."""
    losses = _known(report.training.losses)
    metric = _known([(step, values.get(report.select)) for step, values in report.training.evaluations])
    if len(losses) < 2 and len(metric) < 2:
        return None
    from matplotlib.ticker import FuncFormatter

    both = bool(losses) and bool(metric) and report.select != "loss"
    with look():
        drawn, axes = figure(2 if both else 1, height=4.6 if both else 2.9, sharex=True)
        if losses:
            held_out = _known([(step, values.get("loss")) for step, values in report.training.evaluations])
            _draw_losses(axes[0], losses, held_out)
        if both or not losses:
            _draw_metric(axes[-1], metric, report)
        axes[-1].set_xlabel("optimizer steps")
        for one in axes:
            one.xaxis.grid(False)
            one.xaxis.set_major_formatter(FuncFormatter(lambda value, _: count(value)))
        return to_svg(drawn, f"Training loss and validation {plain(report.select)} over the steps")


def parameters_bar_svg(report: Report) -> str | None:
    """Return the trained parameters per site and per layer; None where both are one number."""
    sites, layers = per_site(report), per_layer(report)
    panels = [p for p in (sites, layers) if len(p) > 1]
    if not panels:
        return None
    with look():
        height = max(1.9, 0.6 + 0.26 * len(sites))
        drawn, axes = figure(1, len(panels), height=height, width_ratios=[2, 3][: len(panels)])
        if len(sites) > 1:
            _draw_sites(axes[0], sites)
        if len(layers) > 1:
            _draw_layers(axes[-1], layers)
        return to_svg(drawn, "Trained parameters per site and per layer")


def _known(values: Sequence[tuple[int, float | None]]) -> list[tuple[float, float]]:
    return [(float(x), y) for x, y in values if y is not None and math.isfinite(y)]


def smoothed(curve: Curve) -> list[tuple[float, float]]:
    """Return the mean over a window around each point, a twenty-fifth of the curve wide: it does not lag behind."""
    reach = max(1, len(curve) // 50)
    total = [0.0]
    for _, value in curve:
        total.append(total[-1] + value)
    result = []
    for place, (step, _) in enumerate(curve):
        first, last = max(0, place - reach), min(len(curve), place + reach + 1)
        result.append((step, (total[last] - total[first]) / (last - first)))
    return result


def thinned(curve: Curve) -> list[tuple[float, float]]:
    """Return at most MOST_POINTS points: of each stretch its lowest and its highest, so that no spike is lost."""
    if len(curve) <= MOST_POINTS:
        return list(curve)
    stretch = math.ceil(2 * len(curve) / MOST_POINTS)
    result: list[tuple[float, float]] = []
    for start in range(0, len(curve), stretch):
        part = curve[start : start + stretch]
        ends = {min(part, key=lambda p: p[1]), max(part, key=lambda p: p[1])}
        result += sorted(ends)
    return result


def _draw_losses(axes: Axes, losses: Curve, held_out: Curve) -> None:
    axes.plot(*zip(*thinned(losses), strict=True), color=BLUE, lw=0.8, alpha=0.35)
    axes.plot(*zip(*thinned(smoothed(losses)), strict=True), color=BLUE, label="training, smoothed")
    if held_out:
        axes.plot(*zip(*held_out, strict=True), color=ORANGE, marker="o", ms=3.5, label="validation")
        axes.legend(loc="upper right", frameon=False, ncols=2, handlelength=1.4, borderaxespad=0)
    axes.set_title("loss")


def _draw_metric(axes: Axes, curve: Curve, report: Report) -> None:
    axes.plot(*zip(*curve, strict=True), color=ORANGE, marker="o", ms=3.5)
    axes.set_title(f"validation {plain(report.select)}")
    axes.margins(y=0.3)
    best = dict(curve).get(float(report.training.best_step or -1))
    if best is None:
        return
    step = report.training.best_step or 0
    axes.plot([step], [best], "o", ms=9, mfc="none", mec=INK, mew=1.3)
    share = (step - curve[0][0]) / max(curve[-1][0] - curve[0][0], 1)
    side: Literal["left", "center", "right"] = "left" if share < 0.15 else "right" if share > 0.85 else "center"
    axes.annotate(
        f"kept: step {count(step)}, {score(best)}",
        (step, best),
        (0, 13 if report.higher_is_better else -13),
        textcoords="offset points",
        ha=side,
        va="center",
    )


def _draw_sites(axes: Axes, sites: dict[str, int]) -> None:
    names, values = list(sites), list(sites.values())
    axes.barh(range(len(names)), values, color=BLUE, height=0.62)
    axes.set_yticks(range(len(names)), names, parse_math=False, color=INK)
    axes.set_ylim(max(len(names), FEW_BARS) - 0.4, -0.6)  # a few bars stay bars
    axes.set_title("per site")
    axes.set_xlim(0, max(*values, 1) * 1.35)
    axes.set_xticks([])
    axes.tick_params(length=0)
    axes.grid(False)
    axes.spines[["bottom", "left"]].set_visible(False)
    for place, value in enumerate(values):
        axes.annotate(count(value), (value, place), (5, 0), textcoords="offset points", va="center", color=FAINT)


def _draw_layers(axes: Axes, layers: dict[str, int]) -> None:
    from matplotlib.ticker import FuncFormatter, MaxNLocator

    names = list(layers)
    axes.bar(range(len(names)), list(layers.values()), color=BLUE, width=0.7)
    every = math.ceil(len(names) / MOST_TICKS)
    numbered = [place for place, name in enumerate(names) if name.isdecimal()][::every]
    worded = [place for place, name in enumerate(names) if not name.isdecimal()]  # below the numbers: they are wide
    ticks = [names[place] for place in numbered] + [f"\n{names[place]}" for place in worded]
    axes.set_xticks(numbered + worded, ticks, parse_math=False)
    axes.yaxis.set_major_locator(MaxNLocator(4, integer=True))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: count(value)))
    axes.set_title("per layer")
    axes.xaxis.grid(False)
    axes.tick_params(length=0)
    axes.spines["left"].set_visible(False)
    axes.spines["bottom"].set_color(RULE)
