"""Houlsby's series adapter: h <- h + U act(D h + b_D) + b_U, after attention and after the FFN.

Houlsby et al., "Parameter-Efficient Transfer Learning for NLP", 2019, arXiv:1902.00751. Before the
residual add, so that a post-norm model computes LN(x + A(h)).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from peftcli.delta.method import Card
from peftcli.delta.placements import BOTH, Activation, Placements, sublayers
from peftcli.delta.targets import Layers
from peftcli.methods._bottlenecks import DenseAdapters
from peftcli.recipe.recipe import PositiveInt

if TYPE_CHECKING:
    from peftcli.base.anatomy import Anatomy
    from peftcli.base.sites import Site


class Houlsby(DenseAdapters):
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
    put: ClassVar = "after_sublayers"

    bottleneck: PositiveInt = 64
    """Width inside the adapter."""
    activation: Activation = "gelu"
    """gelu is the authors' code."""
    start: Literal["zero_up", "houlsby", "bert"] = "zero_up"
    """zero_up begins at the base model exactly; houlsby is normal with deviation 1e-3, bert with 0.02: nearly."""
    placement: Placements = BOTH
    """Where adapters stand."""
    train_norms: bool = True
    """Whether every LayerNorm trains too, as published."""
    layers: Layers = "all"
    """The layers that get adapters: all, 8-11, [0, 5] or top:4."""

    def sites(self, anatomy: Anatomy) -> list[Site]:
        """Return the sublayers that get adapters."""
        return sublayers(anatomy, self.placement, self.layers)
