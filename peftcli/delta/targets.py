"""How a recipe names the sites and layers a method acts on."""

from __future__ import annotations

import re
from typing import Annotated, Literal

from pydantic import AfterValidator, Field
from pydantic_core import PydanticCustomError

Projection = Literal["W_q", "W_k", "W_v", "W_o", "W_up", "W_gate", "W_down"]


def _distinct(names: tuple[str, ...]) -> tuple[str, ...]:
    if len(set(names)) < len(names):
        raise PydanticCustomError("repeated_site", "a site is named twice", {"hint": "Name each site once."})
    return names


Projections = Annotated[tuple[Projection, ...], Field(min_length=1), AfterValidator(_distinct)]
Tables = Annotated[tuple[Projection | Literal["embeddings"], ...], Field(min_length=1), AfterValidator(_distinct)]
"""Projections, and the token embeddings."""


def _choice(layers: str) -> str:
    if not re.fullmatch(r"all|top:[1-9]\d*|\d+(-\d+)?", layers):
        what = f"'{layers}' is no choice of layers"
        hint = "Write all, a number, a range such as 8-11, top:4, or a list such as [0, 5]."
        raise PydanticCustomError("layers", "{what}", {"what": what, "hint": hint})
    return layers


Layers = (
    Annotated[str, AfterValidator(_choice)]
    | Annotated[int, Field(ge=0)]
    | Annotated[tuple[Annotated[int, Field(ge=0)], ...], Field(min_length=1)]
)
"""all, a range 8-11, a list [0, 5], or top:4; counted from 0 in each stack."""
