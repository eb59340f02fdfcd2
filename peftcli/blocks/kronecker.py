"""Linear maps whose matrix is a sum of Kronecker products, W = sum_i C_i (x) S_i, y = x W + b."""

from __future__ import annotations

import torch
from torch import nn

from peftcli.blocks.linear_maps import FILLS, LinearMap


class Rule(nn.Module):
    """The small matrices C_i of the products; one rule may serve many maps. Shapes: C (terms, terms, terms)."""

    def __init__(self, terms: int) -> None:
        super().__init__()
        self.C = nn.Parameter(torch.empty(terms, terms, terms))
        self.filled = False

    def initialise(self, generator: torch.Generator) -> None:
        """Fill the parameters once, whichever of the maps that share them asks first."""
        if not self.filled:
            nn.init.normal_(self.C, std=1e-4, generator=generator)
            self.filled = True


class Kronecker(LinearMap):
    """A parameterised hypercomplex map; with a rank, S_i = s_i t_i.

    Shapes: S (terms, d_in / terms, d_out / terms), or s (terms, d_in / terms, rank) and
    t (terms, rank, d_out / terms); bias (d_out,).
    """

    def __init__(self, d_in: int, d_out: int, *, rule: Rule, rank: int | None = None) -> None:
        super().__init__(d_out)
        self.rule = rule
        n = len(rule.C)
        self.factored = rank is not None
        if rank is None:
            self.S = nn.Parameter(torch.empty(n, d_in // n, d_out // n))
        else:
            self.s = nn.Parameter(torch.empty(n, d_in // n, rank))
            self.t = nn.Parameter(torch.empty(n, rank, d_out // n))

    def initialise(self, generator: torch.Generator) -> None:
        super().initialise(generator)
        self.rule.initialise(generator)
        for tensor in (self.s, self.t) if self.factored else (self.S,):
            for term in tensor:
                FILLS["glorot"](term, generator)

    def matrix(self) -> torch.Tensor:
        terms = self.s @ self.t if self.factored else self.S
        # Row p * (d_in / terms) + a, column q * (d_out / terms) + b of W holds sum_i C[i, p, q] S[i, a, b].
        return torch.einsum("ipq,iab->qbpa", self.rule.C, terms).flatten(2).flatten(0, 1)
