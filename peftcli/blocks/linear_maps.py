"""Linear maps y = W x + b whose matrix is dense or a product of two: what bottlenecks are made of."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Literal

import torch
from torch import nn
from torch.nn import functional as F

Fill = Literal["zero", "normal", "truncated", "kaiming", "glorot", "identity"]

FILLS: dict[str, Callable[[torch.Tensor, torch.Generator], object]] = {
    "zero": lambda tensor, _: nn.init.zeros_(tensor),
    "normal": lambda tensor, generator: nn.init.normal_(tensor, std=0.02, generator=generator),
    # Houlsby's code: a normal cut off at two standard deviations.
    "truncated": lambda tensor, generator: nn.init.trunc_normal_(
        tensor, std=1e-3, a=-2e-3, b=2e-3, generator=generator
    ),
    "kaiming": lambda tensor, generator: nn.init.kaiming_uniform_(tensor, a=math.sqrt(5), generator=generator),
    "glorot": lambda tensor, generator: nn.init.xavier_uniform_(tensor, gain=math.sqrt(2), generator=generator),
    # AdapterFusion's code: nearly, so that no two entries of a row are the same for ever.
    "identity": lambda tensor, _: nn.init.constant_(tensor, 1e-6).data.fill_diagonal_(1.0),
}


class LinearMap(nn.Module):
    """y = W x + b; a subclass says what W is made of. Shapes: x (..., d_in); returns (..., d_out)."""

    bias: nn.Parameter | None

    def __init__(self, d_out: int, *, bias: bool = True) -> None:
        super().__init__()
        self.register_parameter("bias", nn.Parameter(torch.empty(d_out)) if bias else None)

    def initialise(self, generator: torch.Generator) -> None:
        """Fill the parameters; the bias starts at zero."""
        if self.bias is not None:
            nn.init.zeros_(self.bias)

    def matrix(self) -> torch.Tensor:
        """Return W, (d_out, d_in)."""
        raise NotImplementedError

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.linear(x, self.matrix(), self.bias)


class Dense(LinearMap):
    """Shapes: weight (d_out, d_in), bias (d_out,)."""

    def __init__(self, d_in: int, d_out: int, *, fill: Fill, bias: bool = True) -> None:
        super().__init__(d_out, bias=bias)
        self.fill = fill
        self.weight = nn.Parameter(torch.empty(d_out, d_in))

    def initialise(self, generator: torch.Generator) -> None:
        super().initialise(generator)
        FILLS[self.fill](self.weight, generator)

    def matrix(self) -> torch.Tensor:
        return self.weight


class Product(LinearMap):
    """W = left right, of rank ``rank``. Shapes: left (d_out, rank), right (rank, d_in), bias (d_out,)."""

    def __init__(self, d_in: int, d_out: int, *, rank: int, fill: Fill) -> None:
        super().__init__(d_out)
        self.fill = fill
        self.left = nn.Parameter(torch.empty(d_out, rank))
        self.right = nn.Parameter(torch.empty(rank, d_in))

    def initialise(self, generator: torch.Generator) -> None:
        super().initialise(generator)
        FILLS["glorot"](self.right, generator)
        FILLS[self.fill](self.left, generator)  # one zero factor is enough; two would never move

    def matrix(self) -> torch.Tensor:
        return self.left @ self.right
