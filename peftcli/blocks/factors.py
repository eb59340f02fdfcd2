"""Factor-tuning: every matrix moves by slots U Sigma V, with U and V shared by all matrices of the network."""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import nn
from torch.nn import functional as F

from peftcli.base.sites import Site
from peftcli.blocks.weight_delta import WeightDelta


class Factors(nn.Module):
    """What all matrices share: U, V and, in the Tucker form (with a number of slots), the core C.

    Shapes: U (width, rank), V (rank, width), C (rank, rank, rank). V starts at zero.
    """

    def __init__(self, width: int, rank: int, *, slots: int | None) -> None:
        super().__init__()
        self.slots = slots
        self.filled = False
        self.U = nn.Parameter(torch.empty(width, rank))
        self.V = nn.Parameter(torch.empty(rank, width))
        self.C = nn.Parameter(torch.empty(rank, rank, rank)) if slots is not None else None

    def initialise(self, generator: torch.Generator) -> None:
        """Fill the parameters once, whichever of the matrices that share them asks first."""
        if self.filled:
            return
        _uniform(self.U, len(self.U) ** -0.5, generator)
        nn.init.zeros_(self.V)
        if self.C is not None:
            nn.init.xavier_uniform_(self.C, generator=generator)
        self.filled = True


class FactorDelta(WeightDelta):
    """One matrix, cut into (width, width) slots; what reaches beyond the matrix is not used.

    The paper multiplies from the left, x W. So for slot (i, j), x_j U Sigma_ij V is added to y_i, and Delta W, stored
    (d_out, d_in) here, holds the transpose of each slot.

    Shapes: Sigma (rows of slots, columns of slots, rank, rank), or P (rows of slots, columns of slots, rank).
    """

    def __init__(self, wrapped: nn.Module, site: Site, *, shared: Factors, scale: float, dropout: float) -> None:
        super().__init__(wrapped, site)
        self.shared = shared
        self.scale = scale
        self.dropout = dropout
        width, rank = shared.U.shape
        slots = (math.ceil(site.d_out / width), math.ceil(site.d_in / width), rank)
        if shared.C is None:
            self.Sigma = nn.Parameter(torch.empty(*slots, rank))
        else:
            self.P = nn.Parameter(torch.empty(slots))

    def initialise(self, generator: torch.Generator) -> None:
        self.shared.initialise(generator)
        rank = len(self.shared.V)
        if self.shared.slots is None:
            _uniform(self.Sigma, (self.Sigma.shape[1] * rank) ** -0.5, generator)
        else:  # Xavier's bound for the whole (rank, slots) matrix, of which this is a part
            _uniform(self.P, math.sqrt(6 / (rank + self.shared.slots)), generator)

    def branch(self, x: torch.Tensor) -> torch.Tensor:
        sigma = self._sigma()
        columns, width = sigma.shape[1], len(self.shared.U)
        padded = F.pad(x, (0, columns * width - x.shape[-1])).view(*x.shape[:-1], columns, width)
        z = torch.einsum("...jr,ijrs->...is", padded @ self.shared.U, sigma)
        z = F.dropout(z, self.dropout, self.training) if self.dropout else z
        return (z @ self.shared.V).flatten(-2)[..., : self.site.d_out] * self.scale

    def delta_rows(self, rows: slice) -> torch.Tensor:
        return self.scale * torch.cat([self._rows(i, inside) for i, inside in self._tiles(rows)])

    def _tiles(self, rows: slice) -> Iterator[tuple[int, slice]]:
        """Return the rows of slots that ``rows`` meet, and which of their rows."""
        width = len(self.shared.U)
        start, stop, _ = rows.indices(self.site.d_out)
        for i in range(start // width, math.ceil(stop / width)):
            first = i * width
            yield i, slice(max(start - first, 0), min(stop - first, width))

    def _rows(self, i: int, inside: slice) -> torch.Tensor:
        left = self.shared.V[:, inside].T  # (rows, rank)
        slots = [left @ sigma.T @ self.shared.U.T for sigma in self._sigma()[i]]
        return torch.cat(slots, 1)[:, : self.site.d_in]

    def _sigma(self) -> torch.Tensor:
        return self.Sigma if self.shared.C is None else torch.einsum("ijk,krs->ijrs", self.P, self.shared.C)


def _uniform(tensor: torch.Tensor, bound: float, generator: torch.Generator) -> None:
    nn.init.uniform_(tensor, -bound, bound, generator=generator)
