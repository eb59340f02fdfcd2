"""Prompt tuning: X' = [P; E(x)], only the soft prompt P (prompt_length, embedding width) trains.

Lester et al., "The Power of Scale for Parameter-Efficient Prompt Tuning", 2021, arXiv:2104.08691, section 2.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from peftcli.delta.method import Card, Method, PeftLayout, VirtualTokens
from peftcli.errors import MethodError
from peftcli.recipe.recipe import PositiveInt

if TYPE_CHECKING:
    from peftcli.base.anatomy import Anatomy
    from peftcli.base.base_model import BaseModel
    from peftcli.delta.delta import Delta


class Prompt(Method):
    """Prompt tuning: trained vectors before the input of a frozen model."""

    card = Card(
        title="Prompt tuning",
        family="addition",
        paper="2104.08691",
        size_setting="prompt_length",
        mergeable=False,
        starts_at_base=False,
        learning_rate=0.3,
        head_learning_rate=1e-3,
        source="T5 with Adafactor, section 3.1",
        traps=(
            "AdamW often prefers 1e-2 to 1e-1",
            "the prompt takes up positions: prompt_length and max_length share what the model allows",
        ),
    )

    prompt_length: PositiveInt = 20
    """Trained vectors."""
    start: Literal["vocabulary", "random"] = "vocabulary"
    """Rows of the embedding drawn at random, or uniform numbers in [-0.5, 0.5]."""
    placement: Literal["auto", "start", "after_first"] = "auto"
    """Before every token, or after the first; auto is after the first where the first token is pooled (encoders)."""

    def sizes(self, anatomy: Anatomy) -> dict[str, int]:
        allowed = anatomy.max_positions
        if allowed is not None and self.prompt_length >= allowed:
            raise MethodError(
                f"method.prompt_length is {self.prompt_length}, but {anatomy.family} has {allowed} positions",
                hint="Write a shorter prompt: the text needs positions too.",
            )
        return {"embeddings": self.prompt_length * anatomy.embedding_width}

    def attach(self, base: BaseModel) -> None:
        from peftcli.blocks.soft_prompt import SoftPrompt  # torch only when something is computed

        if not base.anatomy.vocabulary:
            raise MethodError(f"prompt needs token embeddings, and {base.anatomy.family} has none")
        sites = base.anatomy.sites(("embeddings",))
        block = SoftPrompt(
            base.module(sites[0]),
            "embeddings",
            shape=(self.prompt_length, base.anatomy.embedding_width),
            vocabulary=base.anatomy.vocabulary,
            start=self.start,
        )
        for site in sites:  # an encoder and a decoder look their tokens up in one table
            base.replace(site, block)

    def virtual_tokens(self, anatomy: Anatomy) -> VirtualTokens:
        first = anatomy.arch == "encoder" if self.placement == "auto" else self.placement == "after_first"
        return VirtualTokens(count=self.prompt_length, first_id=anatomy.vocabulary, after=int(first))

    def peft_layout(self, delta: Delta) -> PeftLayout | str:
        """Return peft's PROMPT_TUNING form, where peft computes the same."""
        from peftcli.blocks.soft_prompt import SoftPrompt

        anatomy = delta.base.anatomy
        if self.virtual_tokens(anatomy).after:
            return "peft puts the prompt before the first token; train with method.placement=start"
        if (anatomy.arch != "decoder" and anatomy.arch != "encoder") or (delta.head and anatomy.arch == "decoder"):
            return f"peft computes something else for prompts on {anatomy.family} here"
        block = next(b for _, b in delta.blocks() if isinstance(b, SoftPrompt))
        config = {
            "peft_type": "PROMPT_TUNING",
            "num_virtual_tokens": self.prompt_length,
            "token_dim": anatomy.embedding_width,
            "num_layers": sum(anatomy.layers.values()),
            "num_attention_heads": 1,
            "num_transformer_submodules": 1,
            "prompt_tuning_init": "RANDOM",
        }
        return PeftLayout(config=config, tensors={"prompt_embeddings": block.prompt.detach().cpu()}, exact=True)
