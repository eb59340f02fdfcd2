"""From files to a recipe: the one way in for every command."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from peftcli.data.known import completed
from peftcli.delta.registry import read_methods, settings_of
from peftcli.recipe.read import read_method, read_recipe
from peftcli.recipe.recipe import Recipe
from peftcli.recipe.settings import Settings


def read(path: Path, overrides: Sequence[str] = ()) -> Recipe:
    """Return the recipe at ``path`` with ``section.key=value`` overrides applied.

    Raises:
        RecipeError: With every mistake at once.
    """
    return completed(read_recipe(path, overrides, read_methods, settings_of))


def method_of(name: str, overrides: Sequence[str]) -> tuple[Settings, ...]:
    """Return the method called ``name`` with ``method.key=value`` overrides, without a recipe around it.

    With a budget it has no size yet, as in a recipe (see delta.budget).

    Raises:
        RecipeError: With every mistake.
    """
    return read_method(name, overrides, read_methods)
