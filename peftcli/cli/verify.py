"""``peft verify``."""

from __future__ import annotations

from typing import Annotated

import typer

from peftcli.cli import console, options
from peftcli.report.tables import Table, plain

NAME = "verify"
EXAMPLES = """\b
Examples:
  peft verify runs/NAME
  peft verify runs/NAME/delta --base models/roberta-base
  peft verify runs/NAME --strict           hash every byte of the base model

Exit code 5 means that a file is damaged or that the base model is another one.
"""


def run(
    target: options.Target,
    base: Annotated[
        str | None, typer.Option("--base", metavar="MODEL", help="Where the base model lies. [default: as recorded]")
    ] = None,
    strict: Annotated[bool, typer.Option("--strict", help="Compare the base model whole, not a sample of it.")] = False,
    json: options.Json = False,
) -> None:
    """Check that an artifact is whole and fits its base model."""
    from peftcli.pipeline.checking import verify

    result = verify(target, base, strict)
    if json:
        console.data_json(result)
    else:
        rows = tuple(
            (plain(c["name"]), "yes" if c["ok"] else "not checked", plain(c["detail"])) for c in result["checks"]
        )
        console.table(Table(("what", "right", "found"), "lll", rows))
    console.next_command("peft", "eval", target)
