"""``peft schema``."""

from __future__ import annotations

from peftcli.cli import console

NAME = "schema"
EXAMPLES = """\b
Examples:
  peft schema > recipe.schema.json

\b
An editor that knows YAML completes and checks recipes that begin with
  # yaml-language-server: $schema=recipe.schema.json
"""


def run() -> None:
    """Write the JSON Schema of recipes, for editors."""
    from peftcli.delta.registry import all_methods
    from peftcli.recipe.schema import schema

    console.data_json(schema(all_methods()))
    console.next_command("peft", "init", "recipe.yaml")
