"""``peft check``."""

from __future__ import annotations

from typing import Annotated

import typer

from peftcli.cli import console, options
from peftcli.report.tables import mapping_table, plain

NAME = "check"
EXAMPLES = """\b
Examples:
  peft check recipe.yaml
  peft check recipe.yaml method.rank=4
  peft check recipe.yaml --deep

Without --deep the recipe alone is read, in a fraction of a second; --deep also reads model, tokenizer and rows.
"""

_SAID = ("recipe", "checks")


def run(
    recipe: options.RecipePath,
    overrides: options.Overrides = None,
    deep: Annotated[
        bool, typer.Option("--deep", help="Also read the model's shape, its tokenizer and the rows.")
    ] = False,
    json: options.Json = False,
) -> None:
    """Show every mistake of a recipe at once."""
    from peftcli.pipeline.checking import check

    result = check(recipe, overrides or [], deep)
    if json:
        console.data_json(result)
    else:
        console.data(f"{recipe}: no mistake found in {plain(result['checks'])}")
        if deep:
            console.data("")
            console.table(mapping_table("found", {k: v for k, v in result.items() if k not in _SAID}))
    console.next_command("peft", "train", recipe, *(overrides or []))
