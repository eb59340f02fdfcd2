"""Prefix tuning: attention over [P_K; K] and [P_V; V], with P_K and P_V trained in every layer.

Li and Liang, "Prefix-Tuning: Optimizing Continuous Prompts for Generation", 2021, arXiv:2101.00190. While
training, P = W2 tanh(W1 E + b1) + b2 as there; only P is kept. ``reparameterise: false`` is P-tuning v2 (Liu et
al., 2021, arXiv:2110.07602), also called a multi-layer prompt.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Literal, Self

from pydantic import PrivateAttr, model_validator
from pydantic_core import PydanticCustomError

from peftcli.delta.method import Card, Method, PeftLayout, read_start
from peftcli.delta.targets import Layers
from peftcli.errors import MethodError
from peftcli.recipe.recipe import PositiveInt

if TYPE_CHECKING:
    from torch import Tensor

    from peftcli.base.anatomy import Anatomy
    from peftcli.base.base_model import BaseModel
    from peftcli.base.sites import Site
    from peftcli.blocks.activations import Activations
    from peftcli.delta.delta import Delta
    from peftcli.delta.peft_form import PeftForm


class Prefix(Method):
    """Prefix tuning: trained keys and values in front of those of every attention."""

    card = Card(
        title="Prefix tuning",
        family="addition",
        paper="2101.00190",
        size_setting="prefix_length",
        mergeable=False,
        starts_at_base=False,
        learning_rate=5e-5,
        source="GPT-2 and BART with the re-parameterisation, the authors' code",
        traps=(
            "a zero prefix is not the base model: it takes part of the softmax",
            "rates from 5e-3 to 1e-2 are published for flat prefixes (P-tuning v2, arXiv:2110.07602)",
        ),
    )

    prefix_length: PositiveInt = 10
    """Trained positions per layer."""
    reparameterise: bool = True
    """Train through a small network that is dropped at the end, as published; false trains keys and values flat."""
    hidden: PositiveInt = 512
    """Width of that network."""
    start: Literal["random", "activations"] = "random"
    """Random numbers, or what the frozen base model makes of real tokens (keys rotated to the first positions)."""
    start_text: str | None = None
    """With start: activations, these tokens, repeated or cut to prefix_length; otherwise any of the vocabulary."""
    positions: Literal["unchanged", "shifted"] = "unchanged"
    """Whether real tokens keep their positions, or start at prefix_length as in the authors' code and in peft."""
    layers: Layers = "all"
    """The layers that get a prefix: all, 8-11, [0, 5] or top:4."""

    _start_ids: tuple[int, ...] = PrivateAttr(default=())

    @model_validator(mode="after")
    def _flat_for_activations(self) -> Self:
        what = ""
        if self.start == "activations" and self.reparameterise:
            what, hint = "method.start is activations, which only a flat prefix can be", "Write reparameterise: false."
        elif self.start_text is not None and self.start == "random":
            what, hint = "method.start_text is given, but method.start is random", "Write start: activations."
        if what:
            raise PydanticCustomError("start", "{what}", {"what": what, "hint": hint})
        return self

    @property
    def learning_rate(self) -> float:
        """Flat prefixes need far larger steps: P-tuning v2's published range starts at 5e-3."""
        return self.card.learning_rate if self.reparameterise else 5e-3

    def sizes(self, anatomy: Anatomy) -> dict[str, int]:
        """Return what is kept: 2 * prefix_length * key/value heads * head width per attention."""
        n = 2 * self.prefix_length
        return {s.address: n * s.heads.key_value * s.heads.width for s in self._sites(anatomy) if s.heads}

    def attach(self, base: BaseModel) -> None:
        from peftcli.blocks import attention_prefix as block  # torch only when something is computed

        length, width = self.prefix_length, base.anatomy.width
        encoder = block.PrefixEncoder(length, width, self.hidden) if self.reparameterise else None
        start = self._activations(base) if self.start == "activations" else None
        for site in self._sites(base.anatomy):
            made = block.PrefixedAttention(base.module(site), site, length=length, encoder=encoder, start=start)
            base.replace(site, made)
        block.install(base.network)
        if self.positions == "shifted":
            block.shift_positions(base.network, made)

    def prepared(self, encode: Callable[[str], list[int]]) -> Self:
        if self.start_text is None:
            return self
        filled = self.model_copy()
        filled._start_ids = read_start(self.start_text, encode)
        return filled

    def packed(self) -> Self:
        finished = {"reparameterise": False, "start": "random", "start_text": None}
        return type(self).model_validate({**dict(self), **finished})

    def _activations(self, base: BaseModel) -> Activations:
        from peftcli.blocks.activations import Activations

        anatomy, longest = base.anatomy, base.anatomy.max_positions
        if self.start_text is not None and not self._start_ids:
            raise MethodError("method.start_text is given, and there is no tokenizer to read it with")
        if not anatomy.vocabulary or (longest is not None and self.prefix_length > longest):
            raise MethodError(
                f"{anatomy.family} cannot read {self.prefix_length} tokens for a prefix to start as",
                hint="Write start: random.",
            )
        return Activations(base, self.prefix_length, self._start_ids)

    def _sites(self, anatomy: Anatomy) -> list[Site]:
        if not anatomy.attention_interface:
            raise MethodError(
                f"prefix has no way into the attention of {anatomy.family}, which computes it by code of its own",
                hint="Use prompt or lora there.",
            )
        if self.positions == "shifted" and anatomy.arch != "decoder":
            raise MethodError(
                f"method.positions is shifted, but {anatomy.family} is no decoder: its tokens cannot start later",
                hint="Write positions: unchanged.",
            )
        return anatomy.sites(("attention",), self.layers)

    def peft_layout(self, delta: Delta) -> PeftLayout | str:
        """Return peft's PREFIX_TUNING form: (prefix_length, layers * 2 * key/value heads * head width)."""
        from peftcli.blocks.attention_prefix import PrefixedAttention

        if self.positions != "shifted":
            return "peft's prefixes shift the positions of the real tokens; train with method.positions=shifted"
        if self.layers != "all":
            return "peft's prefixes stand in every layer"
        blocks = [b for _, b in reversed(delta.blocks()) if isinstance(b, PrefixedAttention)]
        parts = [t.detach().cpu().transpose(0, 1).flatten(1) for b in blocks for t in b.prefix()]
        heads, _, width = blocks[0].shape
        import torch

        config = {
            "peft_type": "PREFIX_TUNING",
            "num_virtual_tokens": self.prefix_length,
            "num_layers": len(blocks),
            "num_attention_heads": heads,
            "token_dim": heads * width,
            "encoder_hidden_size": heads * width,
            "num_transformer_submodules": 1,
            "prefix_projection": False,
        }
        return PeftLayout(
            config=config, tensors={"prompt_embeddings": torch.cat(parts, 1)}, exact=not self.reparameterise
        )

    @classmethod
    def from_peft(cls, form: PeftForm, anatomy: Anatomy) -> Self | None:
        if form.kind != "PREFIX_TUNING":
            return None
        if anatomy.arch != "decoder":
            raise form.refuse(
                f"peft's prefixes shift positions, which {anatomy.family}, being no decoder, cannot do here"
            )
        length = form.config["num_virtual_tokens"]
        found = cls.model_validate({"prefix_length": length, "reparameterise": False, "positions": "shifted"})
        wanted = (length, found.count(anatomy) // length)
        shape = None if form.prompt is None else tuple(form.prompt.shape)
        if shape != wanted or form.modules:
            raise form.refuse(f"prompt_embeddings is {shape}, but on this base model it would be {wanted}")
        return found

    def take_peft(self, form: PeftForm, delta: Delta) -> dict[str, Tensor]:
        from peftcli.blocks.attention_prefix import PrefixedAttention

        assert form.prompt is not None
        found, column = {}, 0
        for block in (b for _, b in reversed(delta.blocks()) if isinstance(b, PrefixedAttention)):
            heads, length, width = block.shape
            for name in ("keys", "values"):
                part = form.prompt[:, column : column + heads * width].view(length, heads, width)
                found[block.address_of(name)] = part.transpose(0, 1).contiguous()
                column += heads * width
        return found
