"""Compacter: h <- h + U act(D h + b_D) + b_U, where D and U are sums of Kronecker products C_i (x) (s_i t_i).

Mahabadi et al., "Compacter: Efficient Low-Rank Hypercomplex Adapter Layers", 2021, arXiv:2106.04647. The
small matrices C_i are the same in every adapter, for D and for U; s_i and t_i are of rank ``rank``. Compacter++ is
placement: [after_ffn].
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


class Compacter(Method):
    """Compacter: series adapters of Kronecker products that share one rule between all of them; the norms train too."""

    card = Card(
        title="Compacter",
        family="addition",
        paper="2106.04647",
        size_setting="bottleneck",
        mergeable=False,
        starts_at_base=False,
        learning_rate=3e-3,
        source="T5-base on GLUE, the authors' code",
        traps=(
            "it starts within about 1e-6 of the base model, not at it",
            "the products start so small that float16 loses them: train in float32 or bfloat16",
        ),
    )

    bottleneck: PositiveInt = 24
    """Width inside the adapter, a multiple of terms; a thirty-second of the model's width is published."""
    terms: PositiveInt = 4
    """How many Kronecker products are summed, n in the paper; must divide the model's width too."""
    rank: PositiveInt = 1
    """Of s_i t_i; 1 is published."""
    activation: Activation = "gelu"
    """gelu is published."""
    placement: Placements = BOTH
    """Where adapters stand; [after_ffn] is Compacter++."""
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
        a, r = self.bottleneck, self.rank
        sites = divided(sublayers(anatomy, self.placement, self.layers), self.terms)
        adapters = {s.address: 2 * r * (s.d_out + a) + a + s.d_out for s in sites}
        return {"shared.C": self.terms**3} | adapters | (norm_sizes(anatomy) if self.train_norms else {})

    def attach(self, base: BaseModel) -> None:
        from peftcli.blocks.adapters import after_sublayers  # torch only when something is computed
        from peftcli.blocks.bottleneck import Bottleneck
        from peftcli.blocks.kronecker import Kronecker, Rule

        rule = Rule(self.terms)

        def make(site: Site) -> Bottleneck:
            down = Kronecker(site.d_out, self.bottleneck, rule=rule, rank=self.rank)
            up = Kronecker(self.bottleneck, site.d_out, rule=rule, rank=self.rank)
            return Bottleneck(down, up, activation=self.activation)

        sites = divided(sublayers(base.anatomy, self.placement, self.layers), self.terms)
        after_sublayers(base, sites, make, shared=rule)
        if self.train_norms:
            train_norms(base)
