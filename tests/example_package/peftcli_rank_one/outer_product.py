"""A weight delta of rank one: Delta W = u v."""

from __future__ import annotations

import torch
from torch import nn

from peftcli.base.sites import Site
from peftcli.blocks.weight_delta import WeightDelta


class OuterProduct(WeightDelta):
    """Shapes: u (d_out,), v (d_in,). u starts at zero, so training starts at the base model."""

    def __init__(self, wrapped: nn.Module, site: Site) -> None:
        super().__init__(wrapped, site)
        self.u = nn.Parameter(torch.empty(site.d_out))
        self.v = nn.Parameter(torch.empty(site.d_in))

    def initialise(self, generator: torch.Generator) -> None:
        nn.init.zeros_(self.u)
        nn.init.normal_(self.v, std=self.site.d_in**-0.5, generator=generator)

    def delta_rows(self, rows: slice) -> torch.Tensor:
        return torch.outer(self.u[rows], self.v)
