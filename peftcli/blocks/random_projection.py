"""Matrices that move in a random subspace: Delta W = lambda P v, with P fixed and v shared by the whole network."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable
from functools import cache
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from peftcli.base.sites import Site
from peftcli.blocks.weight_delta import WeightDelta

DENSE_DEVIATION = 0.01
RADIX = 64  # a Hadamard transform goes by small dense ones: few passes over memory, and the gradient is autograd's

Projection = Callable[[Tensor], Tensor]


class IntrinsicVector(nn.Module):
    """The vector behind all matrices, and the seed of their projections, which travels with it.

    Shapes: vector (dimension,), seed (). The vector starts at zero.
    """

    seed: Tensor

    def __init__(self, dimension: int, *, projection: Literal["fastfood", "dense"]) -> None:
        super().__init__()
        self.projection = projection
        self.filled = False
        self.vector = nn.Parameter(torch.empty(dimension))
        self.register_buffer("seed", torch.zeros((), dtype=torch.int64))
        self.last: tuple[object, Tensor] | None = None

    def initialise(self, generator: torch.Generator) -> None:
        """Fill what is shared once, whichever of the matrices asks first."""
        if not self.filled:
            nn.init.zeros_(self.vector)
            self.seed.copy_(torch.randint(2**62, (), generator=generator))
            self.filled = True


class ProjectedDelta(WeightDelta):
    """One matrix: Delta W = scale * P v, row by row. Shapes: scale (), where it is trained."""

    def __init__(self, wrapped: nn.Module, site: Site, *, shared: IntrinsicVector, scaled: bool) -> None:
        super().__init__(wrapped, site)
        self.shared = shared
        self.scale = nn.Parameter(torch.empty(())) if scaled else None
        if self.scale is not None:
            self.scale.no_decay = True  # type: ignore[attr-defined]
        self._drawn: tuple[object, Projection] | None = None

    @property
    def dtype(self) -> torch.dtype:
        return self.shared.vector.dtype

    def initialise(self, generator: torch.Generator) -> None:
        self.shared.initialise(generator)
        if self.scale is not None:
            nn.init.ones_(self.scale)

    def branch(self, x: Tensor) -> Tensor:
        return F.linear(x, self.delta())

    def delta(self) -> Tensor:
        """Return the whole of Delta W."""
        moved = self._projection()(self.shared.vector).view(self.site.d_out, self.site.d_in)
        return moved if self.scale is None else moved * self.scale

    def delta_rows(self, rows: slice) -> Tensor:
        # A merge asks for a matrix a few rows at a time; the whole is kept until it asks for another one.
        vector = self.shared.vector
        key = (self, *(_identity(t) for t in (vector, self.shared.seed, self.scale) if t is not None))
        if self.shared.last is None or self.shared.last[0] != key:
            self.shared.last = (key, self.delta().detach())
        return self.shared.last[1][rows]

    @torch.inference_mode(False)  # what is drawn for an evaluation must serve training too
    def _projection(self) -> Projection:
        """Return P, drawn from the seed when it is first needed and after the seed was loaded or moved."""
        seed, device = self.shared.seed, self.shared.vector.device
        key = (_identity(seed), device)
        if self._drawn is None or self._drawn[0] != key:
            digest = hashlib.sha256(f"{int(seed)}:{self.site.address}".encode()).digest()
            generator = torch.Generator().manual_seed(int.from_bytes(digest[:8], "big") >> 1)
            draw = fastfood if self.shared.projection == "fastfood" else dense
            size = self.site.d_out * self.site.d_in
            self._drawn = (key, draw(size, len(self.shared.vector), generator, device))
        return self._drawn[1]


def fastfood(size: int, dimension: int, generator: torch.Generator, device: torch.device) -> Projection:
    """Draw P = H G Pi H B / c, whose columns have a norm of about 1 (Le et al. 2013).

    B is a diagonal of signs, Pi a permutation, G a normal diagonal, H a Hadamard matrix; c = |G| sqrt(size).

    Returns:
        v -> P v. Shapes: v (dimension,); returns (size,).
    """
    short = _power_of_two(dimension)
    padded = max(_power_of_two(size), short)
    signs = (torch.randint(2, (dimension,), generator=generator) * 2 - 1).float()
    # v fills the first entries alone, so H B v repeats what a transform of v's own length gives.
    places = (torch.randperm(padded, generator=generator) % short).int().to(device)
    normal = torch.randn(padded, generator=generator)
    normal = (normal / (normal.norm() * math.sqrt(size))).to(device)
    signs = signs.to(device)

    def project(vector: Tensor) -> Tensor:
        short_transform = hadamard(F.pad(vector * signs, (0, short - dimension)))
        return hadamard(short_transform.index_select(0, places) * normal)[:size]

    return project


def dense(size: int, dimension: int, generator: torch.Generator, device: torch.device) -> Projection:
    """Draw a normal P and return v -> P v."""
    matrix = (torch.randn(size, dimension, generator=generator) * DENSE_DEVIATION).to(device)
    return lambda vector: matrix @ vector


def hadamard(x: Tensor) -> Tensor:
    """Multiply by the Hadamard matrix of x's length, a power of two, in Sylvester's order and without a scale."""
    done = 1
    while done < len(x):
        radix = min(RADIX, len(x) // done)
        small = _hadamard_matrix(radix).to(x)
        # Next to each other, numbers go through one product of matrices, which many products with a vector are not.
        x = (x.view(-1, radix) @ small if done == 1 else small @ x.view(-1, radix, done)).reshape(-1)
        done *= radix
    return x


@cache
@torch.inference_mode(False)
def _hadamard_matrix(size: int) -> Tensor:
    matrix = torch.ones(1, 1)
    while len(matrix) < size:
        matrix = torch.kron(matrix, torch.tensor([[1.0, 1.0], [1.0, -1.0]]))
    return matrix


def _power_of_two(size: int) -> int:
    return 1 << (size - 1).bit_length()


def _identity(tensor: Tensor) -> tuple[int, int, int]:
    """Return what changes when a tensor is written to or moved."""
    return id(tensor), tensor.data_ptr(), tensor._version
