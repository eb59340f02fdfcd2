"""PHM adapter: h <- h + U act(D h + b_D) + b_U, where D and U are sums of Kronecker products C_i (x) S_i.

Zhang et al., "Beyond Fully-Connected Layers with Quaternions: Parameterization of Hypercomplex Multiplications with
1/n Parameters", 2021, arXiv:2102.08597; as an adapter in Mahabadi et al., 2021, arXiv:2106.04647, which is
where the settings come from. Every D and every U has small matrices C_i of its own.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Self

from pydantic import model_validator

from peftcli.delta.method import Card, Method
from peftcli.delta.placements import (
    BOTH,
    Activation,
    Placements,
    check_terms,
    divided,
    norm_sizes,
    sublayers,
    train_norms,
)
from peftcli.delta.targets import Layers
from peftcli.recipe.recipe import PositiveInt

if TYPE_CHECKING:
    from peftcli.base.anatomy import Anatomy
    from peftcli.base.base_model import BaseModel
    from peftcli.base.sites import Site
    from peftcli.blocks.bottleneck import Bottleneck


class PhmAdapter(Method):
    """PHM adapter: series adapters whose matrices are sums of Kronecker products; the norms train too."""

    card = Card(
        title="Hypercomplex adapter (PHM)",
        family="addition",
        paper="2102.08597",
        size_setting="bottleneck",
        mergeable=False,
        starts_at_base=False,
        learning_rate=3e-3,
        source="T5-base on GLUE, the Compacter paper's code",
        traps=(
            "it starts within about 1e-6 of the base model, not at it",
            "the products start so small that float16 loses them: train in float32 or bfloat16",
        ),
    )

    bottleneck: PositiveInt = 24
    """Width inside the adapter, a multiple of terms; a thirty-second of the model's width is published."""
    terms: PositiveInt = 4
    """How many Kronecker products are summed, n in the paper, 4 or 12; must divide the model's width too."""
    activation: Activation = "gelu"
    """gelu is published."""
    placement: Placements = BOTH
    """Where adapters stand."""
    train_norms: bool = True
    """Whether every norm trains too, as published."""
    layers: Layers = "all"
    """The layers that get adapters: all, 8-11, [0, 5] or top:4."""

    @model_validator(mode="after")
    def _terms_divide(self) -> Self:
        check_terms(self.bottleneck, self.terms)
        return self

    @property
    def size_step(self) -> int:
        """The sums of products cut the bottleneck into ``terms`` parts."""
        return self.terms

    def sizes(self, anatomy: Anatomy) -> dict[str, int]:
        a, n = self.bottleneck, self.terms
        sites = divided(sublayers(anatomy, self.placement, self.layers), n)
        adapters = {s.address: 2 * n**3 + 2 * s.d_out * a // n + a + s.d_out for s in sites}
        return adapters | (norm_sizes(anatomy) if self.train_norms else {})

    def attach(self, base: BaseModel) -> None:
        from peftcli.blocks.adapters import after_sublayers  # torch only when something is computed
        from peftcli.blocks.bottleneck import Bottleneck
        from peftcli.blocks.kronecker import Kronecker, Rule

        def make(site: Site) -> Bottleneck:
            down = Kronecker(site.d_out, self.bottleneck, rule=Rule(self.terms))
            up = Kronecker(self.bottleneck, site.d_out, rule=Rule(self.terms))
            return Bottleneck(down, up, activation=self.activation)

        sites = divided(sublayers(base.anatomy, self.placement, self.layers), self.terms)
        after_sublayers(base, sites, make)
        if self.train_norms:
            train_norms(base)
