"""``peft methods``."""

from __future__ import annotations

from inspect import cleandoc
from typing import TYPE_CHECKING, Annotated, Any

import typer

from peftcli.cli import console, options
from peftcli.report.tables import Table, plain

if TYPE_CHECKING:
    from peftcli.delta.method import Method

NAME = "methods"
EXAMPLES = """\b
Examples:
  peft methods
  peft methods lora
  peft methods lora --json
"""


def run(
    name: Annotated[str | None, typer.Argument(metavar="NAME", help="Show this method's formula and settings.")] = None,
    json: options.Json = False,
) -> None:
    """List the methods, or explain one."""
    from peftcli.delta.registry import all_methods, find

    if name:
        described = _describe(find(name), name)
        console.data_json(described) if json else _explain(described)
        console.next_command("peft", "params", "recipe.yaml", "--method", name)
        return
    listed = [_describe(method, key) for key, method in all_methods().items()]
    console.data_json(listed) if json else _list(listed)
    console.next_command("peft", "methods", listed[0]["name"])


def _describe(method: type[Method], name: str) -> dict[str, Any]:
    """Return all that is known of a method; everything here is derived from its class."""
    from pydantic_core import PydanticUndefined

    card = method.card
    return {
        "name": name,
        "title": card.title,
        "family": card.family,
        "paper": card.paper,
        "documentation": cleandoc(method.__doc__ or ""),
        "mergeable": card.mergeable,
        "starts_at_base": card.starts_at_base,
        "size_setting": card.size_setting,
        "learning_rate": card.learning_rate,
        "source": card.source,
        "traps": list(card.traps),
        "settings": [
            {
                "name": key,
                "default": None
                if field.default is PydanticUndefined
                else _jsonable(field.get_default(call_default_factory=True)),
                "description": field.description or "",
            }
            for key, field in method.model_fields.items()
        ],
    }


def _jsonable(value: object) -> object:
    return list(value) if isinstance(value, tuple) else value


def _list(listed: list[dict[str, Any]]) -> None:
    columns = ("method", "what it is", "family", "merges", "starts at base", "learning rate", "paper")
    keys = ("name", "title", "family", "mergeable", "starts_at_base", "learning_rate")
    rows = tuple((*(plain(m[key]) for key in keys), _paper(m)) for m in listed)
    console.table(Table(columns, "lllllrl", rows))


def _explain(m: dict[str, Any]) -> None:
    console.data(m["documentation"])
    console.data("")
    pairs = [
        ("family", m["family"]),
        ("paper", _paper(m)),
        ("merges", plain(m["mergeable"])),
        ("starts at base", plain(m["starts_at_base"])),
        ("size setting", plain(m["size_setting"])),
        ("learning rate", f"{plain(m['learning_rate'])} ({m['source']})"),
        *(("trap", trap) for trap in m["traps"]),
    ]
    console.table(Table((m["name"], m["title"]), "ll", tuple(pairs)))
    if m["settings"]:
        console.data("")
        rows = tuple((s["name"], _shown(s["default"]), s["description"]) for s in m["settings"])
        console.table(Table(("setting", "default", "meaning"), "lll", rows))


def _paper(m: dict[str, Any]) -> str:
    return f"arXiv:{m['paper']}" if m["paper"] else plain(None)


def _shown(default: object) -> str:
    """Return a default as a recipe says it."""
    if isinstance(default, list):
        return f"[{', '.join(map(str, default))}]"
    return "null" if default is None else str(default)
