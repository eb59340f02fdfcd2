"""A prompt of one attention: keys and values by the frozen projections, a softmax of their own, a gate that opens."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from peftcli.base.sites import Site
from peftcli.blocks.attention_prefix import Attention, AttentionBlock, Sight
from peftcli.delta.block import innermost

Gate = Literal["per_head_tanh", "scalar"]


class GatedPrompt(AttentionBlock):
    """Adds g * softmax(Q K_p^T) V_p, with K_p = W_k P and V_p = W_v P, to what the attention's heads compute.

    The gate starts at zero, so training starts at the base model. P goes through whatever stands at W_k and W_v: a
    LoRA of the same stack too.

    Shapes: prompt (prompt_length, width); gate (query heads,), or (1,) for all of them.
    """

    def __init__(self, wrapped: nn.Module, site: Site, *, projections: Sequence[Site], length: int, gate: Gate) -> None:
        super().__init__(wrapped, site.address)
        assert site.heads is not None
        assert len(projections) == 2, "W_k and W_v"
        self.heads = site.heads
        self.projections = [(p.path.removeprefix(f"{site.path}."), p.rows) for p in projections]
        self.per_head = gate == "per_head_tanh"
        self.prompt = nn.Parameter(torch.empty(length, site.d_in))
        self.gate = nn.Parameter(torch.empty(site.heads.query if self.per_head else 1))
        self.prompt.no_decay = self.gate.no_decay = True  # type: ignore[attr-defined]

    def initialise(self, generator: torch.Generator) -> None:
        nn.init.normal_(self.prompt, generator=generator)
        nn.init.zeros_(self.gate)

    def extended(self, attention: Attention, sight: Sight, attended: Tensor) -> Tensor:
        keys, values = self._keys_and_values(sight)
        # No mask, no relative positions, no dropout: these are the base model's, for its own keys.
        kwargs = {n: v for n, v in sight.kwargs.items() if n != "position_bias"}
        added, _ = attention(Sight(keys, values, None, {**kwargs, "is_causal": False, "dropout": 0.0}))
        gate = torch.tanh(self.gate) if self.per_head else self.gate
        return attended + (gate[:, None] * added).to(attended.dtype)

    def _keys_and_values(self, sight: Sight) -> tuple[Tensor, Tensor]:
        """Return both as the real ones are held. Shapes: (batch, key/value heads, prompt_length, head_width)."""
        attention, prompt = innermost(self.wrapped), self.prompt.to(sight.key.dtype)
        made = []
        for (name, rows), real in zip(self.projections, (sight.key, sight.value), strict=True):
            whole: Tensor = attention.get_submodule(name)(prompt)
            own = whole if rows is None else torch.cat([whole[:, start:stop] for start, stop in rows], 1)
            heads = own.view(len(prompt), self.heads.key_value, self.heads.width).transpose(0, 1)
            made.append(heads.to(real.dtype).expand(len(real), -1, -1, -1))
        return made[0], made[1]
