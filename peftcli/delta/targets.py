"""How a recipe names the sites and layers a method acts on."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AfterValidator, Field
from pydantic_core import PydanticCustomError

Projection = Literal["W_q", "W_k", "W_v", "W_o", "W_up", "W_gate", "W_down"]


def _distinct(names: tuple[str, ...]) -> tuple[str, ...]:
    if len(set(names)) < len(names):
        raise PydanticCustomError("repeated_site", "a site is named twice", {"hint": "Name each site once."})
    return names


Projections = Annotated[tuple[Projection, ...], Field(min_length=1), AfterValidator(_distinct)]
Layers = (
    Annotated[str, Field(pattern=r"^(all|top:[1-9]\d*|\d+(-\d+)?)$")]
    | Annotated[int, Field(ge=0)]
    | Annotated[tuple[Annotated[int, Field(ge=0)], ...], Field(min_length=1)]
)
"""all, a range 8-11, a list [0, 5], or top:4; counted from 0 in each stack."""
