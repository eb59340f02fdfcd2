"""LLM-Adapters: W (x + s U act(D x)) before W_gate and W_up and y + s U act(D y) behind W_down; or W x + s U act(D x).

Hu et al., "LLM-Adapters: An Adapter Family for Parameter-Efficient Fine-Tuning of Large Language Models", 2023,
arXiv:2304.01933, as in the authors' code: without biases, and parallel to W_q, W_k and W_v, where the
text says parallel to the FFN. A zero U at the start is ours.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from peftcli.delta.method import Card, Method
from peftcli.delta.placements import Activation
from peftcli.delta.targets import Layers
from peftcli.recipe.recipe import PositiveFloat, PositiveInt

if TYPE_CHECKING:
    from peftcli.base.anatomy import Anatomy
    from peftcli.base.base_model import BaseModel
    from peftcli.base.sites import Site
    from peftcli.blocks.projection_adapters import ProjectionAdapter

PROJECTIONS = {
    "series": ("W_gate", "W_up", "W_down"),
    "behind_ffn": ("W_down",),
    "parallel": ("W_q", "W_k", "W_v"),
}


class LlmAdapter(Method):
    """LLM-Adapters: bottlenecks without biases at single projections, in series or parallel."""

    card = Card(
        title="LLM-Adapters",
        family="addition",
        paper="2304.01933",
        size_setting="bottleneck",
        mergeable=False,
        starts_at_base=True,
        learning_rate=3e-4,
        source="LLaMA-7B, the authors' code",
        traps=("series and parallel train equally many only where W_k and W_v are as wide as the model",),
    )

    bottleneck: PositiveInt = 256
    """Width inside the adapter."""
    activation: Activation = "tanh"
    """tanh is the authors' code."""
    scale: PositiveFloat = 1.0
    """Of what the adapter adds."""
    start: Literal["zero_up", "bert"] = "zero_up"
    """zero_up begins at the base model exactly; bert is published, normal with deviation 0.02: nearly."""
    placement: Literal["series", "behind_ffn", "parallel"] = "series"
    """series: before W_gate and W_up, behind W_down; behind_ffn: W_down alone; parallel: at W_q, W_k, W_v."""
    layers: Layers = "all"
    """The layers that get adapters: all, 8-11, [0, 5] or top:4."""

    @property
    def starts_at_base(self) -> bool:
        """Only a zero second matrix makes the adapter nothing."""
        return self.start == "zero_up"

    def sizes(self, anatomy: Anatomy) -> dict[str, int]:
        return {s.address: self.bottleneck * sum(self._widths(s)) for s in self._sites(anatomy)}

    def attach(self, base: BaseModel) -> None:
        from peftcli.blocks import bottleneck  # torch only when something is computed

        for site in self._sites(base.anatomy):
            inner = bottleneck.unbiased(
                self._widths(site), self.bottleneck, activation=self.activation, start=self.start, scale=self.scale
            )
            base.replace(site, self._block(site)(base.module(site), site, inner))

    def _widths(self, site: Site) -> tuple[int, int]:
        """Return how wide what the adapter reads and what it adds is."""
        if self.placement == "parallel":
            return site.d_in, site.d_out
        return (site.d_out, site.d_out) if site.name == "W_down" else (site.d_in, site.d_in)

    def _block(self, site: Site) -> type[ProjectionAdapter]:
        from peftcli.blocks import projection_adapters as blocks

        if self.placement == "parallel":
            return blocks.BesideProjection
        return blocks.BehindProjection if site.name == "W_down" else blocks.BeforeProjection

    def _sites(self, anatomy: Anatomy) -> list[Site]:
        names = [n for n in PROJECTIONS[self.placement] if n in anatomy.site_names]
        return anatomy.sites(names, self.layers)
