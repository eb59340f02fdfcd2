"""The section ``method``: one mapping, or a list of them (a stack), read with settings that a higher floor knows."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Sequence
from typing import Any, ClassVar, Protocol, TypeVar, cast

from pydantic import ValidationError
from pydantic_core import InitErrorDetails, PydanticCustomError

from peftcli.recipe import budget
from peftcli.recipe.budget import Budgeted
from peftcli.recipe.document import Loc
from peftcli.recipe.problems import moved, suggestion
from peftcli.recipe.scalars import shown
from peftcli.recipe.settings import Settings

Part = TypeVar("Part", bound=Settings)
MOST_TRIED = 256  # sizes, for settings that allow few of them


class Named(Protocol):
    """What a method has beside its settings.

    Attributes:
        size_setting: The setting that a budget stands in place of; None where the size is fixed.
    """

    name: ClassVar[str]
    size_setting: ClassVar[str | None]


def read_stack(
    value: Any,  # noqa: ANN401
    names: Sequence[str],
    find: Callable[[str], type[Part]],
) -> tuple[Part | Budgeted, ...]:
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
    stack: list[Part | Budgeted] = []
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
    parts = [_written(part) for part in stack]
    return parts[0] if len(parts) == 1 else parts


def _written(part: Settings) -> dict[str, Any]:
    if not isinstance(part, Budgeted):
        return {"name": cast(Named, part).name, **part.model_dump(mode="json")}
    method = _written(part.method)
    del method[str(cast(Named, part.method).size_setting)]
    return {**method, budget.KEY: part.budget}


def _read(part: Any, names: Sequence[str], find: Callable[[str], type[Part]]) -> Part | Budgeted:  # noqa: ANN401
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
    size = cast(Named, model).size_setting
    settings = {k: v for k, v in part.items() if k != "name" and not (v is None and k in (budget.KEY, size))}
    wanted = settings.pop(budget.KEY, None)
    mistake = None if wanted is None else _budget_mistake(cast(Named, model), settings, wanted)
    lines = [mistake] if mistake else []
    try:
        method = _validated(model, settings) if wanted is None or size is None else _at_any_size(model, size, settings)
    except ValidationError as error:
        lines += moved(error, (), model, also=(budget.KEY,) if size else ())
    if lines:
        raise ValidationError.from_exception_data("method", lines)
    return method if wanted is None else Budgeted(method=method, budget=wanted)


def _validated(model: type[Part], settings: dict[str, Any]) -> Part:
    # JSON is pydantic's only strict mode in which a list is both a list and a tuple.
    return model.model_validate_json(json.dumps(settings))


def _at_any_size(model: type[Part], setting: str, settings: dict[str, Any]) -> Part:
    """Return the method at its own size, or else at the first that its other settings allow."""
    try:
        return _validated(model, settings)
    except ValidationError as error:
        if any(e["loc"] not in ((), (setting,)) for e in error.errors(include_url=False)):
            raise  # whatever the size
        for size in range(1, MOST_TRIED + 1):
            with contextlib.suppress(ValidationError):
                return _validated(model, {**settings, setting: size})
        raise


def _budget_mistake(model: Named, settings: dict[str, Any], wanted: Any) -> InitErrorDetails | None:  # noqa: ANN401
    setting = model.size_setting
    if setting is None:
        what, hint = f"{model.name} has no size setting that a budget could solve", "Leave the budget out."
    elif setting in settings:
        what = f"a budget solves {setting}, and {setting} is given too"
        hint = f"Keep one of them; on the command line, method.{setting}=null leaves it out."
    elif not budget.is_budget(wanted):
        what, hint = f"{shown(wanted)} is no budget", budget.HINT
    else:
        return None
    return _mistake((budget.KEY,), wanted, what, hint)


def _error(loc: tuple[str, ...], value: Any, what: str, hint: str) -> ValidationError:  # noqa: ANN401
    return ValidationError.from_exception_data("method", [_mistake(loc, value, what, hint)])


def _mistake(loc: tuple[str, ...], value: Any, what: str, hint: str) -> InitErrorDetails:  # noqa: ANN401
    error = PydanticCustomError("method", "{what}", {"what": what, "hint": hint})
    return InitErrorDetails(type=error, loc=loc, input=value)
