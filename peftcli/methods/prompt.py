"""Prompt tuning: X' = [P; E(x)], only the soft prompt P (prompt_length, embedding width) trains.

Lester et al., "The Power of Scale for Parameter-Efficient Prompt Tuning", 2021, arXiv:2104.08691.
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
    from torch import Tensor

    from peftcli.base.anatomy import Anatomy
    from peftcli.base.base_model import BaseModel
    from peftcli.delta.delta import Delta
    from peftcli.delta.peft_form import PeftForm


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
        source="T5 with Adafactor",
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
        from peftcli.blocks.soft_prompt import prompt_layout

        if self.virtual_tokens(delta.base.anatomy).after:
            return "peft puts the prompt before the first token; train with method.placement=start"
        return prompt_layout(delta)

    @classmethod
    def from_peft(cls, form: PeftForm, anatomy: Anatomy) -> Self | None:
        if form.kind != "PROMPT_TUNING":
            return None
        if anatomy.arch not in ("decoder", "encoder") or (anatomy.arch == "decoder" and anatomy.task != "causal-lm"):
            raise form.refuse(f"peft computes something else for prompts on {anatomy.family} here")
        length, shape = form.config["num_virtual_tokens"], None if form.prompt is None else tuple(form.prompt.shape)
        wanted = (length, anatomy.embedding_width)
        if shape != wanted or form.modules:
            raise form.refuse(f"prompt_embeddings is {shape}, but on this base model it would be {wanted}")
        return cls.model_validate({"prompt_length": length, "start": "random", "placement": "start"})

    def take_peft(self, form: PeftForm, delta: Delta) -> dict[str, Tensor]:
        from peftcli.blocks.soft_prompt import SoftPrompt

        assert form.prompt is not None
        return {b.address_of("prompt"): form.prompt for _, b in delta.blocks() if isinstance(b, SoftPrompt)}
