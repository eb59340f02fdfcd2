"""Scales: what enters or leaves a linear layer, multiplied number by number."""

from __future__ import annotations

import torch
from torch import nn

from peftcli.base.sites import Site
from peftcli.blocks.weight_delta import overlaps
from peftcli.delta.block import Block, Order


class OutputScale(Block):
    """y = scale * (W x + b), on the outputs that are this site's part.

    Shapes: scale (d_out,). It starts at one, so training starts at the base model.
    """

    order = Order.SCALE
    site: Site

    def __init__(self, wrapped: nn.Module, site: Site) -> None:
        super().__init__(wrapped, site.address)
        self.site = site
        self.scale = nn.Parameter(torch.empty(site.d_out))

    def initialise(self, generator: torch.Generator) -> None:
        nn.init.ones_(self.scale)

    def adapted(self, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = self.wrapped(x)
        scaled = y.to(self.scale.dtype) * by_output(self.scale, self.site, slice(0, y.shape[-1]))
        return scaled.to(y.dtype)

    def folds(self) -> tuple[str, ...]:
        return ("weight", "bias") if self.site.bias else ("weight",)

    @torch.no_grad()
    def fold(self, name: str, tensor: torch.Tensor, rows: slice) -> torch.Tensor:
        return scale_outputs(tensor, self.scale, self.site, rows)


class InputScale(Block):
    """y = W (scale * x) + b. Shapes: scale (d_in,). It starts at one, so training starts at the base model."""

    order = Order.SCALE
    site: Site

    def __init__(self, wrapped: nn.Module, site: Site) -> None:
        super().__init__(wrapped, site.address)
        self.site = site
        self.scale = nn.Parameter(torch.empty(site.d_in))

    def initialise(self, generator: torch.Generator) -> None:
        nn.init.ones_(self.scale)

    def adapted(self, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = self.wrapped((x.to(self.scale.dtype) * self.scale).to(x.dtype))
        return y

    def folds(self) -> tuple[str, ...]:
        return ("weight",)

    @torch.no_grad()
    def fold(self, name: str, tensor: torch.Tensor, rows: slice) -> torch.Tensor:
        return tensor * (self.scale[rows, None] if self.site.transposed else self.scale)


def by_output(scale: torch.Tensor, site: Site, outputs: slice) -> torch.Tensor:
    """Return the factors of the outputs ``outputs`` of a module: one beside those that are this site's part.

    Shapes: scale (d_out,); returns (outputs,).
    """
    if site.rows is None:
        return scale[outputs]
    factors = scale.new_ones(outputs.stop - outputs.start)
    for start, stop, offset in overlaps(site, outputs, site.d_out):
        factors[start - outputs.start : stop - outputs.start] = scale[offset : offset + stop - start]
    return factors


def scale_outputs(tensor: torch.Tensor, scale: torch.Tensor, site: Site, rows: slice) -> torch.Tensor:
    """Return stored rows ``rows`` of a weight or of a bias with this site's outputs scaled."""
    if tensor.ndim == 1:
        return tensor * by_output(scale, site, rows)
    if site.transposed:
        return tensor * by_output(scale, site, slice(0, tensor.shape[1]))
    return tensor * by_output(scale, site, rows)[:, None]
