"""Matrices that move along random directions which never train: Delta W = diag(b) B diag(d) A, A and B drawn once."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from peftcli.base.sites import Site
from peftcli.blocks.weight_delta import WeightDelta


class RandomPair(nn.Module):
    """The frozen A and B of all matrices: drawn from a seed, which travels in their place.

    A smaller matrix takes the first columns of A and the first rows of B.

    Shapes: A (rank, widest input), B (widest output, rank), seed ().
    """

    seed: Tensor

    def __init__(self, rank: int, d_in: int, d_out: int) -> None:
        super().__init__()
        self.shapes = ((rank, d_in), (d_out, rank))
        self.filled = False
        self.register_buffer("seed", torch.zeros((), dtype=torch.int64))
        self._drawn: tuple[object, tuple[Tensor, Tensor]] | None = None

    def initialise(self, generator: torch.Generator) -> None:
        """Choose the seed once, whichever of the matrices asks first."""
        if not self.filled:
            self.seed.copy_(torch.randint(2**62, (), generator=generator))
            self.filled = True

    @torch.inference_mode(False)  # what is drawn for an evaluation must serve training too
    def drawn(self, device: torch.device) -> tuple[Tensor, Tensor]:
        """Return A and B, drawn when they are first needed and after the seed was loaded or moved."""
        key = (self.seed.data_ptr(), self.seed._version, device)
        if self._drawn is None or self._drawn[0] != key:
            generator = torch.Generator().manual_seed(int(self.seed))
            A, B = (nn.init.kaiming_uniform_(torch.empty(shape), generator=generator) for shape in self.shapes)
            self._drawn = (key, (A.to(device), B.to(device)))
        return self._drawn[1]


class RandomBasisDelta(WeightDelta):
    """One matrix. Shapes: b (d_out,), d (rank,). b starts at zero, so training starts at the base model."""

    def __init__(self, wrapped: nn.Module, site: Site, *, shared: RandomPair, start: float) -> None:
        super().__init__(wrapped, site)
        self.shared = shared
        self.start = start
        self.b = nn.Parameter(torch.empty(site.d_out))
        self.d = nn.Parameter(torch.empty(shared.shapes[0][0]))

    def initialise(self, generator: torch.Generator) -> None:
        self.shared.initialise(generator)
        nn.init.zeros_(self.b)
        nn.init.constant_(self.d, self.start)

    def pair(self) -> tuple[Tensor, Tensor]:
        """Return this matrix's part of A and B. Shapes: (rank, d_in), (d_out, rank)."""
        A, B = (matrix.to(self.b.dtype) for matrix in self.shared.drawn(self.b.device))
        return A[:, : self.site.d_in], B[: self.site.d_out]

    def branch(self, x: Tensor) -> Tensor:
        A, B = self.pair()
        return F.linear(F.linear(x, A) * self.d, B) * self.b

    def delta_rows(self, rows: slice) -> Tensor:
        A, B = self.pair()
        return (self.b[rows, None] * B[rows] * self.d) @ A
