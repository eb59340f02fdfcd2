"""What every plot shares: the look, and SVG that is the same byte for byte and follows the page's colours."""

from __future__ import annotations

import contextlib
import html
import io
import re
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.text import Annotation
    from matplotlib.transforms import Bbox

# Stand-ins that a page turns into its own colours, in light and in dark; see _themed. The hues are Okabe and Ito's.
INK, FAINT, RULE = "#1b1c1d", "#6a6b6c", "#d8d9da"
BLUE, ORANGE, GREEN = "#0072b2", "#d55e00", "#009e73"
THEME = {
    INK: "currentColor",
    FAINT: f"var(--faint, {FAINT})",
    RULE: f"var(--rule, {RULE})",
    BLUE: f"var(--blue, {BLUE})",
    ORANGE: f"var(--orange, {ORANGE})",
    GREEN: f"var(--green, {GREEN})",
}
STYLE = re.compile(r'style="[^"<>]*"')
FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, 'Helvetica Neue', Arial, sans-serif"
LOOK: dict[str, Any] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "peftcli",
    "text.parse_math": False,  # a name may hold a dollar sign
    "font.family": "DejaVu Sans",
    "font.size": 9,
    "text.color": INK,
    "axes.edgecolor": RULE,
    "axes.labelcolor": FAINT,
    "axes.titlesize": 10,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.titlepad": 8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.formatter.useoffset": False,
    "grid.color": RULE,
    "grid.linewidth": 0.6,
    "xtick.color": RULE,
    "ytick.color": RULE,
    "xtick.labelcolor": FAINT,
    "ytick.labelcolor": FAINT,
    "lines.linewidth": 1.8,
    "figure.facecolor": "none",
    "axes.facecolor": "none",
    "savefig.facecolor": "none",
}
Spot = tuple[float, float, Literal["left", "center", "right"]]
# Where a label may stand: points right of and above its point, and the side that touches it; the most readable first.
SPOTS: tuple[Spot, ...] = (
    (8, 0, "left"),
    (-8, 0, "right"),
    (0, 11, "center"),
    (0, -11, "center"),
    (7, 9, "left"),
    (-7, 9, "right"),
    (7, -9, "left"),
    (-7, -9, "right"),
    *((x, y, "left" if x > 0 else "right") for y in (-20, 20, -31, 31, -43, 43) for x in (9, -9, 22, -22)),
)
NEAR = 8  # the spots that need no line
WIDTH = 8.0  # inches; the page shows it at 800 pixels


@contextlib.contextmanager
def look() -> Iterator[None]:
    """Draw with our settings alone, whatever the user's matplotlibrc says."""
    from matplotlib import style

    with style.context(["default", LOOK]):
        yield


def figure(rows: int = 1, columns: int = 1, *, height: float, **grid: Any) -> tuple[Figure, list[Axes]]:  # noqa: ANN401
    """Return a figure and its axes, left to right and top to bottom."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    drawn = Figure(figsize=(WIDTH, height), layout="constrained")
    FigureCanvasAgg(drawn)  # measures text
    return drawn, list(drawn.subplots(rows, columns, squeeze=False, **grid).flat)


def to_svg(drawn: Figure, description: str) -> str:
    """Return the figure as SVG for a page: no date, no fixed size, colours of the page, a description for readers."""
    content = io.StringIO()
    drawn.savefig(content, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    svg = content.getvalue()
    svg = svg[svg.index("<svg") :]
    head, body = svg.split(">", 1)
    head = re.sub(r' (width|height)="[^"]*"', "", head)
    head += f' role="img" aria-label="{html.escape(description)}"'
    return f"{head}>{_themed(body)}"


def standalone(svg: str) -> str:
    """Return a plot as a file of its own: the colours written out, on white, for programs that know no page."""
    svg = STYLE.sub(lambda found: re.sub(r"var\([-\w]+, (#\w+)\)", r"\1", found[0]).replace("currentColor", INK), svg)
    return '<?xml version="1.0" encoding="utf-8"?>\n' + svg.replace("<svg ", '<svg style="background: #ffffff" ', 1)


def _themed(body: str) -> str:
    """Give the figure the page's colours and font, and drop ids that nothing refers to (two plots share a page)."""
    body = re.sub(r" <metadata>.*?</metadata>\n", "", body, flags=re.DOTALL)
    body = re.sub(r'<g id="[^"]*"', "<g", body)
    # Only inside style attributes: a label that reads like a colour stays what it is.
    return STYLE.sub(lambda found: _restyled(found[0]), body)


def _restyled(style: str) -> str:
    for stand_in, colour in THEME.items():
        style = style.replace(stand_in, colour)
    return re.sub(r"'DejaVu Sans'[^;\"]*", FONT, style)


def place_label(
    axes: Axes, anchors: Sequence[tuple[float, float]], text: str, taken: list[Bbox], *, tied: bool = True
) -> Annotation:
    """Write ``text`` beside one of ``anchors`` where it covers nothing in ``taken``, and add its box to them.

    Args:
        axes: Where; its scale must stand.
        anchors: Points in data units.
        text: Shown as it is.
        taken: Boxes in pixels.
        tied: Whether a thin line ties a label to an anchor that it cannot stand next to.
    """
    tie = {"arrowstyle": "-", "color": FAINT, "lw": 0.6, "shrinkA": 1, "shrinkB": 4} if tied else None
    label = axes.annotate(
        text, anchors[0], (0, 0), textcoords="offset points", arrowprops=tie, parse_math=False, va="center", zorder=5
    )
    label.set_in_layout(False)
    tried = []
    for spot in range(len(SPOTS)):
        for anchor in range(len(anchors)):
            _move(label, anchors[anchor], SPOTS[spot])
            tried.append((_covered(axes, label, taken), spot, anchor))
    _, spot, anchor = min(tried)
    _move(label, anchors[anchor], SPOTS[spot])
    taken.append(_box(axes, label).padded(1))
    if spot < NEAR and label.arrow_patch:
        label.arrow_patch.set_visible(False)
    return label


def _move(label: Annotation, anchor: tuple[float, float], spot: Spot) -> None:
    label.xy = anchor
    label.set_position(spot[:2])
    label.set_horizontalalignment(spot[2])


def _covered(axes: Axes, label: Annotation, taken: Sequence[Bbox]) -> float:
    """Return how much the label covers, in square pixels; what stands outside the axes counts four times."""
    box = _box(axes, label)
    return sum(_shared(box, other) for other in taken) + 4 * (box.width * box.height - _shared(box, axes.bbox))


def _box(axes: Axes, label: Annotation) -> Bbox:
    """Return the box of the text alone, without its line."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.text import Text

    canvas = axes.figure.canvas
    assert isinstance(canvas, FigureCanvasAgg), "figure() makes one: it alone measures text"
    renderer = canvas.get_renderer()  # type: ignore[no-untyped-call]
    label.update_positions(renderer)
    return Text.get_window_extent(label, renderer)


def _shared(one: Bbox, other: Bbox) -> float:
    width = min(one.x1, other.x1) - max(one.x0, other.x0)
    height = min(one.y1, other.y1) - max(one.y0, other.y0)
    return width * height if width > 0 and height > 0 else 0.0
