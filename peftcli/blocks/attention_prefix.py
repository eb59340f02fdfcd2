"""Trained keys and values beside an attention's own, put in where transformers computes attention.

Inside the attention function a prefix needs no key-value cache, shifts no position, and knows no model: the same code
serves encoders, decoders, cross-attention and vision, generation with a cache and gradient checkpointing. A prefix may
share the softmax of the real keys (``PrefixedAttention``) or add a term that has one of its own (``gated_prompt``).
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import eager_mask, sdpa_mask

from peftcli.base.sites import Site
from peftcli.delta.block import Block, innermost

KEY = "peftcli_prefixes"  # where an attention module finds its prefixes while its block runs it

Attended = tuple[Tensor, Tensor | None]  # (batch, queries, query heads, head_width), and weights if there are some


@dataclass(frozen=True)
class Sight:
    """What queries see. Shapes: key, value (batch, key/value heads, keys, head_width); mask (..., queries, keys)."""

    key: Tensor
    value: Tensor
    mask: Tensor | None
    kwargs: dict[str, Any]


Attention = Callable[[Sight], Attended]


class Beside(Protocol):
    """What stands beside an attention while it is computed."""

    def widened(self, module: nn.Module, query: Tensor, sight: Sight) -> Sight:
        """Return what the queries see, in one softmax with the real keys."""

    def extended(self, attention: Attention, sight: Sight, attended: Tensor) -> Tensor:
        """Return the attention's result with what has a softmax of its own; ``sight`` is without any prefix."""


class AttentionBlock(Block):
    """Wraps an attention module and stands beside it where attention is computed; by default it changes nothing."""

    def widened(self, module: nn.Module, query: Tensor, sight: Sight) -> Sight:
        """Return what the queries see, in one softmax with the real keys."""
        return sight

    def extended(self, attention: Attention, sight: Sight, attended: Tensor) -> Tensor:
        """Return the attention's result with what has a softmax of its own; ``sight`` is without any prefix."""
        return attended

    def adapted(self, *args: Any, **kwargs: Any) -> Any:  # noqa: ANN401
        beside = innermost(self.wrapped).__dict__.setdefault(KEY, [])
        beside.append(self)
        try:
            return self.wrapped(*args, **kwargs)
        finally:
            beside.pop()


class Start(Protocol):
    """What prefixes may start as."""

    def of(self, attention: nn.Module, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Return keys and values for one attention, each (key/value heads, prefix_length, head_width)."""


class PrefixEncoder(nn.Module):
    """The re-parameterisation that all layers share: tanh(W1 E + b1); each layer owns its rows of W2.

    Shapes: embedding (prefix_length, width), W1 (hidden, width); returns (prefix_length, hidden).
    """

    def __init__(self, length: int, width: int, hidden: int) -> None:
        super().__init__()
        self.embedding = nn.Parameter(torch.empty(length, width))
        self.project = nn.Linear(width, hidden)
        self.filled = False

    def initialise(self, generator: torch.Generator) -> None:
        """Fill the parameters once, whichever of the layers that share them asks first."""
        if not self.filled:
            nn.init.normal_(self.embedding, generator=generator)
            _linear_start(self.project.weight, self.project.bias, generator)
            self.filled = True

    def forward(self) -> Tensor:
        return torch.tanh(self.project(self.embedding))


class PrefixedAttention(AttentionBlock):
    """Wraps an attention module; every query also sees ``length`` trained keys and values.

    Shapes: keys and values (key/value heads, prefix_length, head_width).
    """

    def __init__(
        self,
        wrapped: nn.Module,
        site: Site,
        *,
        length: int,
        encoder: PrefixEncoder | None,
        start: Start | None = None,
    ) -> None:
        super().__init__(wrapped, site.address)
        self.start = start
        assert site.heads is not None
        self.shape = (site.heads.key_value, length, site.heads.width)
        self.encoder = encoder
        if encoder is None:
            self.keys = nn.Parameter(torch.empty(self.shape))
            self.values = nn.Parameter(torch.empty(self.shape))
            self.keys.no_decay = self.values.no_decay = True  # type: ignore[attr-defined]
        else:
            self.expand = nn.Linear(encoder.project.out_features, 2 * site.heads.key_value * site.heads.width)

    @torch.no_grad()
    def initialise(self, generator: torch.Generator) -> None:
        if self.start is not None:
            keys, values = self.start.of(innermost(self.wrapped), generator)
            self.keys.copy_(keys)
            self.values.copy_(values)
            self.start = None
        elif self.encoder is None:
            nn.init.normal_(self.keys, generator=generator)
            nn.init.normal_(self.values, generator=generator)
        else:
            self.encoder.initialise(generator)
            _linear_start(self.expand.weight, self.expand.bias, generator)

    def prefix(self) -> tuple[Tensor, Tensor]:
        """Return keys and values, each (key/value heads, prefix_length, head_width)."""
        if self.encoder is None:
            return self.keys, self.values
        heads, length, width = self.shape
        keys, values = self.expand(self.encoder()).view(length, 2, heads, width).permute(1, 2, 0, 3)
        return keys, values

    @torch.no_grad()
    def pack(self) -> None:
        """Keep what the re-parameterisation computes and drop it."""
        if self.encoder is not None:
            keys, values = (t.contiguous().clone() for t in self.prefix())
            self.encoder = None
            del self.expand
            self.keys, self.values = nn.Parameter(keys), nn.Parameter(values)

    def widened(self, module: nn.Module, query: Tensor, sight: Sight) -> Sight:
        keys, values = (t.to(sight.key.dtype).expand(len(query), -1, -1, -1) for t in self.prefix())
        mask = _explicit_mask(module, query, sight)
        added = (*mask.shape[:-1], keys.shape[2])
        seen = mask.new_ones(added) if mask.dtype == torch.bool else mask.new_zeros(added)
        kwargs = {**sight.kwargs, "is_causal": False} if sight.kwargs.get("is_causal") else sight.kwargs
        bias = kwargs.get("position_bias")
        if bias is not None:  # T5's relative positions: a prefix has none
            kwargs = {**kwargs, "position_bias": torch.cat([bias.new_zeros(*bias.shape[:-1], keys.shape[2]), bias], -1)}
        return Sight(
            torch.cat([keys, sight.key], 2), torch.cat([values, sight.value], 2), torch.cat([seen, mask], -1), kwargs
        )


def install(network: PreTrainedModel) -> None:
    """Make ``network`` compute attention by the functions below; without a prefix nothing changes, bit for bit."""
    current = network.config._attn_implementation
    if current not in IMPLEMENTATIONS:
        network.set_attn_implementation("peftcli_eager" if current == "eager" else "peftcli_sdpa")


def shift_positions(network: nn.Module, block: PrefixedAttention) -> None:
    """Let real tokens start at position ``prefix_length``, as a prefix in the key-value cache would."""

    def hook(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        if not block.enabled:
            return args, kwargs
        positions = kwargs.get("position_ids")
        if positions is None:
            ids = kwargs["input_ids"] if "input_ids" in kwargs else args[0]
            cache = kwargs.get("past_key_values")
            seen = cache.get_seq_length() if cache is not None else 0
            positions = torch.arange(seen, seen + ids.shape[1], device=ids.device)[None].expand(ids.shape[0], -1)
        return args, {**kwargs, "position_ids": positions + block.shape[1]}

    network.register_forward_pre_hook(hook, with_kwargs=True)


def attend_sdpa(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    **kwargs: Any,  # noqa: ANN401
) -> Attended:
    """Attend with torch's fused attention, prefixes included."""
    return _attend(sdpa_attention_forward, module, query, Sight(key, value, attention_mask, kwargs))


def attend_eager(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    **kwargs: Any,  # noqa: ANN401
) -> Attended:
    """Attend with the family's own eager function (Gemma 2's soft cap lives only there), prefixes included."""
    eager = vars(sys.modules[type(module).__module__])["eager_attention_forward"]
    return _attend(eager, module, query, Sight(key, value, attention_mask, kwargs))


def _attend(function: Callable[..., Attended], module: nn.Module, query: Tensor, sight: Sight) -> Attended:
    beside: Sequence[Beside] = module.__dict__.get(KEY, ())
    wide = sight
    for one in beside:
        wide = one.widened(module, query, wide)
    attention = partial(_compute, function, module, query)
    attended, weights = attention(wide)
    for one in beside:
        attended = one.extended(attention, sight, attended)
    return attended, weights


def _compute(function: Callable[..., Attended], module: nn.Module, query: Tensor, sight: Sight) -> Attended:
    return function(module, query, sight.key, sight.value, sight.mask, **sight.kwargs)


def _explicit_mask(module: nn.Module, query: Tensor, sight: Sight) -> Tensor:
    """Return a mask in any case: with none, scaled dot-product attention crops keys longer than the queries."""
    if sight.mask is not None:
        return sight.mask
    queries, keys = query.shape[2], sight.key.shape[2]
    mask = torch.ones(1, 1, queries, keys, dtype=torch.bool, device=query.device)
    causal = sight.kwargs.get("is_causal")
    return mask.tril(keys - queries) if (getattr(module, "is_causal", False) if causal is None else causal) else mask


def _linear_start(weight: Tensor, bias: Tensor, generator: torch.Generator) -> None:
    """Fill like ``nn.Linear`` does, from ``generator``."""
    bound = weight.shape[1] ** -0.5
    nn.init.uniform_(weight, -bound, bound, generator=generator)
    nn.init.uniform_(bias, -bound, bound, generator=generator)


# Attention and mask, always both: an attention without a mask function silently gets no mask at all.
IMPLEMENTATIONS = {"peftcli_sdpa": (attend_sdpa, sdpa_mask), "peftcli_eager": (attend_eager, eager_mask)}
for _name, (_attention, _mask) in IMPLEMENTATIONS.items():
    AttentionInterface.register(_name, _attention)
    AttentionMaskInterface.register(_name, _mask)
