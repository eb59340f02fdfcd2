"""``peft methods``."""

from __future__ import annotations

import textwrap
from typing import Annotated, Any

import typer

from peftcli.cli import console, options
from peftcli.report.tables import Table, plain

NAME = "methods"
EXAMPLES = """\b
Examples:
  peft methods
  peft methods lora
  peft methods lora --json
"""

WIDTH = 110


def run(
    name: Annotated[
        str | None, typer.Argument(metavar="NAME", help="Show this method's formula, paper, settings and a recipe.")
    ] = None,
    json: options.Json = False,
) -> None:
    """List the methods, or explain one."""
    from peftcli.delta.describing import described
    from peftcli.delta.registry import all_methods, find

    if name:
        method = described(find(name))
        console.data_json(method) if json else _explain(method)
        console.next_command("peft", "params", "recipe.yaml", "--method", name)
        return
    listed = [described(method) for method in all_methods().values()]
    console.data_json(listed) if json else _list(listed)
    console.next_command("peft", "methods", listed[0]["name"])


def _list(listed: list[dict[str, Any]]) -> None:
    columns = ("method", "what it is", "category", "paper", "size setting", "merges", "starts at base", "learning rate")
    keys = ("size_setting", "mergeable", "starts_at_base", "learning_rate")
    rows = tuple((m["name"], m["title"], m["family"], _number(m), *(plain(m[key]) for key in keys)) for m in listed)
    console.table(Table(columns, "lllllllr", rows))


def _explain(m: dict[str, Any]) -> None:
    for paragraph in (f"{m['name']}: {m['title']}", m["formula"], m["documentation"], *m["notes"]):
        console.data(textwrap.fill(paragraph, WIDTH) + "\n\n")
    pairs = [
        ("category", m["family"]),
        ("paper", _cited(m)),
        ("merges", plain(m["mergeable"])),
        ("starts at the base", plain(m["starts_at_base"])),
        ("size setting", plain(m["size_setting"])),
        ("learning rate", f"{plain(m['learning_rate'])} ({m['source']})"),
    ]
    if m["head_learning_rate"]:
        pairs.append(("learning rate of a new head", plain(m["head_learning_rate"])))
    if m["builds_on"]:
        pairs.append(("is built on trained", m["builds_on"]))
    console.table(Table(("property", "value"), "ll", (*pairs, *(("trap", trap) for trap in m["traps"]))))
    for setting in m["settings"]:
        value = "no default" if setting["required"] else f"= {_shown(setting['default'])}"
        console.data(f"\n{setting['name']} {value}   ({setting['allowed']})")
        console.data(textwrap.indent(textwrap.fill(setting["description"], WIDTH - 4), "    "))
    console.data(f"\nA recipe:\n\n{textwrap.indent(m['example'], '    ')}")


def _number(m: dict[str, Any]) -> str:
    return f"arXiv:{m['paper']}" if m["paper"] else plain(None)


def _cited(m: dict[str, Any]) -> str:
    cited = m["citation"]
    return f'{cited["authors"]}, "{cited["title"]}", {cited["year"]}, {_number(m)}' if cited else _number(m)


def _shown(default: object) -> str:
    """Return a default as a recipe says it."""
    if isinstance(default, list):
        return f"[{', '.join(map(str, default))}]"
    if isinstance(default, bool):
        return str(default).lower()
    return "null" if default is None else str(default)
