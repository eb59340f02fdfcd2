"""He's scaled parallel adapter: h <- h + scale * (U act(D x + b_D) + b_U), beside the FFN.

He et al., "Towards a Unified View of Parameter-Efficient Transfer Learning", 2021, arXiv:2110.04366. As in
the authors' code, x is the residual stream, not what the norm before the sublayer makes of it, and the biases stand
inside the scale.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field

from peftcli.delta.method import Card, Method
from peftcli.delta.placements import Activation, sublayers
from peftcli.delta.targets import Layers
from peftcli.recipe.recipe import PositiveFloat, PositiveInt

if TYPE_CHECKING:
    from peftcli.base.anatomy import Anatomy
    from peftcli.base.base_model import BaseModel


class Parallel(Method):
    """Parallel adapter: a bottleneck beside the FFN of every layer reads the residual stream; its output is scaled."""

    card = Card(
        title="Scaled parallel adapter (He)",
        family="addition",
        paper="2110.04366",
        size_setting="bottleneck",
        mergeable=False,
        starts_at_base=True,
        learning_rate=1e-4,
        source="the authors' scripts for GLUE; 5e-5 on XSum",
    )

    bottleneck: PositiveInt = 16
    """Width inside the adapter: 16 on GLUE, 512 on XSum."""
    activation: Activation = "relu"
    """relu is published."""
    scale: PositiveFloat = 4.0
    """Of what the adapter adds: 4 on XSum and in translation, 2 on GLUE."""
    input: Literal["residual", "normed"] = "residual"
    """What the adapter reads: the residual stream, as published, or what the sublayer beside it reads."""
    placement: Annotated[tuple[Literal["parallel_ffn", "parallel_attention"], ...], Field(min_length=1)] = (
        "parallel_ffn",
    )
    """The sublayers that get an adapter beside them."""
    layers: Layers = "all"
    """The layers that get adapters: all, 8-11, [0, 5] or top:4."""

    def sizes(self, anatomy: Anatomy) -> dict[str, int]:
        a = self.bottleneck
        sites = sublayers(anatomy, self.placement, self.layers)
        return {s.address: 2 * s.d_out * a + a + s.d_out for s in sites}

    def attach(self, base: BaseModel) -> None:
        from peftcli.blocks import adapters, bottleneck  # torch only when something is computed

        adapters.beside_sublayers(
            base,
            sublayers(base.anatomy, self.placement, self.layers),
            lambda s: bottleneck.dense(
                (self.bottleneck, s.d_out), activation=self.activation, start="parallel", scale=self.scale
            ),
            normed=self.input == "normed",
        )
