"""Top layers: full fine-tuning of the last k layers, everything below frozen."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

from pydantic import Field

from peftcli.delta.method import Card, Method
from peftcli.errors import MethodError

if TYPE_CHECKING:
    from peftcli.base.anatomy import Anatomy, BaseTensor
    from peftcli.base.base_model import BaseModel


class TopLayers(Method):
    """Full fine-tuning of the last k layers; in an encoder-decoder, of the decoder's."""

    card = Card(
        title="Top layers",
        family="specification",
        paper=None,
        size_setting="count_layers",
        mergeable=True,
        starts_at_base=True,
        learning_rate=5e-5,
        source="as full fine-tuning",
        traps=(
            "only the layers train, not the norm after them or a pooler: 25,192,448 for two layers of GPT-2 medium",
        ),
    )

    count_layers: Annotated[int, Field(ge=1)] = 2
    """How many layers train, counted from the top."""

    def sizes(self, anatomy: Anatomy) -> dict[str, int]:
        return {anatomy.address(t.path): t.size for t in self._chosen(anatomy)}

    def attach(self, base: BaseModel) -> None:
        for tensor in self._chosen(base.anatomy):
            base.tensor(tensor.path).requires_grad_(True)

    def _chosen(self, anatomy: Anatomy) -> list[BaseTensor]:
        stack = "decoder" if "decoder" in anatomy.layers else next(iter(anatomy.layers))
        total = anatomy.layers[stack]
        if self.count_layers > total:
            raise MethodError(
                f"top_layers cannot train {self.count_layers} layers: the {stack} of {anatomy.family} has {total}",
                hint=f"Write method.count_layers of at most {total}.",
            )
        first = total - self.count_layers
        return [t for t in anatomy.tensors if t.stack == stack and t.layer is not None and t.layer >= first]
