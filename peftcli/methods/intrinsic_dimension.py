"""Intrinsic dimension: W_t' = W_t + lambda_t P_t v, one trained vector v for the whole network behind fixed random P_t.

Li et al., "Measuring the Intrinsic Dimension of Objective Landscapes", 2018, arXiv:1804.08838 (DID: every lambda_t is
1); Aghajanyan et al., "Intrinsic Dimensionality Explains the Effectiveness of Language Model Fine-Tuning", 2020,
arXiv:2012.13255 (SAID: lambda_t is trained, and counts). The tensors t here are the projections of attention and FFN,
each part of a fused one by itself; embeddings, norms and biases stay, which the papers move too.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from peftcli.delta.method import Card, Method
from peftcli.delta.targets import Layers, Projections
from peftcli.errors import MethodError
from peftcli.recipe.recipe import PositiveInt

if TYPE_CHECKING:
    from peftcli.base.anatomy import Anatomy
    from peftcli.base.base_model import BaseModel
    from peftcli.base.sites import Site

MOST_DENSE = 2**28  # numbers of dense projections: 1 GiB in float32


class IntrinsicDimension(Method):
    """Intrinsic dimension (DID, SAID): W_t' = W_t + lambda_t P_t v, with P_t random and fixed, v shared by all t."""

    card = Card(
        title="Intrinsic dimension (DID, SAID)",
        family="reparameterisation",
        paper="2012.13255",
        size_setting="dimension",
        mergeable=True,
        starts_at_base=True,
        learning_rate=3e-2,
        source="T-Few's baseline with 20,000 numbers (arXiv:2205.05638)",
        traps=(
            "that rate was found with gradients scaled by the authors' own backward pass; ours are the true ones",
            "few numbers, but every step computes a dense change of every matrix: memory as for full fine-tuning",
            "in SAID the scales get no gradient at the first step: the vector is zero",
        ),
    )

    form: Literal["did", "said"] = "did"
    """did trains the vector alone; said also one scale for each matrix, taken out of the dimension."""
    dimension: PositiveInt = 20_000
    """How many numbers train."""
    projection: Literal["fastfood", "dense"] = "fastfood"
    """fastfood is H G Pi H B, which is never written out; dense is normal with deviation 0.01, for tiny networks."""
    target_modules: Literal["all-linear"] | Projections = "all-linear"
    """The weight matrices that move; all-linear is every projection of attention and FFN."""
    layers: Layers = "all"
    """The layers whose matrices move: all, 8-11, [0, 5] or top:4."""

    def sizes(self, anatomy: Anatomy) -> dict[str, int]:
        sites = self._sites(anatomy)
        scales = {s.address: 1 for s in sites} if self.form == "said" else {}
        return {"shared": self.dimension - len(scales)} | scales

    def attach(self, base: BaseModel) -> None:
        from peftcli.blocks.random_projection import IntrinsicVector, ProjectedDelta  # torch only when needed

        sites = self._sites(base.anatomy)
        scaled = self.form == "said"
        shared = IntrinsicVector(self.dimension - scaled * len(sites), projection=self.projection)
        for site in sites:
            base.replace(site, ProjectedDelta(base.module(site), site, shared=shared, scaled=scaled))

    def _sites(self, anatomy: Anatomy) -> list[Site]:
        names = anatomy.projections if self.target_modules == "all-linear" else self.target_modules
        sites = anatomy.sites(names, self.layers)
        if self.form == "said" and self.dimension <= len(sites):
            raise MethodError(
                f"method.dimension is {self.dimension}, but said spends one number on each of {len(sites)} matrices",
                hint=f"Write a dimension of at least {len(sites) + 1}, or form: did.",
            )
        written = self.dimension * sum(s.d_in * s.d_out for s in sites)
        if self.projection == "dense" and written > MOST_DENSE:
            raise MethodError(
                f"dense projections to {self.dimension} numbers would hold {written:,} numbers",
                hint="Write projection: fastfood.",
            )
        return sites
