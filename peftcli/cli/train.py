"""``peft train``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from peftcli.cli import console, launch, options
from peftcli.cli.progress import progress
from peftcli.errors import RecipeError

NAME = "train"
EXAMPLES = """\b
Examples:
  peft train recipe.yaml
  peft train recipe.yaml method.rank=4 training.learning_rate=3e-4
  peft train recipe.yaml --out runs/second-try --json > report.json
  peft train recipe.yaml --resume          continue after a stop or a crash
  peft train recipe.yaml --nproc 4         four processes on this machine

Exit code 75 means that the run was asked to stop and saved a checkpoint first.
"""


def run(
    recipe: options.RecipePath,
    overrides: options.Overrides = None,
    out: Annotated[
        Path | None, typer.Option("--out", metavar="FOLDER", help="The run folder. [default: runs/NAME]")
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Continue from the newest whole checkpoint.")] = False,
    overwrite: options.Overwrite = False,
    nproc: Annotated[int, typer.Option("--nproc", min=1, metavar="N", help="Processes on this machine.")] = 1,
    quiet: options.Quiet = False,
    json: options.Json = False,
) -> None:
    """Train a delta as a recipe says and measure it."""
    from peftcli.delta.method import Method
    from peftcli.pipeline.reading import read
    from peftcli.recipe.budget import kinds

    if resume and overwrite:
        raise RecipeError("--resume and --overwrite exclude each other", where="command line")
    plan = read(recipe, overrides or [])
    if launch.should_launch(nproc):
        flags = {"--resume": resume, "--overwrite": overwrite, "--quiet": quiet, "--json": json}
        folder = ["--out", str(out)] if out else []
        launch.launch(nproc, ["train", str(recipe), *(overrides or []), *folder, *(f for f in flags if flags[f])])
        return
    from peftcli.pipeline.training import TrainOptions, train

    choices = TrainOptions(out=out, resume=resume, overwrite=overwrite)
    with progress(quiet=quiet) as watcher:
        finished = train(plan, choices, watcher)
    if json:
        console.data_json(finished.report)
    else:
        _show(finished.folder)
    if not quiet:
        merges = all(method.mergeable for method in kinds(plan.method) if isinstance(method, Method))
        console.next_command(
            "peft", *(("merge", finished.folder, "--out", "merged") if merges else ("eval", finished.folder))
        )


def _show(folder: Path) -> None:
    """Show the report that was written: every view is one of report.json."""
    from peftcli.report.comparison import side_by_side
    from peftcli.report.measured import forgetting_table, metrics_table
    from peftcli.report.outline import headline
    from peftcli.report.report import read_report

    report = read_report(folder)
    console.data(headline(report))
    console.data("")
    console.table(metrics_table(report))
    console.data("")
    if report.forgetting:
        console.table(forgetting_table(report))
        console.data("")
    console.data(side_by_side([report]).to_text())
    console.data(f"\nreport: {folder / 'report.html'}")
