"""A weight taken apart into magnitude and direction: W' = m * V / ||V|| with V = W + scale * B A."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F

from peftcli.base.sites import Site
from peftcli.blocks.low_rank import LowRank
from peftcli.blocks.scale import scale_outputs
from peftcli.blocks.weight_delta import add_to_rows
from peftcli.delta.block import innermost


class DecomposedLowRank(LowRank):
    """Every row of V gets a trained length; the norm is a constant to the gradient.

    With B zero and m the norms of the base model's own rows, training starts at the base model.

    Shapes: A (rank, d_in), B (d_out, rank), magnitude (d_out,), norm (d_out,).
    """

    alone = True
    norm: torch.Tensor

    def __init__(self, wrapped: nn.Module, site: Site, *, rank: int, scale: float, dropout: float) -> None:
        super().__init__(wrapped, site, rank=rank, scale=scale, dropout=dropout)
        self.magnitude = nn.Parameter(torch.empty(site.d_out))
        # A merge sees a few stored rows at a time: of a weight stored transposed, never a whole row of V.
        self.register_buffer("norm", torch.empty(site.d_out))

    @torch.no_grad()
    def initialise(self, generator: torch.Generator) -> None:
        super().initialise(generator)
        if self.base_weight().is_meta:  # a network without numbers: those of the delta are loaded next
            nn.init.ones_(self.magnitude)
            self.norm.fill_(1.0)
        else:
            self.norm.copy_(self.norms())
            self.magnitude.copy_(self.norm)

    def base_weight(self) -> torch.Tensor:
        """Return this site's part of the base model's weight, in float32. Shapes: (d_out, d_in)."""
        weight = innermost(self).weight  # of a quantised layer: unpacked
        assert isinstance(weight, torch.Tensor)
        return _part(weight.T if self.site.transposed else weight, self.site, dim=0).float()

    @torch.no_grad()
    def norms(self) -> torch.Tensor:
        """Return ||V|| of every row; of a row of zeros the least positive number, for it stays what it is."""
        with torch.autocast(self.A.device.type, enabled=False):
            moved = self.base_weight() + self.delta_rows(slice(None))
            lengths: torch.Tensor = torch.linalg.vector_norm(moved, dim=1)
        return lengths.clamp_min(torch.finfo(lengths.dtype).tiny)

    @torch.no_grad()
    def pack(self) -> None:
        self.norm.copy_(self.norms())

    def adapted(self, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = self.wrapped(x)
        h = self.dropped(x.to(self.A.dtype))
        factor = self.magnitude / self.norms()
        moved = F.linear(F.linear(h, self.A), self.B) * self.scale
        dy = (factor - 1) * self._base_result(y, h) + factor * moved
        return add_to_rows(y, dy.to(y.dtype), self.site)

    def _base_result(self, y: torch.Tensor, h: torch.Tensor) -> torch.Tensor:
        """Return W h. Without dropout ``y`` holds it beside the bias; with it, h is not what y was made of."""
        if self.dropout and self.training:
            return F.linear(h, self.base_weight())
        result = _part(y, self.site, dim=-1).to(h.dtype)
        if not self.site.bias:
            return result
        return result - _part(innermost(self).get_parameter("bias"), self.site, dim=0)

    @torch.no_grad()
    def fold(self, name: str, tensor: torch.Tensor, rows: slice) -> torch.Tensor:
        moved = super().fold(name, tensor, rows)
        return scale_outputs(moved, self.magnitude / self.norm, self.site, rows)


def _part(tensor: torch.Tensor, site: Site, dim: int) -> torch.Tensor:
    """Return those outputs along ``dim`` that are this site's part: a copy where they are not all."""
    if site.rows is None:
        return tensor
    return torch.cat([tensor.narrow(dim, start, stop - start) for start, stop in site.rows], dim)
