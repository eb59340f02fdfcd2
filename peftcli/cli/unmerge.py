"""``peft unmerge``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from peftcli.cli import console, options
from peftcli.cli.progress import progress
from peftcli.report.tables import Table, count, file_size

NAME = "unmerge"
EXAMPLES = """\b
Examples:
  peft unmerge merged --out base
  peft unmerge merged --out base --base models/roberta-base

Nothing is subtracted, which would leave rounding behind: the base comes from the originals that 'peft merge
--keep-originals' stored, or else from where it was found when it was merged, and must be what it was then.
"""


def run(
    merged: Annotated[Path, typer.Argument(metavar="MERGED", help="A folder that 'peft merge' wrote.")],
    out: Annotated[Path, typer.Option("--out", metavar="FOLDER", help="Where the base model is written.")],
    base: Annotated[
        str | None,
        typer.Option(
            "--base", metavar="MODEL", help="Where the base model lies. [default: the originals; as recorded]"
        ),
    ] = None,
    overwrite: options.Overwrite = False,
    quiet: options.Quiet = False,
    json: options.Json = False,
) -> None:
    """Give the base model of a merged model back, bit for bit."""
    from peftcli.pipeline.unmerging import unmerge

    with progress(quiet=quiet) as watcher:
        result = unmerge(merged, out, base, watcher, overwrite=overwrite)
    if json:
        console.data_json(result)
    else:
        pairs = (
            ("folder", str(result["out"])),
            ("base", result["base"]),
            ("restored from", result["source"]),
            ("tensors", f"{count(result['tensors'])}, {file_size(result['bytes'])}"),
            ("compared", f"{result['checked']}: as before the merge"),
        )
        console.table(Table(("unmerged", ""), "ll", pairs))
    if not quiet:
        console.next_command("peft", "train", "recipe.yaml", f"base.name={out}")
