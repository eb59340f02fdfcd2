"""The key ``budget`` of a method: how many parameters it may train, in place of its size setting."""

from __future__ import annotations

import re
from collections.abc import Iterable
from decimal import Decimal

from pydantic import SerializeAsAny

from peftcli.recipe.settings import Settings

KEY = "budget"
FORM = r"^(?=.*[1-9])\s*[0-9]+(\.[0-9]+)?\s*[%kKmMbB]?\s*$"
UNITS = {"": 1, "k": 1_000, "m": 1_000_000, "b": 1_000_000_000}
ALLOWED = "share such as 0.1%, or number such as 300k"
HINT = "Write a share of the base such as 0.1%, or a number such as 300k."


class Budgeted(Settings):
    """A method whose size waits for the base model: the largest one that trains at most ``budget``."""

    method: SerializeAsAny[Settings]
    """The method with its other settings; its own size means nothing."""
    budget: str | int
    """A share of the base such as 0.1%, or a number such as 300k."""


def kinds(methods: Iterable[Settings]) -> tuple[Settings, ...]:
    """Return the methods, those with a budget at no particular size: for what does not depend on it."""
    return tuple(m.method if isinstance(m, Budgeted) else m for m in methods)


def describe(setting: str) -> str:
    """Return what the key means beside the size setting that it solves."""
    return f"In place of {setting}: the largest that trains at most this share of the base (0.1%) or number (300k)."


def is_budget(value: object) -> bool:
    """Return whether ``value`` is a share or a number of at least one."""
    if isinstance(value, str):
        return re.fullmatch(FORM, value) is not None
    return isinstance(value, int) and not isinstance(value, bool) and value > 0


def allowed(budget: str | int, base: int) -> int:
    """Return how many parameters ``budget`` allows beside a base model of ``base`` parameters, rounded down."""
    if isinstance(budget, int):
        return budget
    number, unit = re.fullmatch(r"\s*([0-9.]+)\s*(.?)\s*", budget).groups()  # type: ignore[union-attr]  # as checked
    if unit == "%":
        return int(Decimal(number) * base / 100)
    return int(Decimal(number) * UNITS[unit.lower()])
