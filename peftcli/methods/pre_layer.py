"""PreLayer: at l_p positions before the prompt and l_i after it, every layer reads a trained vector as its input.

Hu et al., "LoRA: Low-Rank Adaptation of Large Language Models", 2021, arXiv:2106.09685, section 5.1 (prefix-layer
tuning): what the embeddings and every layer but the last compute there is replaced, so that the last layer's output
predicts the first token of the completion. The formula of the paper, layers * width * (l_p + l_i), is what trains
here: 18,874,368 in GPT-3 with 8 + 8, where the paper prints 20.2M. Our reading: an encoder has no infix.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field

from peftcli.delta.method import Card, Method, VirtualTokens
from peftcli.errors import MethodError
from peftcli.recipe.recipe import PositiveInt

if TYPE_CHECKING:
    from peftcli.base.anatomy import Anatomy
    from peftcli.base.base_model import BaseModel
    from peftcli.base.sites import Site


class PreLayer(Method):
    """PreLayer: trained vectors in place of the hidden states of new tokens, at the entry of every layer."""

    card = Card(
        title="Prefix-layer tuning (PreLayer)",
        family="addition",
        paper="2106.09685",
        size_setting="prefix_length",
        mergeable=False,
        starts_at_base=False,
        learning_rate=1e-4,
        source="GPT-3 175B with 8 + 8 tokens, appendix D.4; 5e-5 with little data",
        traps=(
            "more than 32 tokens were worse",
            "beside LoRA it was worse than LoRA alone (table 15)",
            "the tokens take up positions: they and max_length share what the model allows",
        ),
    )

    prefix_length: PositiveInt = 8
    """Trained positions before the text (in an encoder, after its first token, which is pooled)."""
    infix_length: Literal["auto"] | Annotated[int, Field(ge=0)] = "auto"
    """Trained positions after each row's prompt; auto is the published 8 in a decoder, and none elsewhere."""

    def sizes(self, anatomy: Anatomy) -> dict[str, int]:
        size = self.virtual_tokens(anatomy).count * anatomy.width
        return {_address(s): size for s in anatomy.sites(("attention",))}

    def attach(self, base: BaseModel) -> None:
        from peftcli.blocks.layer_inputs import Batch, LayerInputs, Positions  # torch only when something is computed

        virtual, batch = self.virtual_tokens(base.anatomy), Batch()
        shape = (virtual.count, base.anatomy.width)
        for site in base.sites(("embeddings",)):
            base.replace(site, Positions(base.module(site), virtual.first_id, batch))
        for site in base.sites(("attention",)):  # one in every layer
            layer = base.layer(site)
            base.replace(layer, LayerInputs(base.module(layer), _address(site), shape=shape, batch=batch))

    def virtual_tokens(self, anatomy: Anatomy) -> VirtualTokens:
        if anatomy.arch == "encoder-decoder":
            raise MethodError(
                f"pre_layer is for one stack of layers, and {anatomy.family} has two",
                hint="Use prefix, which trains keys and values in each.",
            )
        auto = 8 if anatomy.arch == "decoder" else 0
        return VirtualTokens.of(
            anatomy, self.prefix_length, infix=auto if self.infix_length == "auto" else self.infix_length
        )


def _address(site: Site) -> str:
    return f"layers.{site.layer}.input"
