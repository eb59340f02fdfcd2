"""Low-rank adapter: h <- h + U act(D h + b_D) + b_U, where D = D_1 D_2 and U = U_1 U_2 are of rank ``rank``.

The baseline of Mahabadi et al., "Compacter: Efficient Low-Rank Hypercomplex Adapter Layers", 2021, arXiv:2106.04647.
A zero factor at the start is ours; theirs begin far from the base model.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from peftcli.delta.method import Card, Method
from peftcli.delta.placements import BOTH, Activation, Placements, norm_sizes, sublayers, train_norms
from peftcli.delta.targets import Layers
from peftcli.recipe.recipe import PositiveInt

if TYPE_CHECKING:
    from peftcli.base.anatomy import Anatomy
    from peftcli.base.base_model import BaseModel
    from peftcli.base.sites import Site
    from peftcli.blocks.linear_maps import Fill


class LowRankAdapter(Method):
    """Low-rank adapter: series adapters whose two matrices are products of low rank; the norms train too."""

    card = Card(
        title="Low-rank adapter",
        family="addition",
        paper="2106.04647",
        size_setting="bottleneck",
        mergeable=False,
        starts_at_base=True,
        learning_rate=3e-3,
        source="T5-base on GLUE, the Compacter paper's code",
    )

    bottleneck: PositiveInt = 24
    """Width inside the adapter; a thirty-second of the model's width is published."""
    rank: PositiveInt = 1
    """Of each of the two matrices; 1 is published."""
    activation: Activation = "gelu"
    """gelu is published."""
    start: Literal["zero_up", "glorot"] = "zero_up"
    """zero_up begins at the base model exactly; glorot is published and begins far from it."""
    placement: Placements = BOTH
    """Where adapters stand."""
    train_norms: bool = True
    """Whether every norm trains too, as published."""
    layers: Layers = "all"
    """The layers that get adapters: all, 8-11, [0, 5] or top:4."""

    @property
    def starts_at_base(self) -> bool:
        """Only a zero factor makes the adapter nothing."""
        return self.start == "zero_up"

    def sizes(self, anatomy: Anatomy) -> dict[str, int]:
        a, r = self.bottleneck, self.rank
        sites = sublayers(anatomy, self.placement, self.layers)
        adapters = {s.address: 2 * r * (s.d_out + a) + a + s.d_out for s in sites}
        return adapters | (norm_sizes(anatomy) if self.train_norms else {})

    def attach(self, base: BaseModel) -> None:
        from peftcli.blocks.adapters import after_sublayers  # torch only when something is computed
        from peftcli.blocks.bottleneck import Bottleneck
        from peftcli.blocks.linear_maps import Product

        def make(site: Site) -> Bottleneck:
            down = Product(site.d_out, self.bottleneck, rank=self.rank, fill="glorot")
            last: Fill = "zero" if self.start == "zero_up" else "glorot"
            up = Product(self.bottleneck, site.d_out, rank=self.rank, fill=last)
            return Bottleneck(down, up, activation=self.activation)

        after_sublayers(base, sublayers(base.anatomy, self.placement, self.layers), make)
        if self.train_norms:
            train_norms(base)
