"""FacT: Delta W_j = s U Sigma_j V for every matrix of the network at once; U and V are shared by all of them.

Jie and Deng, "FacT: Factor-Tuning for Lightweight Adaptation on Vision Transformer", 2022, arXiv:2212.03145. The
matrices of all layers are one tensor of (width, width) slots: twelve a layer in a ViT, where W_up is four slots side
by side and W_down four below each other. Our reading of what the paper leaves open: a matrix of any other shape takes
as many slots as cover it, and of the last ones only what it has room for.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field

from peftcli.delta.method import Card, Method
from peftcli.delta.targets import Layers, Projections
from peftcli.errors import MethodError
from peftcli.recipe.recipe import PositiveFloat, PositiveInt

if TYPE_CHECKING:
    from peftcli.base.anatomy import Anatomy
    from peftcli.base.base_model import BaseModel
    from peftcli.base.sites import Site


class Fact(Method):
    """FacT: Delta W_j = s U Sigma_j V, with U (width, rank) and V (rank, width) shared by every matrix."""

    card = Card(
        title="Factor-tuning (FacT)",
        family="reparameterisation",
        paper="2212.03145",
        size_setting="rank",
        mergeable=True,
        starts_at_base=True,
        learning_rate=1e-3,
        source="ViT-B on VTAB-1k, the authors' code",
        traps=(
            "the scale decides how far a step reaches: the authors searched 0.01 to 100 for every task",
            "the first step moves only V: the other factors' gradients are zero",
        ),
    )

    form: Literal["tt", "tk"] = "tt"
    """tt gives every slot a matrix Sigma_j of its own; tk mixes rank matrices of one core: Sigma_j = sum_k P_kj C_k."""
    rank: PositiveInt = 16
    """Of the update; the authors take 16 for tt and 32 for tk."""
    scale: PositiveFloat = 1.0
    """The update is multiplied by it."""
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.1
    """Probability with which one of the rank intermediate values is dropped in training."""
    target_modules: Literal["all-linear"] | Projections = "all-linear"
    """The weight matrices that move; all-linear is every projection of attention and FFN, as published."""
    layers: Layers = "all"
    """The layers whose matrices move: all, 8-11, [0, 5] or top:4."""

    def sizes(self, anatomy: Anatomy) -> dict[str, int]:
        r, width = self.rank, anatomy.width
        shared = 2 * width * r + (r**3 if self.form == "tk" else 0)
        slot = r * r if self.form == "tt" else r
        return {"shared": shared} | {s.address: slot * _slots(s, width) for s in self._sites(anatomy)}

    def attach(self, base: BaseModel) -> None:
        from peftcli.blocks.factors import FactorDelta, Factors  # torch only when something is computed

        sites = self._sites(base.anatomy)
        width = base.anatomy.width
        slots = sum(_slots(s, width) for s in sites) if self.form == "tk" else None
        shared = Factors(width, self.rank, slots=slots)
        for site in sites:
            block = FactorDelta(base.module(site), site, shared=shared, scale=self.scale, dropout=self.dropout)
            base.replace(site, block)

    def _sites(self, anatomy: Anatomy) -> list[Site]:
        if self.rank > anatomy.width:
            raise MethodError(
                f"method.rank is {self.rank}, but {anatomy.family} is {anatomy.width} wide",
                hint=f"Write a rank of at most {anatomy.width}.",
            )
        names = anatomy.projections if self.target_modules == "all-linear" else self.target_modules
        return anatomy.sites(names, self.layers)


def _slots(site: Site, width: int) -> int:
    """Return how many (width, width) slots cover a matrix."""
    return -(-site.d_out // width) * -(-site.d_in // width)
