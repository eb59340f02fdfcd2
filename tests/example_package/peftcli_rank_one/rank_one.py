"""Rank-one update: W' = W + u v, with u (d_out) and v (d_in) trained."""

from __future__ import annotations

from typing import TYPE_CHECKING

from peftcli.delta.method import Card, Method
from peftcli.delta.targets import Layers, Projections

if TYPE_CHECKING:
    from peftcli.base.anatomy import Anatomy
    from peftcli.base.base_model import BaseModel
    from peftcli.base.sites import Site


class RankOne(Method):
    """Rank-one update: W' = W + u v, one column times one row for every matrix."""

    card = Card(
        title="Rank-one update",
        family="reparameterisation",
        paper=None,
        size_setting=None,
        mergeable=True,
        starts_at_base=True,
        learning_rate=1e-3,
        source="an example",
    )

    target_modules: Projections = ("W_q", "W_v")
    """The weight matrices that move."""
    layers: Layers = "all"
    """The layers whose matrices move: all, 8-11, [0, 5] or top:4."""

    def sizes(self, anatomy: Anatomy) -> dict[str, int]:
        return {s.address: s.d_out + s.d_in for s in self._sites(anatomy)}

    def attach(self, base: BaseModel) -> None:
        from peftcli_rank_one.outer_product import OuterProduct  # torch only when something is computed

        for site in self._sites(base.anatomy):
            base.replace(site, OuterProduct(base.module(site), site))

    def _sites(self, anatomy: Anatomy) -> list[Site]:
        return anatomy.sites(self.target_modules, self.layers)
