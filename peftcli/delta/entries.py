"""How a recipe names how many single entries of the base model's tensors change: a number, or a share of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Self

from pydantic import AfterValidator
from pydantic_core import PydanticCustomError

from peftcli.delta.method import Method
from peftcli.errors import MethodError
from peftcli.recipe.recipe import PositiveInt, Share

if TYPE_CHECKING:
    from peftcli.base.anatomy import Anatomy, BaseTensor


def _some(share: str) -> str:
    if not 0 < percent(share) <= 100:
        what = f"'{share}' is no share of the entries"
        raise PydanticCustomError("share", "{what}", {"what": what, "hint": "Write more than 0% and at most 100%."})
    return share


Entries = PositiveInt | Annotated[Share, AfterValidator(_some)]
"""14155776, or 5%."""


class SparseMethod(Method):
    """What methods have in common whose finished delta is a change of single entries."""

    entries: Entries = "5%"
    """How many entries change: a number, or a share of them such as 5%."""
    freeze_norms: bool = True
    """Whether normalisations stay as they are."""

    def sizes(self, anatomy: Anatomy) -> dict[str, int]:
        """Return what stands where before training has chosen; the sum stays."""
        return dealt(self.number(anatomy), {t.address: t.size for t in self.tensors(anatomy)})

    def tensors(self, anatomy: Anatomy) -> list[BaseTensor]:
        """Return the pretrained tensors whose entries may change."""
        return [t for t in anatomy.tensors if not (self.freeze_norms and t.norm)]

    def number(self, anatomy: Anatomy) -> int:
        """Return how many entries change in the end: at least one.

        Raises:
            MethodError: There are not as many.
        """
        total = sum(t.size for t in self.tensors(anatomy))
        number = how_many(self.entries, total)
        if number > total:
            raise MethodError(
                f"method.entries is {number:,}, but {anatomy.family} has {total:,} that may change",
                hint="Write a smaller number, or a share such as 5%.",
            )
        return number

    def with_others(self, others: Sequence[SparseMethod], number: int) -> Self:
        """Return the settings under which the sum of this one's delta and those of others is attached."""
        freeze_norms = self.freeze_norms and all(other.freeze_norms for other in others)
        return self.model_copy(update={"entries": number, "freeze_norms": freeze_norms})


def how_many(entries: Entries, total: int) -> int:
    """Return the number that ``entries`` says, of ``total``: at least one."""
    return entries if isinstance(entries, int) else max(1, int(total * percent(entries) / 100))


def dealt(number: int, sizes: Mapping[str, int]) -> dict[str, int]:
    """Return how many entries stand at each address before training has chosen.

    Every tensor holds as many, as far as it goes; those that are left over go to the last ones. None means none.

    Args:
        number: How many entries, over all tensors.
        sizes: How many each tensor has, by address.
    """
    low, high = 0, number
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if _held(sizes, middle) <= number else (low, middle - 1)
    left = number - _held(sizes, low)
    found = {}
    for address, size in reversed(list(sizes.items())):
        more = left > 0 and size > low
        left -= more
        found[address] = min(size, low) + more
    return {a: found[a] for a in sizes if found[a]}


def _held(sizes: Mapping[str, int], most: int) -> int:
    return sum(min(size, most) for size in sizes.values())


def percent(share: str) -> float:
    """Return the number before the sign."""
    return float(share.strip().removesuffix("%"))
