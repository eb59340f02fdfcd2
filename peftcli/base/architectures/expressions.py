"""The values of a config.json, and the small expressions over them that architectures are written in.

A number is a sum of products of names, whole numbers and quotients: ``width``, ``4*width``, ``query+2*key_value``,
``width/heads``. A condition is ``always``, ``never``, a name (true unless 0), ``!name``, ``a=b``, ``a!=b``, ``a>b``,
joined by ``&`` and, binding weaker, ``|``.
"""

from __future__ import annotations

import operator
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from peftcli.errors import BaseModelError

ALWAYS = "always"
NEVER = "never"
_COMPARISONS = {"!=": operator.ne, "=": operator.eq, ">": operator.gt}


@dataclass(frozen=True, kw_only=True)
class Field:
    """One value of a config.

    Attributes:
        keys: The names it may have in the file; the first that is there counts.
        default: What transformers takes when the file does not say.
        otherwise: The number when the value is null.
        cases: For a derived value: conditions and the number each stands for; the first that holds counts.
        holds: Makes the value 1 if the text or list in the file holds this, else 0.
        index: Which entry is meant where the file has a list.
        minimum: The least number that makes sense.
    """

    keys: tuple[str, ...] = ()
    default: Any = None
    otherwise: str = ""
    cases: tuple[tuple[str, str], ...] = ()
    holds: str = ""
    index: int = 0
    minimum: int = 1


def field(*keys: str, default: Any = None, otherwise: str = "", minimum: int = 1) -> Field:  # noqa: ANN401
    """Return a number of the config."""
    return Field(keys=keys, default=default, otherwise=otherwise, minimum=minimum)


def flag(key: str, default: bool) -> Field:
    """Return a yes or no of the config."""
    return Field(keys=(key,), default=default, minimum=0)


def derived(number: str) -> Field:
    """Return a number that follows from others."""
    return Field(cases=((ALWAYS, number),), minimum=0)


def evaluate(config: Mapping[str, Any], fields: Mapping[str, Field]) -> dict[str, int]:
    """Return the value of every field.

    Raises:
        BaseModelError: The config has no number where one belongs.
    """
    values: dict[str, int] = {}
    for name, one in fields.items():
        values[name] = _value(name, one, config, values)
    return values


def number(expression: str, values: Mapping[str, int]) -> int:
    """Compute a number."""
    if expression in values:
        return values[expression]
    total = 0
    for term in expression.replace("-", "+-").split("+"):
        product = -1 if term.startswith("-") else 1
        for factor in term.lstrip("-").split("*"):
            above, _, below = factor.partition("/")
            product *= _atom(above, values) // (_atom(below, values) if below else 1)
        total += product
    return total


def holds(condition: str, values: Mapping[str, int]) -> bool:
    """Decide a condition."""
    if condition in (ALWAYS, NEVER):
        return condition == ALWAYS
    return any(all(_term(t, values) for t in part.split("&")) for part in condition.split("|"))


def _term(term: str, values: Mapping[str, int]) -> bool:
    for sign, compare in _COMPARISONS.items():
        if sign in term:
            left, right = term.split(sign)
            return bool(compare(_atom(left, values), _atom(right, values)))
    return not values[term[1:]] if term.startswith("!") else bool(values[term])


def _atom(name: str, values: Mapping[str, int]) -> int:
    return int(name) if name.isdigit() else values[name]


def _value(name: str, one: Field, config: Mapping[str, Any], values: Mapping[str, int]) -> int:
    if one.cases:
        return next(number(n, values) for condition, n in one.cases if holds(condition, values))
    key = next((k for k in one.keys if k in config), one.keys[0])
    raw = config.get(key, one.default)
    if one.holds:
        return int(isinstance(raw, str | list) and one.holds in raw)
    if raw is None and one.otherwise:
        return number(one.otherwise, values)
    if isinstance(raw, list | tuple) and len(raw) > one.index:
        raw = raw[one.index]
    if not isinstance(raw, int) or raw < one.minimum:
        what = f"{key} is {raw!r}" if key in config else f"{key} is missing"
        raise BaseModelError(
            f"the config of the base model cannot be used: {what}",
            hint=f"{key} (the model's {name.replace('_', ' ')}) must be a whole number of at least {one.minimum}.",
        )
    return int(raw)
