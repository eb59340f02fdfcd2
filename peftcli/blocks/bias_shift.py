"""A shift of the biases of one part of a fused projection, whose bias is one tensor for all parts."""

from __future__ import annotations

import torch
from torch import nn

from peftcli.base.sites import Site
from peftcli.blocks.weight_delta import add_to_rows, overlaps
from peftcli.delta.block import Block, Order


class BiasShift(Block):
    """Shapes: shift (d_out,). It starts at zero, so training starts at the base model."""

    order = Order.BIAS
    site: Site

    def __init__(self, wrapped: nn.Module, site: Site) -> None:
        super().__init__(wrapped, site.address)
        self.site = site
        self.shift = nn.Parameter(torch.empty(site.d_out))

    def initialise(self, generator: torch.Generator) -> None:
        nn.init.zeros_(self.shift)

    def adapted(self, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = self.wrapped(x)
        return add_to_rows(y, self.shift.to(y.dtype), self.site)

    def folds(self) -> tuple[str, ...]:
        return ("bias",)

    @torch.no_grad()
    def fold(self, name: str, tensor: torch.Tensor, rows: slice) -> torch.Tensor:
        if name == "bias":
            for start, stop, offset in overlaps(self.site, rows, self.site.d_out):
                tensor[start - rows.start : stop - rows.start] += self.shift[offset : offset + stop - start]
        return tensor
