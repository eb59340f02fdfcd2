"""A bottleneck: A(h) = h + U act(D h + b_D) + b_U, at the point where a sublayer's result leaves it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import torch
from torch import nn
from torch.nn import functional as F

from peftcli.delta.block import Block

Activation = Literal["gelu", "relu", "swish", "tanh"]
Start = Literal["zero_up", "houlsby", "bert"]

ACTIVATIONS: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "gelu": F.gelu,
    "relu": F.relu,
    "swish": F.silu,
    "tanh": torch.tanh,
}


class Bottleneck(Block):
    """Shapes: down (bottleneck, width), up (width, bottleneck), down_bias (bottleneck,), up_bias (width,)."""

    def __init__(
        self, wrapped: nn.Module, address: str, *, shape: tuple[int, int], activation: Activation, start: Start
    ) -> None:
        super().__init__(wrapped, address)
        self.activation = ACTIVATIONS[activation]
        self.start = start
        bottleneck, width = shape
        self.down = nn.Parameter(torch.empty(bottleneck, width))
        self.down_bias = nn.Parameter(torch.empty(bottleneck))
        self.up = nn.Parameter(torch.empty(width, bottleneck))
        self.up_bias = nn.Parameter(torch.empty(width))

    def initialise(self, generator: torch.Generator) -> None:
        nn.init.zeros_(self.down_bias)
        nn.init.zeros_(self.up_bias)
        if self.start == "houlsby":  # the authors' code: a normal cut off at two standard deviations
            for matrix in (self.down, self.up):
                nn.init.trunc_normal_(matrix, std=1e-3, a=-2e-3, b=2e-3, generator=generator)
        else:
            nn.init.normal_(self.down, std=0.02, generator=generator)
            nn.init.normal_(self.up, std=0.02, generator=generator)
        if self.start == "zero_up":
            nn.init.zeros_(self.up)

    def adapted(self, *args: Any, **kwargs: Any) -> torch.Tensor:  # noqa: ANN401
        h: torch.Tensor = self.wrapped(*args, **kwargs)
        z = h.to(self.down.dtype)
        z = F.linear(self.activation(F.linear(z, self.down, self.down_bias)), self.up, self.up_bias)
        return h + z.to(h.dtype)
