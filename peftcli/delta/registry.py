"""Finds methods by name. The folder ``peftcli/methods`` is the registry; other packages add theirs by entry point."""

from __future__ import annotations

import difflib
import importlib
import inspect
import pkgutil
from functools import cache
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

from peftcli.delta.method import Method
from peftcli.errors import RecipeError
from peftcli.recipe.budget import Budgeted
from peftcli.recipe.stack import read_stack

FOLDER = Path(__file__).parents[1] / "methods"
GROUP = "peftcli.methods"


@cache
def names() -> tuple[str, ...]:
    """Return every method's name, without importing one."""
    own = {m.name for m in pkgutil.iter_modules([str(FOLDER)]) if not m.name.startswith("_")}
    return tuple(sorted(own | {e.name for e in entry_points(group=GROUP)}))


@cache
def find(name: str) -> type[Method]:
    """Return the method called ``name``.

    Raises:
        RecipeError: There is none.
    """
    if name not in names():
        raise RecipeError(f"no method is called '{name}'", hint=_suggestion(name))
    if (FOLDER / f"{name}.py").exists():
        module = importlib.import_module(f"peftcli.methods.{name}")
    else:
        module = next(e for e in entry_points(group=GROUP) if e.name == name).load()
    found = [
        c
        for _, c in inspect.getmembers(module, inspect.isclass)
        if issubclass(c, Method) and c.__module__ == module.__name__
    ]
    assert len(found) == 1, f"{module.__name__} must define exactly one method"
    found[0].name = name
    return found[0]


def all_methods() -> dict[str, type[Method]]:
    """Return every method by name."""
    return {name: find(name) for name in names()}


def read_methods(value: Any) -> tuple[Method | Budgeted, ...]:  # noqa: ANN401  # whatever the recipe says under method:
    """Return the methods that a recipe's ``method:`` section describes: one mapping, or a list (a stack).

    One with a budget has no size yet (see delta.budget).

    Raises:
        ValidationError: Something is wrong; the locations are inside the section.
    """
    return read_stack(value, names(), find)


def settings_of(part: Any) -> type[Method] | None:  # noqa: ANN401  # as above
    """Return the method that one mapping of a recipe's ``method:`` section names; None where it names none."""
    name = part.get("name") if isinstance(part, dict) else None
    return find(name) if isinstance(name, str) and name in names() else None


def describe(method: Method) -> dict[str, Any]:
    """Return the recipe's mapping for ``method``, every setting filled in."""
    return {"name": method.name, **method.model_dump(mode="json")}


def _suggestion(name: str) -> str:
    close = difflib.get_close_matches(name, names(), n=1)
    return f"Did you mean '{close[0]}'?" if close else f"Methods: {', '.join(names())}."
