"""Finds methods by name. The folder ``peftcli/methods`` is the registry; other packages add theirs by entry point."""

from __future__ import annotations

import difflib
import importlib
import inspect
import json
import pkgutil
from functools import cache
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

from pydantic_core import InitErrorDetails, PydanticCustomError, ValidationError

from peftcli.delta.method import Method
from peftcli.errors import RecipeError

FOLDER = Path(__file__).parents[1] / "methods"
GROUP = "peftcli.methods"


@cache
def names() -> tuple[str, ...]:
    """Return every method's name, without importing one."""
    own = {m.name for m in pkgutil.iter_modules([str(FOLDER)])}
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
        c for _, c in inspect.getmembers(module, inspect.isclass) if issubclass(c, Method) and c.__module__ == module.__name__
    ]
    assert len(found) == 1, f"{module.__name__} must define exactly one method"
    found[0].name = name
    return found[0]


def all_methods() -> dict[str, type[Method]]:
    """Return every method by name."""
    return {name: find(name) for name in names()}


def read_methods(value: Any) -> tuple[Method, ...]:  # noqa: ANN401  # whatever the recipe says under method:
    """Return the methods that a recipe's ``method:`` section describes: one mapping, or a list (a stack).

    Raises:
        ValidationError: Something is wrong; the locations are inside the section.
    """
    if not isinstance(value, list | tuple):
        return (_read_method(value, ()),)
    if not value:
        raise _error((), "empty_stack", "a stack needs at least one method", value)
    methods: list[Method] = []
    errors: list[InitErrorDetails] = []
    for index, part in enumerate(value):
        try:
            methods.append(_read_method(part, (index,)))
        except ValidationError as error:
            errors += _details(error)
    if errors:
        raise ValidationError.from_exception_data("method", errors)
    return tuple(methods)


def describe(method: Method) -> dict[str, Any]:
    """Return the recipe's mapping for ``method``, every setting filled in."""
    return {"name": method.name, **method.model_dump(mode="json")}


def _read_method(value: Any, where: tuple[int | str, ...]) -> Method:  # noqa: ANN401
    if isinstance(value, Method):
        return value
    if not isinstance(value, dict):
        raise _error(where, "method_type", "a method is a mapping that starts with name", value)
    if "name" not in value:
        raise _error(where, "missing", "a method needs a name", value, hint=f"Methods: {', '.join(names())}.")
    name = value["name"]
    if name not in names():
        raise _error((*where, "name"), "method_name", f"no method is called '{name}'", name, hint=_suggestion(str(name)))
    settings = {k: v for k, v in value.items() if k != "name"}
    try:
        return find(name).model_validate_json(json.dumps(settings))
    except ValidationError as error:
        raise ValidationError.from_exception_data(name, _details(error, where)) from None


def _details(error: ValidationError, where: tuple[int | str, ...] = ()) -> list[InitErrorDetails]:
    found: list[InitErrorDetails] = []
    for e in error.errors(include_url=False):
        kind: Any = e["type"]
        if kind in ("value_error", "assertion_error") or "hint" in e.get("ctx", {}):
            kind = PydanticCustomError(e["type"], e["msg"].replace("{", "{{").replace("}", "}}"), e.get("ctx"))
        found.append(
            InitErrorDetails(type=kind, loc=(*where, *e["loc"]), input=e["input"], ctx=e.get("ctx", {}))
        )
    return found


def _error(
    where: tuple[int | str, ...],
    kind: str,
    what: str,
    value: Any,  # noqa: ANN401
    hint: str | None = None,
) -> ValidationError:
    error = PydanticCustomError(kind, what.replace("{", "{{").replace("}", "}}"), {"hint": hint} if hint else None)  # type: ignore[arg-type]
    return ValidationError.from_exception_data("method", [InitErrorDetails(type=error, loc=where, input=value)])


def _suggestion(name: str) -> str:
    close = difflib.get_close_matches(name, names(), n=1)
    return f"Did you mean '{close[0]}'?" if close else f"Methods: {', '.join(names())}."
