"""The section ``method``: one mapping, or a list of them (a stack), read with settings that a higher floor knows."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Any, ClassVar, Protocol, TypeVar, cast

from pydantic import ValidationError
from pydantic_core import InitErrorDetails, PydanticCustomError

from peftcli.recipe.document import Loc
from peftcli.recipe.problems import moved, suggestion
from peftcli.recipe.scalars import shown
from peftcli.recipe.settings import Settings

Part = TypeVar("Part", bound=Settings)


class Named(Protocol):
    """What a method has beside its settings."""

    name: ClassVar[str]


def read_stack(value: Any, names: Sequence[str], find: Callable[[str], type[Part]]) -> tuple[Part, ...]:  # noqa: ANN401
    """Return the methods that ``value`` describes.

    Args:
        value: One mapping of ``name`` and settings, or a list of them; settings that are read already stay as they are.
        names: Every name there is.
        find: Returns the settings of a name.

    Raises:
        ValidationError: Locations are those inside the section: ``('rank',)``, or ``(0, 'rank')`` in a list.
    """
    prefixes: list[Loc] = [()]
    if isinstance(value, list | tuple):
        prefixes = [(index,) for index in range(len(value))]
    else:
        value = [value]
    if not value:
        raise _error((), value, "method is an empty list", "Name at least one method.")
    stack: list[Part] = []
    lines: list[InitErrorDetails] = []
    for part, prefix in zip(value, prefixes, strict=True):
        try:
            stack.append(_read(part, names, find))
        except ValidationError as error:
            lines += moved(error, prefix, Settings)
    if lines:
        raise ValidationError.from_exception_data("method", lines)
    return tuple(stack)


def write_stack(stack: Sequence[Settings]) -> Any:  # noqa: ANN401
    """Return what ``read_stack`` reads as ``stack``, every setting filled in."""
    parts = [{"name": cast(Named, part).name, **part.model_dump(mode="json")} for part in stack]
    return parts[0] if len(parts) == 1 else parts


def _read(part: Any, names: Sequence[str], find: Callable[[str], type[Part]]) -> Part:  # noqa: ANN401
    if isinstance(part, Settings):
        return cast(Part, part)
    if not isinstance(part, dict):
        hint = (
            f"Write `name: {part}` below it."
            if isinstance(part, str) and part in names
            else "Write `name: ...` and its settings below it."
        )
        raise _error((), part, f"a method is a mapping, not {shown(part)}", hint)
    name = part.get("name")
    if not isinstance(name, str) or name not in names:
        what = f"no method is called {shown(name)}" if "name" in part else "the method has no name"
        hint = suggestion(str(name or ""), names, "The methods are")
        raise _error(("name",) if "name" in part else (), name, what, hint)
    model = find(name)
    try:
        # JSON is pydantic's only strict mode in which a list is both a list and a tuple.
        return model.model_validate_json(json.dumps({k: v for k, v in part.items() if k != "name"}))
    except ValidationError as error:
        raise ValidationError.from_exception_data("method", moved(error, (), model)) from None


def _error(loc: tuple[str, ...], value: Any, what: str, hint: str) -> ValidationError:  # noqa: ANN401
    error = PydanticCustomError("method", "{what}", {"what": what, "hint": hint})
    return ValidationError.from_exception_data("method", [InitErrorDetails(type=error, loc=loc, input=value)])
