"""Houlsby's series adapter: h <- h + U act(D h + b_D) + b_U, after attention and after the FFN.

Houlsby et al., "Parameter-Efficient Transfer Learning for NLP", 2019, arXiv:1902.00751, section 2.1. Before the
residual add, so that a post-norm model computes LN(x + A(h)).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field

from peftcli.delta.method import Card, Method
from peftcli.delta.targets import Layers
from peftcli.recipe.recipe import PositiveInt

if TYPE_CHECKING:
    from peftcli.base.anatomy import Anatomy
    from peftcli.base.base_model import BaseModel
    from peftcli.base.sites import Site

Placement = Literal["after_attention", "after_ffn", "after_cross_attention"]
SUBLAYER = {
    "after_attention": ("attention", False),
    "after_ffn": ("ffn", False),
    "after_cross_attention": ("attention", True),
}


class Houlsby(Method):
    """Series adapter: a bottleneck after attention and after the FFN of every layer; the norms train too."""

    card = Card(
        title="Series adapter (Houlsby)",
        family="addition",
        paper="1902.00751",
        size_setting="bottleneck",
        mergeable=False,
        starts_at_base=True,
        learning_rate=3e-4,
        source="the authors' code and its README",
        traps=("published counts differ in whether they hold the norms; set train_norms to choose",),
    )

    bottleneck: PositiveInt = 64
    """Width inside the adapter."""
    activation: Literal["gelu", "relu", "swish", "tanh"] = "gelu"
    """gelu is the authors' code."""
    start: Literal["zero_up", "houlsby", "bert"] = "zero_up"
    """zero_up begins at the base model exactly; houlsby is normal with deviation 1e-3, bert with 0.02: nearly."""
    placement: Annotated[tuple[Placement, ...], Field(min_length=1)] = ("after_attention", "after_ffn")
    """Where adapters stand."""
    train_norms: bool = True
    """Whether every LayerNorm trains too, as published."""
    layers: Layers = "all"
    """The layers that get adapters: all, 8-11, [0, 5] or top:4."""

    @property
    def starts_at_base(self) -> bool:
        """Only a zero second matrix makes the adapter nothing."""
        return self.start == "zero_up"

    def sizes(self, anatomy: Anatomy) -> dict[str, int]:
        a = self.bottleneck
        adapters = {s.address: 2 * s.d_out * a + a + s.d_out for s in self._sites(anatomy)}
        norms = {anatomy.address(t.path): t.size for t in anatomy.norms} if self.train_norms else {}
        return adapters | norms

    def attach(self, base: BaseModel) -> None:
        from peftcli.blocks.bottleneck import Bottleneck  # torch only when something is computed

        for site in self._sites(base.anatomy):
            out = base.sublayer_out(site)
            block = Bottleneck(
                base.module(out),
                site.address,
                shape=(self.bottleneck, site.d_out),
                activation=self.activation,
                start=self.start,
            )
            base.replace(out, block)
        if self.train_norms:
            for tensor in base.anatomy.norms:
                base.tensor(tensor.path).requires_grad_(True)

    def _sites(self, anatomy: Anatomy) -> list[Site]:
        wanted = {SUBLAYER[p] for p in self.placement}
        return [s for s in anatomy.sites(("attention", "ffn"), self.layers) if (s.name, s.cross) in wanted]
