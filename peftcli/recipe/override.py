"""Overrides: ``section.key=value`` on the command line, read by the rules of the file."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from typing import Any

from peftcli.errors import Problem, RecipeError
from peftcli.recipe import scalars
from peftcli.recipe.document import COMMAND_LINE, DEEPEST, Document, Loc
from peftcli.recipe.recipe import Recipe

WHERE = "command line"


def apply(document: Document, overrides: Sequence[str]) -> None:
    """Change ``document`` as the command line says, from left to right.

    A value is a plain scalar as it stands, so that shells need one layer of quotes only; what starts with a bracket
    or a quote is YAML in flow style.

    Raises:
        RecipeError: Some of the overrides cannot be read or have no place; all of them are named.
    """
    problems: list[Problem] = []
    for override in overrides:
        try:
            _apply(document, override)
        except RecipeError as error:
            problems += error.problems
    if problems:
        raise RecipeError(problems)


def _apply(document: Document, override: str) -> None:
    scalars.check_text(override, WHERE)
    key, equals, text = override.partition("=")
    loc = tuple(key.strip().split("."))
    if not equals:
        raise RecipeError(f"{scalars.shown(override)} has no '='", where=WHERE, hint="Write section.key=value.")
    if not all(loc) or len(loc) > DEEPEST:
        raise RecipeError(f"{scalars.shown(key)} is not a key", where=WHERE, hint="Write section.key=value.")
    text = text.strip()
    if not text:
        hint = f"Write {key}=null for the default, or {key}='\"\"' for an empty text."
        raise RecipeError(f"{key} has no value", where=WHERE, hint=hint)
    _refuse_unknown_section(loc)
    flow = text[0] in "[{\"'"
    value = _flow(key, text) if flow else scalars.resolve(text, WHERE)
    target = _parent(document, loc)
    document.put(target, value, COMMAND_LINE)
    document.plain.discard(target) if flow else document.plain.add(target)


def _refuse_unknown_section(loc: Loc) -> None:
    """Say at once that there is no such section, before anything is put into it."""
    name, known = str(loc[0]), list(Recipe.model_fields)
    if name not in known:
        homes = [s for s, f in Recipe.model_fields.items() if name in getattr(f.annotation, "model_fields", {})]
        close = difflib.get_close_matches(name, known, 1)
        guess = f"Did you mean '{close[0]}'?" if close else f"Its keys are: {', '.join(known)}."
        hint = f"Write {homes[0]}.{name}=..." if homes and len(loc) == 1 else guess
        raise RecipeError(f"the recipe has no key {scalars.shown(name)}", where=WHERE, hint=hint)


def _flow(key: str, text: str) -> Any:  # noqa: ANN401  # any YAML value
    try:
        document = Document.parse(f"value: {text}".encode(), WHERE)
    except RecipeError as error:
        first = error.problems[0]
        raise RecipeError(f"{key}={text}: {first.what}", where=WHERE, hint=first.hint) from None
    if len(document.data) > 1:
        raise RecipeError(f"{key} has more than one value", where=WHERE)
    return document.data["value"]


def _parent(document: Document, loc: Sequence[str]) -> Loc:
    """Return ``loc`` with list positions as numbers; sections that the file lacks are added."""
    found: Loc = ()
    for n, part in enumerate(loc):
        holder = document.get(found)
        if holder is None:
            holder = {}
            document.put(found, holder, COMMAND_LINE)
        if isinstance(holder, list):
            found = (*found, _index(holder, loc[:n], part))
        elif isinstance(holder, dict):
            found = (*found, part)
        else:
            name = ".".join(loc[:n])
            raise RecipeError(f"{name} is {scalars.shown(holder)} and has no key {scalars.shown(part)}", where=WHERE)
    return found


def _index(items: list[Any], loc: Sequence[str], part: str) -> int:
    name = ".".join(loc)
    if not (part.isascii() and part.isdigit() and len(part) < 6):
        raise RecipeError(
            f"{name} is a list and has no key {scalars.shown(part)}",
            where=WHERE,
            hint=f"Write {name}.0.{part} for the first of its {len(items)} items.",
        )
    if int(part) >= len(items):
        raise RecipeError(f"{name} has {len(items)} items, so there is no {name}.{part}", where=WHERE)
    return int(part)
