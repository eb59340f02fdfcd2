"""VeRA: W' = W + diag(b) B diag(d) A, with A and B random, frozen and the same for every matrix.

Kopiczko, Blankevoort and Asano, "VeRA: Vector-based Random Matrix Adaptation", 2023, arXiv:2310.11454, section 3. Where
the matrices differ in shape, each takes the first columns of A and the first rows of B, as in Hugging Face peft. A and
B are not stored: they are drawn again from a seed that is.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from peftcli.delta.method import Card, Method, PeftLayout
from peftcli.delta.targets import Layers, Projections
from peftcli.recipe.recipe import PositiveFloat, PositiveInt

if TYPE_CHECKING:
    from peftcli.base.anatomy import Anatomy
    from peftcli.base.base_model import BaseModel
    from peftcli.base.sites import Site
    from peftcli.delta.delta import Delta


class Vera(Method):
    """VeRA: W' = W + diag(b) B diag(d) A, with b (d_out) and d (rank) trained and one random pair A, B for all."""

    card = Card(
        title="Vector-based random matrix adaptation (VeRA)",
        family="reparameterisation",
        paper="2310.11454",
        size_setting="rank",
        mergeable=True,
        starts_at_base=True,
        learning_rate=4e-3,
        source="RoBERTa-base on GLUE, the paper's appendix as we recall it: 4e-3 to 1e-2",
        traps=(
            "a rank above the width of the model is no mistake: it costs one number per matrix",
            "the first step moves only b: d's gradient is zero",
            "A and B are drawn by torch's generator from the stored seed: its algorithm must stay what it is",
        ),
    )

    rank: PositiveInt = 256
    """Rows of A and columns of B: 1024 is published for RoBERTa-base, 256 for RoBERTa-large."""
    start: PositiveFloat = 0.1
    """What every number of d starts at; b starts at zero."""
    target_modules: Literal["all-linear"] | Projections = ("W_q", "W_v")
    """The weight matrices that move; all-linear is every projection of attention and FFN, never head or embeddings."""
    layers: Layers = "all"
    """The layers whose matrices move: all, 8-11, [0, 5] or top:4."""

    def sizes(self, anatomy: Anatomy) -> dict[str, int]:
        return {s.address: s.d_out + self.rank for s in self._sites(anatomy)}

    def attach(self, base: BaseModel) -> None:
        from peftcli.blocks.random_basis import RandomBasisDelta, RandomPair  # torch only when something is computed

        sites = self._sites(base.anatomy)
        shared = RandomPair(self.rank, max(s.d_in for s in sites), max(s.d_out for s in sites))
        for site in sites:
            base.replace(site, RandomBasisDelta(base.module(site), site, shared=shared, start=self.start))

    def _sites(self, anatomy: Anatomy) -> list[Site]:
        names = anatomy.projections if self.target_modules == "all-linear" else self.target_modules
        return anatomy.sites(names, self.layers)

    def peft_layout(self, delta: Delta) -> PeftLayout | str:
        """Return peft's VERA form, with A and B themselves: peft draws others from a seed."""
        from peftcli.blocks.random_basis import RandomBasisDelta

        blocks = [b for b in delta.blocks_of(self) if isinstance(b, RandomBasisDelta)]
        if any(b.site.rows for b in blocks):
            return "peft's VeRA moves whole modules, and this base model keeps several projections in one"
        A, B = blocks[0].shared.drawn(blocks[0].b.device)
        tensors = {"base_model.vera_A": A.cpu(), "base_model.vera_B": B.cpu()}
        paths = [delta.base.path(b.site) for b in blocks]
        for path, block in zip(paths, blocks, strict=True):
            tensors[f"base_model.model.{path}.vera_lambda_b"] = block.b.detach().cpu()
            tensors[f"base_model.model.{path}.vera_lambda_d"] = block.d.detach().cpu()
        config = {
            "peft_type": "VERA",
            "r": self.rank,
            "d_initial": self.start,
            "target_modules": sorted(paths),
            "save_projection": True,
            "projection_prng_key": 0,
            "vera_dropout": 0.0,
            "fan_in_fan_out": any(b.site.transposed for b in blocks),
            "bias": "none",
            "init_weights": True,
        }
        return PeftLayout(config=config, tensors=tensors, exact=True)
