"""Gates that close for good: the hard-concrete distribution, and a change of a tensor behind one gate per entry.

Louizos et al., "Learning Sparse Neural Networks through L0 Regularization", 2017, arXiv:1712.01312.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from peftcli.blocks.tensor_change import WholeChange

LOW, HIGH = -1.5, 1.5
START = 5.0


def gate(alpha: Tensor, noise: Tensor | None = None) -> Tensor:
    """Return z = clip(sigmoid(noise + alpha) (HIGH - LOW) + LOW, 0, 1).

    Args:
        alpha: The location: large for open, small for closed.
        noise: log u - log(1 - u) with u uniform on (0, 1); None for the gate without chance.
    """
    s = torch.sigmoid(alpha if noise is None else alpha + noise)
    return (s * (HIGH - LOW) + LOW).clamp(0, 1)


def probability_of_open(alpha: Tensor) -> Tensor:
    """Return P(z > 0) = sigmoid(alpha - log(-LOW / HIGH))."""
    return torch.sigmoid(alpha - math.log(-LOW / HIGH))


class GatedChange(WholeChange):
    """W' = W + z z_g w, with a gate z for every entry and one gate z_g for the tensor.

    Shapes: w, alpha as W; group (), the location of z_g, where ``structured``.
    """

    def __init__(self, start: Tensor, *, structured: bool) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.zeros(start.shape))
        self.alpha = nn.Parameter(torch.full(start.shape, START))
        self.group = nn.Parameter(torch.tensor(START)) if structured else None
        for parameter in self.parameters():
            parameter.no_decay = True  # type: ignore[attr-defined]  # a gate at zero is neither open nor closed
        self.noise: tuple[Tensor, Tensor] | None = None

    def draw(self) -> None:
        """Draw the noise of one step: every part of its batch, and every use of a tied tensor, sees the same gates."""
        self.noise = (_logistic(self.alpha), _logistic(self.alpha.new_zeros(())))

    def move(self) -> Tensor:
        return self._move(None)

    def expected_l0(self) -> Tensor:
        """Return how many entries are expected to change."""
        open_entries = probability_of_open(self.alpha).sum()
        return open_entries if self.group is None else open_entries * probability_of_open(self.group)

    def forward(self, start: Tensor) -> Tensor:
        return start.to(self.w.dtype) + self._move(self.noise if self.training else None)

    def _move(self, noise: tuple[Tensor, Tensor] | None) -> Tensor:
        z = gate(self.alpha, noise[0] if noise else None)
        if self.group is not None:
            z = z * gate(self.group, noise[1] if noise else None)
        return z * self.w


def _logistic(like: Tensor) -> Tensor:
    u = torch.rand(like.shape, device=like.device)
    return u.log() - (-u).log1p()
