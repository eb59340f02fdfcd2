"""Solves a method's size setting for a budget of trained parameters."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from peftcli.delta.method import Method
from peftcli.errors import MethodError
from peftcli.recipe.budget import Budgeted, allowed

if TYPE_CHECKING:
    from peftcli.base.anatomy import Anatomy
    from peftcli.recipe.settings import Settings

MOST_DOUBLINGS = 62
MOST_TRIED = 1024  # steps one by one, where no power of two of them is a size that the base model allows


@dataclass(frozen=True, kw_only=True)
class Solved:
    """A method at the largest size that a budget allows.

    Attributes:
        asked: The budget as it was written.
        setting, value: The size setting and what was found for it.
        wanted: How many parameters the budget allows.
        achieved: How many train.
        limit: Why one step more is refused; None where it would cost more than the budget.
    """

    method: Method
    asked: str | int
    setting: str
    value: int | float
    wanted: int
    achieved: int
    limit: str | None

    @property
    def summary(self) -> dict[str, Any]:
        """What a report holds of it."""
        keys = ("asked", "wanted", "setting", "value", "achieved", "limit")
        return {"method": self.method.name, **{key: getattr(self, key) for key in keys}}

    @property
    def sentence(self) -> str:
        """What a person reads of it."""
        allows = f"{self.asked} allows {self.wanted:,}" if isinstance(self.asked, str) else f"{self.wanted:,}"
        tail = f"; more is refused: {self.limit}" if self.limit else ""
        return f"{allows}: {self.method.name} with {self.setting} {self.value:,} trains {self.achieved:,}{tail}"


def solve_all(methods: Sequence[Settings], anatomy: Anatomy) -> tuple[tuple[Method, ...], tuple[Solved, ...]]:
    """Return the methods with every budget solved, and what was solved.

    Raises:
        MethodError: A budget is too small, or a method has no meaning on this base model.
    """
    found: list[Method] = []
    solved: list[Solved] = []
    for part in methods:
        if isinstance(part, Budgeted):
            assert isinstance(part.method, Method)
            solved.append(solve(part.method, anatomy, part.budget))
            found.append(solved[-1].method)
        else:
            assert isinstance(part, Method)
            found.append(part)
    return tuple(found), tuple(solved)


def solve(method: Method, anatomy: Anatomy, budget: str | int) -> Solved:
    """Return ``method`` at the largest size setting whose count is at most ``budget``.

    The sizes that a base model allows are taken to be all those between two of them, and more steps to train no less.

    Raises:
        MethodError: The method's smallest size is too large, or it has no meaning on this base model.
    """
    assert method.size_setting is not None
    wanted = allowed(budget, anatomy.size)
    least = _least(method, anatomy)
    if (smallest := _at(method, least).count(anatomy)) > wanted:
        size = f"{method.size_setting} {method.size_at(least):,}"
        raise MethodError(
            f"a budget of {wanted:,} is too small: {method.name} on {anatomy.family} trains at least {smallest:,}, "
            f"with {size}",
            hint=f"Write budget: {smallest} or more, or choose fewer places or another method.",
        )
    steps = _largest(method, anatomy, least, wanted)
    chosen = _at(method, steps)
    return Solved(
        method=chosen,
        asked=budget,
        setting=method.size_setting,
        value=method.size_at(steps),
        wanted=wanted,
        achieved=chosen.count(anatomy),
        limit=_refusal(method, anatomy, steps + 1),
    )


def _least(method: Method, anatomy: Anatomy) -> int:
    """Return the fewest steps that the base model allows.

    Raises:
        MethodError: It allows none.
    """
    powers = (1 << n for n in range(MOST_DOUBLINGS))
    found = _first(method, anatomy, powers) or _first(method, anatomy, range(1, MOST_TRIED))
    if found is None:
        method.count(anatomy)  # which says why it means nothing here
        raise MethodError(f"no {method.size_setting} of {method.name} was found that {anatomy.family} allows")
    low = found // 2
    while found - low > 1:
        middle = (low + found) // 2
        low, found = (low, middle) if _size(method, anatomy, middle) is not None else (middle, found)
    return found


def _largest(method: Method, anatomy: Anatomy, low: int, wanted: int) -> int:
    """Return the most steps from ``low`` on, which fit, that still fit."""

    def fits(steps: int) -> bool:
        size = _size(method, anatomy, steps)
        return size is not None and size <= wanted

    gap = 1
    while gap < 1 << MOST_DOUBLINGS and fits(low + gap):
        low, gap = low + gap, gap * 2
    high = low + gap
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    return low


def _first(method: Method, anatomy: Anatomy, candidates: Iterable[int]) -> int | None:
    return next((steps for steps in candidates if _size(method, anatomy, steps) is not None), None)


def _at(method: Method, steps: int) -> Method:
    assert method.size_setting is not None
    return type(method).model_validate({**dict(method), method.size_setting: method.size_at(steps)})


def _size(method: Method, anatomy: Anatomy, steps: int) -> int | None:
    """Return the count at a size, or None where the base model does not allow that size."""
    try:
        return _at(method, steps).count(anatomy)
    except (MethodError, ValidationError):
        return None


def _refusal(method: Method, anatomy: Anatomy, steps: int) -> str | None:
    """Return why a size is not allowed; None where it is."""
    try:
        _at(method, steps).count(anatomy)
    except MethodError as error:
        return error.problems[0].what
    except ValidationError as error:
        return str(error.errors(include_url=False)[0]["msg"])
    return None
