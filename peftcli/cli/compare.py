"""``peft compare``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from peftcli import files
from peftcli.cli import console, options
from peftcli.errors import RecipeError

NAME = "compare"
EXAMPLES = """\b
Examples:
  peft compare runs/*
  peft compare runs/lora runs/bitfit --sort delta
  peft compare runs/* --html comparison.html --plot comparison.svg
  peft compare runs/* --markdown >> NOTES.md

Runs that differ in their seed alone are one row: mean and standard deviation.
"""


def run(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN...", help="Run folders.")],
    sort: Annotated[
        str | None,
        typer.Option("--sort", metavar="COLUMN", help="A column, such as delta. [default: the score, best first]"),
    ] = None,
    html: Annotated[Path | None, typer.Option("--html", metavar="FILE", help="Also write a page with plots.")] = None,
    plot: Annotated[
        Path | None, typer.Option("--plot", metavar="FILE", help="Also write score against size, as SVG.")
    ] = None,
    markdown: Annotated[bool, typer.Option("--markdown", help="Write a Markdown table to stdout.")] = False,
    json: options.Json = False,
) -> None:
    """Set finished runs side by side."""
    from peftcli.report.comparison import compare

    if markdown and json:
        raise RecipeError("--markdown and --json exclude each other", where="command line")
    comparison = compare(runs, sort)
    if html:
        from peftcli.report.page import write_comparison

        write_comparison(html, comparison)
    if plot:
        from peftcli.report.plots import score_vs_parameters_svg

        drawing = score_vs_parameters_svg(comparison)
        if drawing is None:
            raise RecipeError("there is nothing to plot: no run has both a score and trained parameters")
        files.write_text(plot, drawing)
    if json:
        console.data_json(comparison.to_json())
    else:
        console.data(comparison.to_markdown() if markdown else comparison.to_text())
    for written in filter(None, (html, plot)):
        console.note(f"wrote {written}")
    if html:
        console.next_command("peft", "eval", runs[0])
    else:
        console.next_command("peft", "compare", *runs, "--html", "comparison.html")
