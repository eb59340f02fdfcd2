"""A linear layer whose weight is moved by a delta: W' = W + Delta W."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F

from peftcli.base.sites import Site
from peftcli.delta.block import Block, Order


class WeightDelta(Block):
    """Wraps the linear layer of a projection. A subclass says what the delta is; merging follows from it.

    Deltas stack: in GPT-2, W_q and W_v are two parts of one fused projection, so one delta wraps the other.

    Shapes:
        W: (d_out, d_in), or (d_in, d_out) where the layer stores it transposed (GPT-2's Conv1D).
        delta: (d_out, d_in); in a fused projection d_out counts the rows of this site's part alone.
    """

    order = Order.WEIGHT
    site: Site

    def __init__(self, wrapped: nn.Module, site: Site) -> None:
        super().__init__(wrapped, site.address)
        self.site = site

    @property
    def dtype(self) -> torch.dtype:
        """How the delta is held."""
        return next(self.parameters(recurse=False)).dtype

    def branch(self, x: torch.Tensor) -> torch.Tensor:
        """Return what the delta adds for ``x``. Shapes: x (..., d_in); returns (..., d_out)."""
        return F.linear(x, self.delta_rows(slice(None)))

    def delta_rows(self, rows: slice) -> torch.Tensor:
        """Return rows ``rows`` of Delta W, in float32."""
        raise NotImplementedError

    def delta_columns(self, columns: slice) -> torch.Tensor:
        """Return columns ``columns`` of Delta W, in float32."""
        return self.delta_rows(slice(None))[:, columns]

    def adapted(self, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = self.wrapped(x)
        # The delta is float32 even on a bfloat16 base: the branch is computed so, and its result cast back.
        dy = self.branch(x.to(self.dtype)).to(y.dtype)
        return add_to_rows(y, dy, self.site)

    def folds(self) -> tuple[str, ...]:
        return ("weight",)

    @torch.no_grad()
    def fold(self, name: str, tensor: torch.Tensor, rows: slice) -> torch.Tensor:
        if name != "weight":
            return tensor
        if self.site.transposed:
            return add_to_rows(tensor, self.delta_columns(rows).T, self.site)
        for start, stop, offset in overlaps(self.site, rows, self.site.d_out):
            tensor[start - rows.start : stop - rows.start] += self.delta_rows(slice(offset, offset + stop - start))
        return tensor


def add_to_rows(y: torch.Tensor, dy: torch.Tensor, site: Site) -> torch.Tensor:
    """Add ``dy`` to those output features in ``y`` that are this site's part. ``y`` is fresh and may be overwritten.

    Shapes: y (..., every output of the module); dy (..., d_out).
    """
    if site.rows is None:
        return y + dy
    offset = 0
    for start, stop in site.rows:
        y[..., start:stop] += dy[..., offset : offset + stop - start]
        offset += stop - start
    return y


def overlaps(site: Site, rows: slice, d_out: int) -> list[tuple[int, int, int]]:
    """Return where the stored rows ``rows`` meet this site's: (first row, end row, first row of the delta)."""
    found, offset = [], 0
    for start, stop in site.rows or ((0, d_out),):
        first, end = max(start, rows.start), min(stop, rows.stop)
        if first < end:
            found.append((first, end, offset + first - start))
        offset += stop - start
    return found
