"""PreEmbed: [P; E(x); I; E(y)], trained vectors before the prompt x and between it and the completion y.

Hu et al., "LoRA: Low-Rank Adaptation of Large Language Models", 2021, arXiv:2106.09685, section 5.1 (prefix-embedding
tuning). Our reading: the vectors of a model that generates nothing all stand before the text. Without an infix this
is prompt tuning (arXiv:2104.08691) by other names.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field

from peftcli.delta.method import Card, Method, PeftLayout, VirtualTokens
from peftcli.recipe.recipe import PositiveInt

if TYPE_CHECKING:
    from peftcli.base.anatomy import Anatomy
    from peftcli.base.base_model import BaseModel
    from peftcli.delta.delta import Delta


class PreEmbed(Method):
    """PreEmbed: embeddings of new tokens before the prompt and between prompt and completion, alone trained."""

    card = Card(
        title="Prefix-embedding tuning (PreEmbed)",
        family="addition",
        paper="2106.09685",
        size_setting="prefix_length",
        mergeable=False,
        starts_at_base=False,
        learning_rate=5e-4,
        source="GPT-3 175B with 256 + 8 tokens, appendix D.4; 2e-4 to 4e-4 with little data",
        traps=(
            "more than 256 prefix tokens were worse; with little data 16 to 64 were published",
            "the tokens take up positions: they and max_length share what the model allows",
        ),
    )

    prefix_length: PositiveInt = 256
    """Trained embeddings before the text (in an encoder, after its first token, which is pooled)."""
    infix_length: Literal["auto"] | Annotated[int, Field(ge=0)] = "auto"
    """Trained embeddings after each row's prompt; auto is the published 8 in a decoder, and none elsewhere."""
    start: Literal["random", "vocabulary"] = "random"
    """Normal numbers with deviation 0.02, or rows of the embedding drawn at random."""

    def sizes(self, anatomy: Anatomy) -> dict[str, int]:
        return {"embeddings": self.virtual_tokens(anatomy).count * anatomy.embedding_width}

    def attach(self, base: BaseModel) -> None:
        from peftcli.blocks.soft_prompt import SoftPrompt  # torch only when something is computed

        virtual = self.virtual_tokens(base.anatomy)
        sites = base.anatomy.sites(("embeddings",))
        block = SoftPrompt(
            base.module(sites[0]),
            "embeddings",
            shape=(virtual.count, base.anatomy.embedding_width),
            vocabulary=virtual.first_id,
            start="vocabulary" if self.start == "vocabulary" else "normal",
        )
        for site in sites:  # an encoder and a decoder look their tokens up in one table
            base.replace(site, block)

    def virtual_tokens(self, anatomy: Anatomy) -> VirtualTokens:
        auto = 8 if anatomy.arch == "decoder" else 0
        return VirtualTokens.of(
            anatomy, self.prefix_length, infix=auto if self.infix_length == "auto" else self.infix_length
        )

    def peft_layout(self, delta: Delta) -> PeftLayout | str:
        """Return peft's PROMPT_TUNING form, which this is without an infix."""
        from peftcli.blocks.soft_prompt import prompt_layout

        virtual = self.virtual_tokens(delta.base.anatomy)
        if virtual.infix:
            return "peft has no vectors between prompt and completion; train with method.infix_length=0"
        if virtual.after:
            return "peft puts the vectors before the first token, which an encoder pools"
        return prompt_layout(delta)
