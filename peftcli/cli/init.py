"""``peft init``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from peftcli import files
from peftcli.cli import console, options
from peftcli.errors import RecipeError

NAME = "init"
EXAMPLES = """\b
Examples:
  peft init
  peft init recipes/first.yaml
"""


def run(
    path: Annotated[Path, typer.Argument(metavar="PATH", help="The recipe to write.")] = Path("recipe.yaml"),
    overwrite: options.Overwrite = False,
) -> None:
    """Write a commented recipe to start from."""
    from peftcli.recipe.template import template

    if path.exists() and not overwrite:
        raise RecipeError(
            "already exists", where=str(path), hint="Choose another path, or replace it with --overwrite."
        )
    if not path.parent.is_dir():
        raise RecipeError("no such folder", where=str(path.parent), hint="Make it first.")
    files.write_text(path, template())
    console.data(str(path))
    console.next_command("peft", "check", path)
