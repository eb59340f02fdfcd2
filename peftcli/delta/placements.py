"""Where an adapter stands in a layer, as a recipe says it, and the norms that train beside adapters."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field
from pydantic_core import PydanticCustomError

from peftcli.delta.targets import Layers
from peftcli.errors import MethodError

if TYPE_CHECKING:
    from peftcli.base.anatomy import Anatomy
    from peftcli.base.base_model import BaseModel
    from peftcli.base.sites import Site

Activation = Literal["gelu", "relu", "swish", "tanh"]
Placement = Literal["after_attention", "after_ffn", "after_cross_attention"]
Placements = Annotated[tuple[Placement, ...], Field(min_length=1)]
BOTH: tuple[Placement, ...] = ("after_attention", "after_ffn")

_SUBLAYERS = {
    "after_attention": ("attention", False),
    "after_ffn": ("ffn", False),
    "after_cross_attention": ("attention", True),
    "parallel_attention": ("attention", False),
    "parallel_ffn": ("ffn", False),
}


def sublayers(anatomy: Anatomy, placements: Sequence[str], layers: Layers = "all") -> list[Site]:
    """Return the sublayers that adapters stand at, stack by stack and layer by layer.

    Raises:
        MethodError: The base model has none of them.
    """
    wanted = {_SUBLAYERS[p] for p in placements}
    found = [s for s in anatomy.sites(("attention", "ffn"), layers) if (s.name, s.cross) in wanted]
    if not found:
        raise MethodError(
            f"{anatomy.family} has no place {' or '.join(placements)}",
            hint="Only encoder-decoders attend across; use after_attention or after_ffn.",
        )
    return found


def check_terms(bottleneck: int, terms: int) -> None:
    """Refuse a bottleneck that a sum of ``terms`` Kronecker products cannot make.

    Raises:
        PydanticCustomError: ``terms`` does not divide it; for a validator of settings.
    """
    if bottleneck % terms:
        what = f"bottleneck is {bottleneck}, which {terms} terms do not divide"
        raise PydanticCustomError("terms", "{what}", {"what": what, "hint": f"Write a multiple of {terms}."})


def divided(sites: list[Site], terms: int) -> list[Site]:
    """Return the sites, whose width ``terms`` must divide.

    Raises:
        MethodError: It does not.
    """
    odd = [s for s in sites if s.d_out % terms]
    if odd:
        raise MethodError(
            f"method.terms is {terms}, which does not divide the base model's width of {odd[0].d_out}",
            hint="Choose a number that divides both that and method.bottleneck.",
        )
    return sites


def norm_sizes(anatomy: Anatomy) -> dict[str, int]:
    """Return the size of every norm's parameters, by address."""
    return {anatomy.address(t.path): t.size for t in anatomy.norms}


def train_norms(base: BaseModel) -> None:
    """Let every norm of the base model train."""
    for tensor in base.anatomy.norms:
        base.tensor(tensor.path).requires_grad_(True)
