"""The picture of a confusion matrix: which label was taken for which."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from peftcli.report.drawing import BLUE, FAINT, INK, ORANGE, RULE, figure, look, to_svg
from peftcli.report.tables import count

if TYPE_CHECKING:
    from matplotlib.axes import Axes

NUMBERED = 16  # with more labels the cells are too small for numbers
NAMED = 40  # and the lines too close for names
LONGEST_NAME = 22


def confusion_svg(labels: Sequence[str], matrix: Sequence[Sequence[int]], split: str) -> str:
    """Return a square per cell that is not empty, the stronger the larger its part of the row.

    Args:
        labels: In the order of the matrix.
        matrix: How often a label (rows) was taken for another (columns).
        split: What was measured, for the title.
    """
    size = len(labels)
    with look():
        drawn, (axes, *_) = figure(1, height=min(8.0, 2.2 + 0.28 * size))
        axes.set_aspect("equal")
        for row, counts in enumerate(matrix):
            _draw_row(axes, row, counts, numbered=size <= NUMBERED)
        axes.set_xlim(-0.5, size - 0.5)
        axes.set_ylim(size - 0.5, -0.5)
        _name_lines(axes, labels)
        axes.grid(False)
        axes.tick_params(length=0)
        axes.spines[["left", "bottom"]].set_color(RULE)
        axes.set_xlabel("predicted")
        axes.set_ylabel("right")
        axes.set_title(f"{split}: which label was taken for which")
        return to_svg(drawn, f"Confusion matrix of {size} labels on {split} rows")


def _draw_row(axes: Axes, row: int, counts: Sequence[int], *, numbered: bool) -> None:
    from matplotlib.patches import Rectangle

    total = sum(counts) or 1
    for column, number in enumerate(counts):
        if not number:
            continue
        share = number / total
        colour = BLUE if column == row else ORANGE
        axes.add_patch(Rectangle((column - 0.46, row - 0.46), 0.92, 0.92, color=colour, alpha=0.12 + 0.68 * share))
        if numbered:
            axes.text(column, row, count(number), ha="center", va="center", fontsize=8, color=INK)


def _name_lines(axes: Axes, labels: Sequence[str]) -> None:
    size = len(labels)
    if size > NAMED:
        axes.set_xticks([])
        axes.set_yticks([])
        return
    names = [name if len(name) <= LONGEST_NAME else f"{name[: LONGEST_NAME - 1]}…" for name in labels]
    axes.set_xticks(range(size), names, rotation=45, ha="right", parse_math=False, color=FAINT)
    axes.set_yticks(range(size), names, parse_math=False, color=FAINT)
