"""Which layers a recipe means: ``all``, ``8-11``, ``top:4``, one number, or a list of these."""

from __future__ import annotations

import re
from collections.abc import Sequence

from peftcli.errors import RecipeError

Layers = int | str | Sequence[int | str]
_HINT = "Write all, a number, a range such as 8-11, top:4, or a list of these."


def select(layers: Layers, count: int, stack: str) -> list[int]:
    """Return the chosen layers of a stack of ``count``, in order.

    Raises:
        RecipeError: The choice cannot be read, is empty, or names a layer that the stack does not have.
    """
    chosen: set[int] = set()
    for one in [layers] if isinstance(layers, int | str) else layers:
        chosen.update(_range(one, count, stack))
    if not chosen:
        raise RecipeError("no layer is chosen", hint=_HINT)
    return sorted(chosen)


def _range(one: int | str, count: int, stack: str) -> range:
    text = str(one).strip()
    if text == "all":
        return range(count)
    found = re.fullmatch(r"(?P<top>top:)?(?P<first>\d{1,9})(\s*-\s*(?P<last>\d{1,9}))?", text)
    if isinstance(one, bool) or not found or (found["top"] and found["last"]):
        raise RecipeError(f"{one!r} is no choice of layers", hint=_HINT)
    first, last = int(found["first"]), int(found["last"] or found["first"])
    if found["top"]:
        first, last = (count - first, count - 1) if first else (1, 0)
    if first > last:
        raise RecipeError(f"{one!r} chooses no layer", hint=_HINT)
    if first < 0 or last >= count:
        raise RecipeError(
            f"layers: {one} does not fit: the {stack} has {count} layers", hint=f"Name layers from 0 to {count - 1}."
        )
    return range(first, last + 1)
