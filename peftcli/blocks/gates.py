"""Gates: one number per example, by which what a block adds is multiplied (UniPELT)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from peftcli.base.base_model import BaseModel
from peftcli.base.sites import Site
from peftcli.blocks.attention_prefix import PrefixedAttention, PrefixEncoder
from peftcli.blocks.bottleneck import Bottleneck
from peftcli.blocks.linear_maps import LinearMap
from peftcli.blocks.low_rank import LowRank
from peftcli.delta.placements import Activation


class RealTokens:
    """Hears which tokens of the batch are real, from what the network is called with."""

    def __init__(self, base: BaseModel) -> None:
        self.mask: Tensor | None = None
        base.network.register_forward_pre_hook(self._hear, with_kwargs=True)

    def _hear(self, _: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self.mask = kwargs.get("attention_mask")


class Gate(nn.Module):
    """The mean over an example's tokens of sigmoid(w x + b): over the real ones where ``real`` is given, else over all.

    Shapes: weight (width,), bias (); x (batch, tokens, width); returns (batch, 1, 1).
    """

    def __init__(self, width: int, real: RealTokens | None) -> None:
        super().__init__()
        self.real = real
        self.weight = nn.Parameter(torch.empty(width))
        self.bias = nn.Parameter(torch.empty(()))
        self.weight.no_decay = self.bias.no_decay = True  # type: ignore[attr-defined]

    def initialise(self, generator: torch.Generator) -> None:
        """Fill the parameters: at first every gate is about half open."""
        nn.init.normal_(self.weight, std=0.02, generator=generator)
        nn.init.zeros_(self.bias)

    def forward(self, x: Tensor) -> Tensor:
        opened = torch.sigmoid(x.to(self.weight.dtype) @ self.weight + self.bias)
        mask = self.real.mask if self.real is not None else None
        if mask is None:
            return opened.mean(1)[:, None, None]
        real = mask.to(opened.dtype)
        return ((opened * real).sum(1) / real.sum(1).clamp_min(1))[:, None, None]


class GatedLowRank(LowRank):
    """A low-rank delta times its gate, which stands where alpha / rank would: it is no change of weights any more."""

    def __init__(self, wrapped: nn.Module, site: Site, *, rank: int, dropout: float, gate: Gate) -> None:
        super().__init__(wrapped, site, rank=rank, scale=1.0, dropout=dropout)
        self.gate = gate

    def initialise(self, generator: torch.Generator) -> None:
        super().initialise(generator)
        self.gate.initialise(generator)

    def branch(self, x: Tensor) -> Tensor:
        moved: Tensor = super().branch(x) * self.gate(x)
        return moved

    def folds(self) -> tuple[str, ...]:
        return ()


class GatedBottleneck(Bottleneck):
    """What an adapter adds, times a gate that reads what the adapter reads."""

    def __init__(self, down: LinearMap, up: LinearMap, *, activation: Activation, gate: Gate) -> None:
        super().__init__(down, up, activation=activation)
        self.gate = gate

    def initialise(self, generator: torch.Generator) -> None:
        super().initialise(generator)
        self.gate.initialise(generator)

    def forward(self, z: Tensor) -> Tensor:
        added: Tensor = super().forward(z) * self.gate(z)
        return added


class GatedPrefix(PrefixedAttention):
    """Trained keys and values, both times a gate that reads what the attention reads."""

    def __init__(
        self, wrapped: nn.Module, site: Site, *, length: int, encoder: PrefixEncoder | None, gate: Gate
    ) -> None:
        super().__init__(wrapped, site, length=length, encoder=encoder)
        self.gate = gate
        self._opened: Tensor | None = None

    def initialise(self, generator: torch.Generator) -> None:
        super().initialise(generator)
        self.gate.initialise(generator)

    def adapted(self, *args: Any, **kwargs: Any) -> Any:  # noqa: ANN401
        self._opened = self.gate(args[0] if args else kwargs["hidden_states"])[..., None]
        try:
            return super().adapted(*args, **kwargs)
        finally:
            self._opened = None

    def prefix(self) -> tuple[Tensor, Tensor]:
        """Return keys and values; while attention is computed, gated: (batch, heads, prefix_length, head_width)."""
        keys, values = super().prefix()
        return (keys, values) if self._opened is None else (keys * self._opened, values * self._opened)
