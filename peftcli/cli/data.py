"""``peft data``."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import typer

from peftcli.cli import console, options
from peftcli.report.data_table import data_table
from peftcli.report.tables import count

NAME = "data"
EXAMPLES = """\b
Examples:
  peft data recipe.yaml
  peft data recipe.yaml --split validation --rows 5
  peft data recipe.yaml data.max_length=128 --rows 0
  peft data recipe.yaml --json

What is learned is underlined, or in ⟦brackets⟧ where there is no terminal; special tokens are shown as they are.
The base model's tokenizer is read, its weights are not.
"""


def run(
    recipe: options.RecipePath,
    overrides: options.Overrides = None,
    split: Annotated[
        Literal["train", "validation", "test"], typer.Option("--split", help="Whose rows are shown.")
    ] = "train",
    rows: Annotated[int, typer.Option("--rows", min=0, metavar="N", help="How many rows are shown.")] = 3,
    json: options.Json = False,
) -> None:
    """Show the rows as the network will read them."""
    from peftcli.pipeline.showing import show_data

    found = show_data(recipe, overrides or [], split, rows)
    if json:
        console.data_json(found)
    else:
        for row in found["rows"]:
            _show(row)
        console.table(data_table(found["data"]))
        console.data(f"\n{found['told']}")
    console.next_command("peft", "train", recipe, *(overrides or []))


def _show(row: dict[str, Any]) -> None:
    label = "" if row["label"] is None else f", label {row['label']}"
    console.data(console.marked([(f"{row['where']}: {count(row['tokens'])} tokens{label}", False)]))
    if row["stretches"]:
        console.data(console.marked((one["text"], one["supervised"]) for one in row["stretches"]))
    console.data("")
