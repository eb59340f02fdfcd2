"""The arguments and options that several commands share: one name, one help text each."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

RecipePath = Annotated[Path, typer.Argument(metavar="RECIPE", help="The recipe, a YAML file.")]
Overrides = Annotated[
    list[str] | None,
    typer.Argument(metavar="KEY=VALUE", help="Changes of the recipe, such as method.rank=4."),
]
Target = Annotated[Path, typer.Argument(metavar="TARGET", help="A run folder, or the delta folder in it.")]
Data = Annotated[
    list[str] | None,
    typer.Option("--data", metavar="FILE", help="Rows to use instead of the run's own; may be given several times."),
]
Json = Annotated[bool, typer.Option("--json", help="Write JSON to stdout instead of a table.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Write no progress and no notes, only errors.")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace what is there already.")]
