"""Pfeiffer's adapter: y = LN(h + U act(D z + b_D) + b_U + x), with z = LN(h + x), once in every layer.

Pfeiffer et al., "AdapterFusion: Non-Destructive Task Composition for Transfer Learning", 2020, arXiv:2005.00247;
h is what the FFN computes from x. The pretrained norm serves twice and stays frozen.

Where the norms stand before the sublayers, z = h + x and y = z + U act(D z + b_D) + b_U. Three readings are ours. In
Gemma, which has a norm behind the sublayer as well, h is what that norm gives. Where attention and FFN run side by
side (GPT-NeoX, Falcon), z holds the sublayer the adapter stands at and not the other. Where dropout has no module of
its own (OPT, BLOOM), what an adapter on a pre-norm stream adds is dropped with h.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from peftcli.delta.method import Card
from peftcli.delta.placements import Activation, sublayers
from peftcli.delta.targets import Layers
from peftcli.methods._bottlenecks import DenseAdapters
from peftcli.recipe.recipe import PositiveInt

if TYPE_CHECKING:
    from peftcli.base.anatomy import Anatomy
    from peftcli.base.sites import Site


class Pfeiffer(DenseAdapters):
    """Pfeiffer's adapter: one bottleneck per layer, on the residual stream behind the FFN; the norms stay frozen."""

    card = Card(
        title="Adapter (Pfeiffer)",
        family="addition",
        paper="2005.00247",
        size_setting="bottleneck",
        mergeable=False,
        starts_at_base=True,
        learning_rate=1e-4,
        source="AdapterHub's training scripts (arXiv:2007.07779)",
        traps=("the Compacter paper's 'Pfeiffer' stands after attention: placement=after_attention",),
    )
    put: ClassVar = "after_residual_adds"

    bottleneck: PositiveInt = 48
    """Width inside the adapter; a sixteenth of the model's width is published."""
    activation: Activation = "relu"
    """relu is published."""
    start: Literal["zero_up", "bert"] = "zero_up"
    """zero_up begins at the base model exactly; bert is normal with deviation 0.02: nearly."""
    placement: Literal["after_ffn", "after_attention"] = "after_ffn"
    """after_ffn is published; after_attention is what others have called by this name."""
    train_norms: bool = False
    """Whether every norm trains too, as in the comparison of the Compacter paper."""
    layers: Layers = "all"
    """The layers that get adapters: all, 8-11, [0, 5] or top:4."""

    def sites(self, anatomy: Anatomy) -> list[Site]:
        """Return the sublayers that get adapters."""
        return sublayers(anatomy, (self.placement,), self.layers)
