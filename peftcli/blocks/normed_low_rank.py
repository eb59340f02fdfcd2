"""Low-rank branches with a normalisation in them, which makes them no change of weights."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F

from peftcli.base.sites import Site
from peftcli.blocks.low_rank import LowRank

EPSILON = 1e-6


class NormedInput(LowRank):
    """Adds scale * B A LN(x). Shapes: A (rank, d_in), B (d_out, rank), norm_weight and norm_bias (d_in,)."""

    def __init__(self, wrapped: nn.Module, site: Site, *, rank: int, scale: float, dropout: float) -> None:
        super().__init__(wrapped, site, rank=rank, scale=scale, dropout=dropout)
        width = self.normed_width()
        self.norm_weight = nn.Parameter(torch.empty(width))
        self.norm_bias = nn.Parameter(torch.empty(width))

    def normed_width(self) -> int:
        """Return how many numbers are normalised together."""
        return self.A.shape[1]

    def initialise(self, generator: torch.Generator) -> None:
        super().initialise(generator)
        nn.init.ones_(self.norm_weight)
        nn.init.zeros_(self.norm_bias)

    def branch(self, x: torch.Tensor) -> torch.Tensor:
        return super().branch(self.norm(x))

    def norm(self, x: torch.Tensor) -> torch.Tensor:
        """Return ``x`` with mean zero and deviation one, then scaled and shifted."""
        return F.layer_norm(x, self.norm_weight.shape, self.norm_weight, self.norm_bias, EPSILON)

    def folds(self) -> tuple[str, ...]:
        return ()


class NormedBottleneck(NormedInput):
    """Adds scale * B LN(A x). Shapes: A (rank, d_in), B (d_out, rank), norm_weight and norm_bias (rank,)."""

    def normed_width(self) -> int:
        return self.A.shape[0]

    def branch(self, x: torch.Tensor) -> torch.Tensor:
        return F.linear(self.norm(F.linear(self.dropped(x), self.A)), self.B) * self.scale
