"""A weight delta of low rank: Delta W = scale * B A."""

from __future__ import annotations

import math

import torch
from torch import nn
from torch.nn import functional as F

from peftcli.base.sites import Site
from peftcli.blocks.weight_delta import WeightDelta


class LowRank(WeightDelta):
    """Shapes: A (rank, d_in), B (d_out, rank). B starts at zero, so training starts at the base model."""

    def __init__(self, wrapped: nn.Module, site: Site, *, rank: int, scale: float, dropout: float) -> None:
        super().__init__(wrapped, site)
        self.scale = scale
        self.dropout = dropout
        self.A = nn.Parameter(torch.empty(rank, site.d_in))
        self.B = nn.Parameter(torch.empty(site.d_out, rank))

    def initialise(self, generator: torch.Generator) -> None:
        # a = sqrt(5) makes this U(-1/sqrt(d_in), 1/sqrt(d_in)), as loralib and Hugging Face peft do.
        nn.init.kaiming_uniform_(self.A, a=math.sqrt(5), generator=generator)
        nn.init.zeros_(self.B)

    def branch(self, x: torch.Tensor) -> torch.Tensor:
        return F.linear(F.linear(self.dropped(x), self.A), self.B) * self.scale

    def dropped(self, x: torch.Tensor) -> torch.Tensor:
        """Return ``x`` with some of its numbers dropped, in training."""
        return F.dropout(x, self.dropout, self.training) if self.dropout else x

    def delta_rows(self, rows: slice) -> torch.Tensor:
        return self.scale * (self.B[rows] @ self.A)

    def delta_columns(self, columns: slice) -> torch.Tensor:
        # As a layer that stores its weight transposed would multiply: to the last bit what others fold into it.
        return (self.scale * (self.A[:, columns].T @ self.B.T)).T
