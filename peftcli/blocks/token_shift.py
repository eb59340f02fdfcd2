"""A shift of a projection's output by one vector, whose length each token sets: y + (alpha . x + c) v."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F

from peftcli.base.sites import Site
from peftcli.blocks.linear_maps import FILLS
from peftcli.blocks.weight_delta import WeightDelta, overlaps


class TokenWeight(nn.Module):
    """How far a token is shifted: alpha . x + c. Shapes: alpha (d_in,), c (1,); x (..., d_in), returns (..., 1)."""

    def __init__(self, d_in: int) -> None:
        super().__init__()
        self.alpha = nn.Parameter(torch.empty(d_in))
        self.c = nn.Parameter(torch.empty(1))
        self.filled = False

    def initialise(self, generator: torch.Generator) -> None:
        """Fill the parameters once, whichever of the layers that share them asks first."""
        if not self.filled:
            FILLS["kaiming"](self.alpha[None].detach(), generator)
            nn.init.zeros_(self.c)
            self.filled = True

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.linear(x, self.alpha[None], self.c)


class TokenShift(WeightDelta):
    """Delta W = v alpha^T and Delta b = c v. v starts at zero, so training starts at the base model.

    Shapes: v (d_out,).
    """

    def __init__(self, wrapped: nn.Module, site: Site, shared: nn.ModuleDict | None) -> None:
        super().__init__(wrapped, site)
        self.v = nn.Parameter(torch.empty(site.d_out))
        if shared is not None:
            self.shared = shared
        else:
            self.token = TokenWeight(site.d_in)

    @property
    def weight_of_token(self) -> TokenWeight:
        """What sets the length of the shift: this layer's own, or that of its whole stack."""
        found = self.shared[self.site.stack] if "shared" in self._modules else self.token
        assert isinstance(found, TokenWeight)
        return found

    def initialise(self, generator: torch.Generator) -> None:
        self.weight_of_token.initialise(generator)
        nn.init.zeros_(self.v)

    def branch(self, x: torch.Tensor) -> torch.Tensor:
        shift: torch.Tensor = self.weight_of_token(x) * self.v
        return shift

    def delta_rows(self, rows: slice) -> torch.Tensor:
        return torch.outer(self.v[rows], self.weight_of_token.alpha)

    def folds(self) -> tuple[str, ...]:
        # Without a bias nothing can hold c v.
        return ("weight", "bias") if self.site.bias else ()

    @torch.no_grad()
    def fold(self, name: str, tensor: torch.Tensor, rows: slice) -> torch.Tensor:
        if name != "bias":
            return super().fold(name, tensor, rows)
        for start, stop, offset in overlaps(self.site, rows, self.site.d_out):
            shift = self.weight_of_token.c * self.v[offset : offset + stop - start]
            tensor[start - rows.start : stop - rows.start] += shift
        return tensor
