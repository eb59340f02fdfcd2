"""All that is known of a method, derived from its class: what ``peft methods`` shows."""

from __future__ import annotations

import json
import re
import sys
from inspect import cleandoc
from typing import Any

from peftcli.delta.method import Method
from peftcli.recipe import budget
from peftcli.recipe.allowed import allowed
from peftcli.recipe.template import example

_NAME = r"[A-Z][\w'-]+"
_CITATION = rf'({_NAME}(?:(?:, | and ){_NAME})*(?: et al\.)?), "([^"]+)", (\d{{4}}), arXiv:'


def described(method: type[Method]) -> dict[str, Any]:
    """Return the card, the documentation and the settings of a method as plain data, and a recipe to start from."""
    card = method.card
    formula, *notes = _paragraphs(sys.modules[method.__module__].__doc__)
    return {
        "name": method.name,
        "title": card.title,
        "family": card.family,
        "paper": card.paper,
        "citation": _citation(" ".join(notes), card.paper) if card.paper else None,
        "formula": formula,
        "notes": notes,
        "documentation": " ".join(_paragraphs(method.__doc__)),
        "mergeable": card.mergeable,
        "starts_at_base": card.starts_at_base,
        "size_setting": card.size_setting,
        "learning_rate": card.learning_rate,
        "head_learning_rate": card.head_learning_rate,
        "source": card.source,
        "builds_on": card.builds_on,
        "traps": list(card.traps),
        "settings": _settings(method),
        "example": _example(method),
    }


def _paragraphs(documentation: str | None) -> list[str]:
    """Return the paragraphs, each in one line."""
    return [" ".join(part.split()) for part in cleandoc(documentation or "").split("\n\n")]  # one, empty, of nothing


def _citation(documentation: str, paper: str) -> dict[str, Any] | None:
    """Return what the documentation says of a paper: its first author or all, its title and its year."""
    found = re.search(_CITATION + re.escape(paper), documentation)
    return {"authors": found[1], "title": found[2], "year": int(found[3]), "arxiv": paper} if found else None


def _settings(method: type[Method]) -> list[dict[str, Any]]:
    schema = method.model_json_schema()
    found = [
        {
            "name": name,
            "required": name in schema.get("required", ()),
            "default": one.get("default"),
            "allowed": allowed(one, schema.get("$defs", {})),
            "description": one.get("description", ""),
        }
        for name, one in schema.get("properties", {}).items()
    ]
    if method.size_setting:
        key = {"name": budget.KEY, "required": False, "default": None, "allowed": budget.ALLOWED}
        found.append({**key, "description": budget.describe(method.size_setting)})
    return found


def _example(method: type[Method]) -> str:
    """Return a recipe with the size setting and what has no default that could serve."""
    lines = {}
    for name, field in method.model_fields.items():
        if name == method.size_setting:
            lines[name] = f"{json.dumps(field.default)}  # or in its place {budget.KEY}: 0.1%"
        elif field.examples:
            lines[name] = json.dumps(field.examples[0])
    rate = method.card.learning_rate if method.trains else None
    return example(method.card.title, method.example_base, method.name, lines, rate)
