"""Pages that stand alone: no script, nothing fetched, readable in light and in dark."""

from __future__ import annotations

from functools import cache
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

from peftcli import files
from peftcli.errors import RecipeError
from peftcli.report.comparison import Comparison
from peftcli.report.confusion import confusion_svg
from peftcli.report.drawing import standalone
from peftcli.report.measured import confusions
from peftcli.report.outline import headline, key_figures, outline
from peftcli.report.plots import loss_curve_svg, parameters_bar_svg, score_vs_parameters_svg
from peftcli.report.record import Report
from peftcli.report.tables import LEGEND, comparison_table, plain

if TYPE_CHECKING:
    from jinja2 import Environment
    from markupsafe import Markup


def to_html(report: Report) -> str:
    """Return report.html; the same report always gives the same bytes."""
    return _render(
        "page.html.j2",
        title=plain(report.name),
        headline=headline(report),
        figures=key_figures(report),
        sections=outline(report),
        plots={
            "metrics": [_safe(confusion_svg(*found, split)) for split, found in confusions(report).items()],
            "training": _drawn(loss_curve_svg(report)),
            "parameters": _drawn(parameters_bar_svg(report)),
        },
        subtitle=f"{plain(report.method)} on {plain(report.base.name)}",
    )


def comparison_to_html(comparison: Comparison) -> str:
    """Return the page of a comparison."""
    runs = len(comparison.reports)
    return _render(
        "comparison.html.j2",
        title=f"{runs} {'run' if runs == 1 else 'runs'} by {plain(comparison.metric)}",
        subtitle=", ".join(dict.fromkeys(plain(report.base.name) for report in comparison.reports)),
        table=comparison_table(comparison.rows, comparison.metric),
        plot=_safe(score_vs_parameters_svg(comparison)),
        comparison=comparison,
        legend=LEGEND,
    )


def write_comparison(path: Path, comparison: Comparison) -> None:
    """Write the page of a comparison to ``path``."""
    files.write_text(path, comparison_to_html(comparison))


def write_plot(path: Path, comparison: Comparison) -> None:
    """Write score against trained parameters to ``path``, as an SVG that stands alone.

    Raises:
        RecipeError: No run has both a score and trained parameters.
    """
    svg = score_vs_parameters_svg(comparison)
    if svg is None:
        raise RecipeError("there is nothing to plot: no run has both a score and trained parameters")
    files.write_text(path, standalone(svg))


def _render(template: str, **values: Any) -> str:  # noqa: ANN401  # what the template names
    return _environment().get_template(template).render(**values)


@cache
def _environment() -> Environment:
    from jinja2 import Environment, FunctionLoader, StrictUndefined

    folder = resources.files("peftcli.report")
    return Environment(
        loader=FunctionLoader(lambda name: folder.joinpath(name).read_text(encoding="utf-8")),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )


def _drawn(svg: str | None) -> list[Markup | None]:
    return [] if svg is None else [_safe(svg)]


def _safe(svg: str | None) -> Markup | None:
    """Let a plot through the escaping: drawing.to_svg has escaped the text in it."""
    from markupsafe import Markup

    return None if svg is None else Markup(svg)
