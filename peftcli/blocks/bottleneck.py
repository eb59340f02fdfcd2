"""A bottleneck: scale * (U act(D z + b_D) + b_U), the function inside an adapter wherever the adapter stands."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
from torch import nn
from torch.nn import functional as F

from peftcli.blocks.linear_maps import Dense, Fill, LinearMap
from peftcli.delta.placements import Activation

Start = Literal["zero_up", "houlsby", "bert", "parallel"]

ACTIVATIONS: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "gelu": F.gelu,
    "relu": F.relu,
    "swish": F.silu,
    "tanh": torch.tanh,
}
STARTS: dict[str, tuple[Fill, Fill]] = {  # of D and of U
    "zero_up": ("normal", "zero"),
    "houlsby": ("truncated", "truncated"),
    "bert": ("normal", "normal"),
    "parallel": ("kaiming", "zero"),
}


class OwnNorm(nn.Module):
    """A layer norm that comes with the adapter. Shapes: gain, shift (width,)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.empty(width))
        self.shift = nn.Parameter(torch.empty(width))

    def initialise(self) -> None:
        """Fill the parameters: at first it only normalises."""
        nn.init.ones_(self.gain)
        nn.init.zeros_(self.shift)

    def forward(self, z: torch.Tensor) -> torch.Tensor:
        return F.layer_norm(z, self.gain.shape, self.gain, self.shift)


class Bottleneck(nn.Module):
    """Computes from z (..., width) what is added to the network, (..., d_out); ``down`` and ``up`` are D and U."""

    def __init__(
        self,
        down: LinearMap,
        up: LinearMap,
        *,
        activation: Activation | None = None,
        scale: float = 1.0,
        norm: OwnNorm | None = None,
    ) -> None:
        super().__init__()
        self.norm = norm
        self.down = down
        self.up = up
        self.activation = ACTIVATIONS[activation] if activation else None
        self.scale = scale

    def initialise(self, generator: torch.Generator) -> None:
        """Fill the parameters."""
        if self.norm is not None:
            self.norm.initialise()
        self.down.initialise(generator)
        self.up.initialise(generator)

    def forward(self, z: torch.Tensor) -> torch.Tensor:
        z = self.down(z if self.norm is None else self.norm(z))
        added: torch.Tensor = self.up(self.activation(z) if self.activation else z)
        return added if self.scale == 1.0 else added * self.scale


def dense(shape: tuple[int, int], *, activation: Activation, start: Start, scale: float = 1.0) -> Bottleneck:
    """Return a bottleneck of dense matrices with biases.

    Args:
        shape: (bottleneck, width).
    """
    return Bottleneck(*_matrices(shape, start), activation=activation, scale=scale)


def normed(shape: tuple[int, int], *, activation: Activation, start: Start) -> Bottleneck:
    """Return such a bottleneck behind a norm of its own."""
    return Bottleneck(*_matrices(shape, start), activation=activation, norm=OwnNorm(shape[1]))


def unbiased(
    widths: tuple[int, int], bottleneck: int, *, activation: Activation, start: Start, scale: float
) -> Bottleneck:
    """Return a bottleneck of dense matrices without biases.

    Args:
        widths: Of what it reads and of what it adds.
    """
    down, up = STARTS[start]
    return Bottleneck(
        Dense(widths[0], bottleneck, fill=down, bias=False),
        Dense(bottleneck, widths[1], fill=up, bias=False),
        activation=activation,
        scale=scale,
    )


def rank_one(width: int) -> Bottleneck:
    """Return u (v . z), with u zero at the start."""
    return Bottleneck(Dense(width, 1, fill="kaiming", bias=False), Dense(1, width, fill="zero", bias=False))


def _matrices(shape: tuple[int, int], start: Start) -> tuple[Dense, Dense]:
    bottleneck, width = shape
    down, up = STARTS[start]
    return Dense(width, bottleneck, fill=down), Dense(bottleneck, width, fill=up)
