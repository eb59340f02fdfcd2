"""Prefix tuning: attention over [P_K; K] and [P_V; V], with P_K and P_V trained in every layer.

Li and Liang, "Prefix-Tuning: Optimizing Continuous Prompts for Generation", 2021, arXiv:2101.00190, section 4. While
training, P = W2 tanh(W1 E + b1) + b2 (section 4.3); only P is kept.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, Self

from peftcli.delta.method import Card, Method, PeftLayout
from peftcli.delta.targets import Layers
from peftcli.errors import MethodError
from peftcli.recipe.recipe import PositiveInt

if TYPE_CHECKING:
    from peftcli.base.anatomy import Anatomy
    from peftcli.base.base_model import BaseModel
    from peftcli.base.sites import Site
    from peftcli.delta.delta import Delta


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
        source="GPT-2 and BART with the re-parameterisation, table 6",
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
    positions: Literal["unchanged", "shifted"] = "unchanged"
    """Whether real tokens keep their positions, or start at prefix_length as in the authors' code and in peft."""
    layers: Layers = "all"
    """The layers that get a prefix: all, 8-11, [0, 5] or top:4."""

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
        sites = self._sites(base.anatomy)
        for site in sites:
            made = block.PrefixedAttention(base.module(site), site, length=length, encoder=encoder)
            base.replace(site, made)
        block.install(base.network)
        if self.positions == "shifted":
            block.shift_positions(base.network, made)

    def packed(self) -> Self:
        return self.model_copy(update={"reparameterise": False})

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
