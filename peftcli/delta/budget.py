"""Solves a method's size setting for a budget of trained parameters."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pydantic import ValidationError

from peftcli.errors import MethodError, RecipeError

if TYPE_CHECKING:
    from peftcli.base.anatomy import Anatomy
    from peftcli.delta.method import Method

LARGEST = 1 << 20
UNITS = {"": 1, "k": 1_000, "m": 1_000_000, "b": 1_000_000_000}


@dataclass(frozen=True, kw_only=True)
class Solved:
    """A method at the largest size that a budget allows."""

    method: Method
    setting: str
    value: int
    wanted: int
    achieved: int


def parse(budget: str, anatomy: Anatomy) -> int:
    """Return how many parameters ``budget`` allows: a share of the base (0.1%), or a number (300k, 1.5M).

    Raises:
        RecipeError: It is neither.
    """
    if match := re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*%\s*", budget):
        return int(anatomy.size * float(match[1]) / 100)
    if match := re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([kKmMbB]?)\s*", budget):
        return int(float(match[1]) * UNITS[match[2].lower()])
    raise RecipeError(
        f"'{budget}' is no budget", hint="Write a share of the base such as 0.1%, or a number such as 300k."
    )


def solve(method: Method, anatomy: Anatomy, wanted: int) -> Solved:
    """Return ``method`` at the largest size setting whose count is at most ``wanted``.

    Raises:
        MethodError: The method has no size setting, or its smallest size is too large.
    """
    setting = method.card.size_setting
    if setting is None:
        raise MethodError(f"{method.name} has no size setting to solve for: it always trains {method.count(anatomy):,}")
    low, high = 0, 1  # in steps of the setting
    while high <= LARGEST and (size := _size(method, anatomy, high)) is not None and size <= wanted:
        low, high = high, high * 2
    while high - low > 1:
        middle = (low + high) // 2
        size = _size(method, anatomy, middle)
        low, high = (middle, high) if size is not None and size <= wanted else (low, middle)
    if low == 0:
        smallest = _at(method, 1).count(anatomy)  # which may itself say why it means nothing here
        least = method.size_step
        what = f"a budget of {wanted:,} is too small for {method.name}: {setting}={least} trains {smallest:,}"
        raise MethodError(what)
    solved, value = _at(method, low), low * method.size_step
    return Solved(method=solved, setting=setting, value=value, wanted=wanted, achieved=solved.count(anatomy))


def _at(method: Method, steps: int) -> Method:
    assert method.card.size_setting is not None
    return type(method).model_validate({**dict(method), method.card.size_setting: steps * method.size_step})


def _size(method: Method, anatomy: Anatomy, steps: int) -> int | None:
    """Return the count at a size, or None where the base model does not allow that size."""
    try:
        return _at(method, steps).count(anatomy)
    except (MethodError, ValidationError):
        return None
