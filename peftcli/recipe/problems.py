"""Pydantic's validation errors as problems: a place in the recipe, one sentence, and what to do."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby
from types import NoneType
from typing import Any, NamedTuple, get_args

from pydantic import ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails, InitErrorDetails, PydanticCustomError
from pydantic_core.core_schema import ErrorType

from peftcli.errors import Problem
from peftcli.recipe import scalars
from peftcli.recipe.document import START, Document, Loc, Place
from peftcli.recipe.recipe import NAME_FORM, SHARE_FORM, Recipe
from peftcli.recipe.settings import Settings

UNKNOWN_KEY = "unknown_key"  # extra_forbidden that knows, as context, which keys there are

_TYPES = {
    "string_type": "text",
    "int_type": "a whole number",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "bool_type": "true or false",
    "list_type": "a list",
    "tuple_type": "a list",
    "dict_type": "a mapping",
    "model_type": "a mapping of keys",
    "none_required": "null",
    "finite_number": "a finite number",
}
_BOUNDS = {
    "greater_than_equal": "at least {ge}",
    "greater_than": "greater than {gt}",
    "less_than_equal": "at most {le}",
    "less_than": "less than {lt}",
    "multiple_of": "a multiple of {multiple_of}",
}
_FORMS = {
    SHARE_FORM: "a share such as 6%",
    NAME_FORM: "at most 100 letters, digits, '.', '_' and '-', the first a letter or a digit",
}
_UNIONS = re.compile(r" or |, ")


class Complaint(NamedTuple):
    """A problem whose place in the recipe is still comparable with others; tuples sort in reading order."""

    place: Place
    loc: Loc
    what: str
    hint: str | None = None

    def problem(self, document: Document) -> Problem:
        """Return it as it is shown."""
        return Problem(what=self.what, where=document.where(self.place), hint=self.hint)


def complaints(error: ValidationError, document: Document) -> Iterator[Complaint]:
    """Yield one complaint per place and mistake; the members of a union speak with one voice."""

    def union(item: ErrorDetails) -> Loc:
        return _union(item, document)

    errors = error.errors(include_url=False)
    for loc, group in groupby(sorted(errors, key=lambda e: _sortable(union(e))), key=union):
        yield from _deepest(loc, list(group), document)


def dotted(loc: Loc) -> str:
    """Return ``method.0.rank``."""
    return ".".join(map(str, loc))


def suggestion(name: str, known: Sequence[str], title: str) -> str:
    """Return a hint that names the nearest of ``known``, or all of them."""
    close = difflib.get_close_matches(name, known, 1) or [k for k in known if k.lower() == name.lower()]
    return f"Did you mean '{close[0]}'?" if close else f"{title}: {', '.join(known) or 'none'}."


def moved(
    error: ValidationError, prefix: Loc, model: type[Settings], also: Sequence[str] = ()
) -> list[InitErrorDetails]:
    """Return the errors of ``model`` as part of a larger whole; unknown keys learn which there are.

    Args:
        also: Keys that stand beside the settings of ``model``.
    """
    lines = []
    for item in error.errors(include_url=False):
        kind: str | PydanticCustomError = item["type"]
        if kind == "extra_forbidden":
            known = [*_keys(model, item["loc"][:-1]), *(also if len(item["loc"]) == 1 else ())]
            kind = PydanticCustomError(UNKNOWN_KEY, "unknown key", {"known": known})
        elif kind not in _PYDANTICS_OWN:
            # The message is filled in already, so its braces must not be filled in again.
            kind = PydanticCustomError(kind, "{message}", {**item.get("ctx", {}), "message": item["msg"]})  # type: ignore[arg-type]
        lines.append(
            InitErrorDetails(type=kind, loc=prefix + item["loc"], input=item["input"], ctx=item.get("ctx", {}))
        )
    return lines


_PYDANTICS_OWN = frozenset(get_args(ErrorType))


def _sortable(loc: Loc) -> tuple[str, ...]:
    return tuple(map(str, loc))


def _union(item: ErrorDetails, document: Document) -> Loc:
    """Return what the errors of one union share: the location of the value that has to be one of several things."""
    if item["type"] in ("missing", "extra_forbidden", UNKNOWN_KEY):
        return item["loc"]
    for n in range(len(item["loc"]) + 1):
        real, tagged = document.split(item["loc"][:n])
        if tagged:
            return real
    return real


def _deepest(loc: Loc, errors: list[ErrorDetails], document: Document) -> Iterator[Complaint]:
    """Yield the complaints that got furthest into the value: `[a, 5]` is a list whose item 1 is wrong."""
    reals = {document.split(e["loc"])[0] for e in errors}
    depth = max(map(len, reals))
    for real in sorted((r for r in reals if len(r) == depth), key=_sortable):
        same = [e for e in errors if document.split(e["loc"])[0] == real]
        first = same[0]
        if first["type"] == "missing" and document.split(first["loc"])[1]:
            yield _missing(first["loc"], document)
        elif first["type"] in ("extra_forbidden", UNKNOWN_KEY):
            yield _unknown(first, document)
        elif custom := [e for e in same if not _expected(e)]:
            yield _custom(custom[0], real or loc, document)
        else:
            yield _wrong(real, same, document)


def _missing(loc: Loc, document: Document) -> Complaint:
    field = _field(loc)
    place = document.key_place(loc[:-1]) if len(loc) > 1 else START
    hint = f"Add it: {field.description}" if field and field.description else f"Add `{loc[-1]}:`."
    return Complaint(place, loc, f"{dotted(loc)} is missing", hint)


def _unknown(item: ErrorDetails, document: Document) -> Complaint:
    *parents, key = loc = item["loc"]
    owner, known = tuple(parents), tuple(item.get("ctx", {}).get("known", ())) or _keys(Recipe, loc[:-1])
    noun = "setting" if owner[:1] == ("method",) else "key"
    homes = [s for s in Recipe.model_fields if key in _keys(Recipe, (s,)) and not owner]
    hint = f"It belongs under `{homes[0]}:`." if homes else suggestion(str(key), known, f"Its {noun}s are")
    what = f"{dotted(owner) or 'the recipe'} has no {noun} {scalars.shown(str(key))}"
    return Complaint(document.key_place(loc), loc, what, hint)


def _custom(item: ErrorDetails, loc: Loc, document: Document) -> Complaint:
    hint = item.get("ctx", {}).get("hint")
    what = item["msg"].removeprefix("Value error, ").removeprefix("Assertion failed, ")
    if what.startswith("Input should "):
        what = f"{dotted(loc)} is {scalars.shown(item['input'])}, but must {what.removeprefix('Input should ')}"
    return Complaint(_place(loc, document), loc, what, str(hint) if hint else None)


def _wrong(loc: Loc, errors: list[ErrorDetails], document: Document) -> Complaint:
    """Say what the value is and what it must be; a broken bound of one member says more than another's type."""
    bounds = [e for e in errors if e["type"] not in _TYPES and e["type"] != "literal_error"]
    chosen = bounds or sorted(errors, key=lambda e: e["type"] in _TYPES)
    wanted = " or ".join(dict.fromkeys(_expected(e) for e in chosen))
    value = chosen[-1]["input"]
    what = f"{dotted(loc)} is {scalars.shown(value)}, but must be {wanted}"
    return Complaint(_place(loc, document), loc, what, _hint(loc, value, errors))


def _expected(item: ErrorDetails) -> str:
    """Return what pydantic wanted, as the end of "must be ..."; empty where the message speaks for itself."""
    kind, context = item["type"], item.get("ctx", {})
    if kind in _TYPES:
        return _TYPES[kind]
    if kind in _BOUNDS:
        return _BOUNDS[kind].format_map({k: scalars.shown(_tidy(v)) for k, v in context.items()})
    if kind == "literal_error":
        return str(context["expected"])
    if kind == "string_pattern_mismatch":
        return _FORMS.get(context["pattern"], f"text of the form {context['pattern']}")
    if kind in ("string_too_short", "too_short"):
        return f"not shorter than {context['min_length']}" if context["min_length"] > 1 else "more than nothing"
    return ""


def _tidy(number: Any) -> Any:  # noqa: ANN401  # a bound: 0.0 reads as 0
    return int(number) if isinstance(number, float) and number.is_integer() else number


def _hint(loc: Loc, value: Any, errors: list[ErrorDetails]) -> str | None:  # noqa: ANN401
    kinds = {e["type"] for e in errors}
    if isinstance(value, str):
        return _hint_for_text(loc, value, kinds, errors)
    if value is None and "model_type" in kinds:
        return "Indent its keys below it, or remove the line."
    if "string_type" in kinds and isinstance(value, bool | int | float):
        return f'Put it in quotes: "{scalars.shown(value)}".'
    return None


def _hint_for_text(loc: Loc, value: str, kinds: set[str], errors: list[ErrorDetails]) -> str | None:
    bare = value.replace("_", "").replace(",", "").strip()
    field = _field(loc)
    if value.lower() in ("none", "nan", "nil", "null", "") and (
        field is None or NoneType in get_args(field.annotation)
    ):
        return "Did you mean null?"
    if kinds & {"int_type", "float_type"} and scalars.is_number(bare):
        return f"Remove the quotes: write {value}." if bare == value else f"Write {bare}."
    if "bool_type" in kinds:
        return "Write true or false."
    for item in errors:
        if item["type"] == "literal_error":
            choices = re.findall(r"'([^']*)'", item["ctx"]["expected"])
            close = difflib.get_close_matches(value.lower(), choices, 1)
            return f"Did you mean '{close[0]}'?" if close else None
    if kinds & {"list_type", "tuple_type"} and kinds <= _TYPES.keys():
        return f"Write [{value}]."
    return None


def _place(loc: Loc, document: Document) -> Place:
    return document.place(loc) if document.get(loc) is not None else document.key_place(loc)


def _model(model: type[Settings], loc: Loc) -> type[Settings] | None:
    """Return the settings that stand at ``loc`` in ``model``; list indices and union members are passed over."""
    for part in loc:
        if part not in model.model_fields:
            continue
        annotation = model.model_fields[str(part)].annotation
        found = [a for a in (annotation, *get_args(annotation)) if isinstance(a, type) and issubclass(a, Settings)]
        if not found:
            return None
        model = found[0]
    return model


def _keys(model: type[Settings], loc: Loc) -> tuple[str, ...]:
    found = _model(model, loc)
    return tuple(found.model_fields) if found else ()


def _field(loc: Loc) -> FieldInfo | None:
    """Return the recipe's field at ``loc``; None in the method section, whose fields the registry knows."""
    model = _model(Recipe, loc[:-1]) if loc and loc[0] != "method" else None
    return model.model_fields.get(str(loc[-1])) if model else None


def is_optional(loc: Loc) -> bool:
    """Return whether the recipe's field at ``loc`` may be null."""
    field = _field(loc)
    return field is not None and NoneType in get_args(field.annotation)


def in_order(found: Iterable[Complaint], document: Document) -> list[Problem]:
    """Return the problems in the order of the file's lines, those of the command line last, each once."""
    ordered = sorted(found, key=lambda c: (c.place, _sortable(c.loc), c.what))
    return list(dict.fromkeys(c.problem(document) for c in ordered))
