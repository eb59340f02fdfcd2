"""PHM adapter: h <- h + U act(D h + b_D) + b_U, where D and U are sums of Kronecker products C_i (x) S_i.

Zhang et al., "Beyond Fully-Connected Layers with Quaternions: Parameterization of Hypercomplex Multiplications with
1/n Parameters", 2021, arXiv:2102.08597; as an adapter in Mahabadi et al., 2021, arXiv:2106.04647, which is
where the settings come from. Every D and every U has small matrices C_i of its own.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from peftcli.delta.method import Card
from peftcli.methods._bottlenecks import KroneckerAdapters

if TYPE_CHECKING:
    from peftcli.base.sites import Site


class PhmAdapter(KroneckerAdapters):
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

    shares_rule = False

    def matrices_size(self, site: Site) -> int:
        n = self.terms
        return 2 * n**3 + 2 * site.d_out * self.bottleneck // n
