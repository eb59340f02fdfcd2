"""Prompt tuning: X' = [P; E(x)], only the soft prompt P (prompt_length, embedding width) trains.

Lester et al., "The Power of Scale for Parameter-Efficient Prompt Tuning", 2021, arXiv:2104.08691, section 2.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Literal, Self

from pydantic import PrivateAttr, model_validator
from pydantic_core import PydanticCustomError

from peftcli.delta.method import Card, Method, PeftLayout, VirtualTokens, read_start
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
    start: Literal["vocabulary", "random", "text"] = "vocabulary"
    """Rows of the embedding drawn at random, uniform numbers in [-0.5, 0.5], or the rows of start_text."""
    start_text: str | None = None
    """With start: text, what the prompt begins as, such as the task in words; repeated or cut to its length."""
    placement: Literal["auto", "start", "after_first"] = "auto"
    """Before every token, or after the first; auto is after the first where the first token is pooled (encoders)."""
    _start_ids: tuple[int, ...] = PrivateAttr(default=())

    @model_validator(mode="after")
    def _text_for_text(self) -> Self:
        if (self.start == "text") != (self.start_text is not None):
            what = (
                "method.start is text, but there is no start_text"
                if self.start == "text"
                else (f"method.start_text is given, but method.start is {self.start}")
            )
            raise PydanticCustomError("start_text", "{what}", {"what": what, "hint": "Write both, or neither."})
        return self

    def prepared(self, encode: Callable[[str], list[int]]) -> Self:
        if self.start_text is None:
            return self
        filled = self.model_copy()
        filled._start_ids = read_start(self.start_text, encode)
        return filled

    def packed(self) -> Self:
        if self.start != "text":
            return self
        return type(self).model_validate({**dict(self), "start": "random", "start_text": None})

    def sizes(self, anatomy: Anatomy) -> dict[str, int]:
        return {"embeddings": self.virtual_tokens(anatomy).count * anatomy.embedding_width}

    def attach(self, base: BaseModel) -> None:
        from peftcli.blocks.soft_prompt import SoftPrompt  # torch only when something is computed

        if self.start == "text" and not self._start_ids:
            raise MethodError("method.start is text, and there is no tokenizer to read it with")
        virtual = self.virtual_tokens(base.anatomy)
        sites = base.anatomy.sites(("embeddings",))
        block = SoftPrompt(
            base.module(sites[0]),
            "embeddings",
            shape=(virtual.count, base.anatomy.embedding_width),
            vocabulary=virtual.first_id,
            start=self._start_ids or ("vocabulary" if self.start == "vocabulary" else "uniform"),
        )
        for site in sites:  # an encoder and a decoder look their tokens up in one table
            base.replace(site, block)

    def virtual_tokens(self, anatomy: Anatomy) -> VirtualTokens:
        after = None if self.placement == "auto" else int(self.placement == "after_first")
        return VirtualTokens.of(anatomy, self.prompt_length, after=after)

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
