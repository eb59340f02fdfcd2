"""Compacter: h <- h + U act(D h + b_D) + b_U, where D and U are sums of Kronecker products C_i (x) (s_i t_i).

Mahabadi et al., "Compacter: Efficient Low-Rank Hypercomplex Adapter Layers", 2021, arXiv:2106.04647. The
small matrices C_i are the same in every adapter, for D and for U; s_i and t_i are of rank ``rank``. Compacter++ is
placement: [after_ffn].
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from peftcli.delta.method import Card
from peftcli.methods._bottlenecks import KroneckerAdapters
from peftcli.recipe.recipe import PositiveInt

if TYPE_CHECKING:
    from peftcli.base.sites import Site


class Compacter(KroneckerAdapters):
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

    shares_rule = True

    rank: PositiveInt = 1
    """Of s_i t_i; 1 is published."""

    @property
    def factor_rank(self) -> int:
        return self.rank

    def matrices_size(self, site: Site) -> int:
        return 2 * self.rank * (site.d_out + self.bottleneck)
