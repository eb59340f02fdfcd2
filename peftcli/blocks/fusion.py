"""A mixture of trained adapters: attention over what each of them would add, token by token."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn
from torch.nn import functional as F

from peftcli.blocks.bottleneck import Bottleneck
from peftcli.blocks.linear_maps import Dense


class Fusion(nn.Module):
    """Computes sum_i alpha_i W_v u_i, where u_i is what adapter i adds for z and alpha = softmax_i(q . k_i).

    q = W_q z + b_q and k_i = W_k u_i + b_k. The adapters are frozen: their numbers are buffers.

    Shapes: z (..., width); returns (..., width). W_q.weight, W_k.weight, W_v.weight (width, width).
    """

    def __init__(self, width: int, adapters: Sequence[Bottleneck], *, dropout: float) -> None:
        super().__init__()
        self.dropout = dropout
        self.W_q = Dense(width, width, fill="normal")
        self.W_k = Dense(width, width, fill="normal")
        self.W_v = Dense(width, width, fill="identity", bias=False)
        self.W_v.weight.no_decay = True  # type: ignore[attr-defined]  # towards zero; its penalty pulls to the identity
        self.adapters = nn.ModuleList(frozen(adapter) for adapter in adapters)

    def initialise(self, generator: torch.Generator) -> None:
        """Fill the parameters: at first the mixture is nearly even."""
        for part in (self.W_q, self.W_k, self.W_v):
            part.initialise(generator)

    def forward(self, z: torch.Tensor) -> torch.Tensor:
        added = torch.stack([adapter(z) for adapter in self.adapters], -2)
        mixture = self.mixture(z, added)
        # W_v is linear: one product for the sum, instead of one for each adapter.
        mixed: torch.Tensor = self.W_v((mixture[..., None] * added).sum(-2))
        return mixed

    def mixture(self, z: torch.Tensor, added: torch.Tensor) -> torch.Tensor:
        """Return alpha. Shapes: z (..., width), added (..., adapters, width); returns (..., adapters)."""
        scores = (self.W_q(z)[..., None, :] * self.W_k(added)).sum(-1)
        # On the scores, as in the authors' code.
        return torch.softmax(F.dropout(scores, self.dropout, self.training) if self.dropout else scores, -1)

    def distance(self) -> torch.Tensor:
        """Return the squared distance of W_v from the identity."""
        weight = self.W_v.weight
        return (weight - torch.eye(len(weight), dtype=weight.dtype, device=weight.device)).pow(2).sum()


def frozen(module: nn.Module) -> nn.Module:
    """Return ``module`` with its parameters as buffers: they travel in an artifact and never train."""
    for part in module.modules():
        for name, parameter in list(part._parameters.items()):
            if parameter is not None:
                delattr(part, name)
                part.register_buffer(name, parameter.detach())
    return module
