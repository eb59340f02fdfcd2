"""Lin's adapter: x <- x + U act(D LN'(x) + b_D) + b_U on the output x of every layer, with a norm LN' of its own.

Lin et al., "Exploring Versatile Generative Language Model Via Parameter-Efficient Transfer Learning", 2020,
arXiv:2004.03829; Adapter^L in the tables of the LoRA paper.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from peftcli.delta.method import Card, Method
from peftcli.delta.placements import Activation, sublayers
from peftcli.delta.targets import Layers
from peftcli.recipe.recipe import PositiveInt

if TYPE_CHECKING:
    from peftcli.base.anatomy import Anatomy
    from peftcli.base.base_model import BaseModel


class AdapterL(Method):
    """Adapter-L: one bottleneck behind a trained LayerNorm of its own, on the output of every layer."""

    card = Card(
        title="Adapter-L (Lin)",
        family="addition",
        paper="2004.03829",
        size_setting="bottleneck",
        mergeable=False,
        starts_at_base=True,
        learning_rate=5e-5,
        source="the setup of Li and Liang (arXiv:2101.00190), under which GPT-2's published figures were made",
    )

    bottleneck: PositiveInt = 64
    """Width inside the adapter."""
    activation: Activation = "relu"
    """relu is published."""
    start: Literal["zero_up", "bert"] = "zero_up"
    """zero_up begins at the base model exactly; bert is normal with deviation 0.02: nearly."""
    layers: Layers = "all"
    """The layers that get adapters: all, 8-11, [0, 5] or top:4."""

    @property
    def starts_at_base(self) -> bool:
        """Only a zero second matrix makes the adapter nothing."""
        return self.start == "zero_up"

    def sizes(self, anatomy: Anatomy) -> dict[str, int]:
        a = self.bottleneck
        sites = sublayers(anatomy, ("after_ffn",), self.layers)
        return {s.address: 2 * s.d_out * a + a + s.d_out + 2 * s.d_out for s in sites}

    def attach(self, base: BaseModel) -> None:
        from peftcli.blocks import adapters, bottleneck  # torch only when something is computed

        adapters.after_layers(
            base,
            sublayers(base.anatomy, ("after_ffn",), self.layers),
            lambda s: bottleneck.normed((self.bottleneck, s.d_out), activation=self.activation, start=self.start),
        )
