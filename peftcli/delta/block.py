"""A block: what a method puts around one module of the base model."""

from __future__ import annotations

from collections.abc import Mapping
from enum import IntEnum
from typing import Any, ClassVar

import torch
from torch import nn

from peftcli.base.sites import Site
from peftcli.errors import MethodError


class Order(IntEnum):
    """Where a block stands among the blocks around one module, from the inside out, whichever was attached first.

    A projection computes scale * (W_eff x + b_eff); what leaves a sublayer is h, plus the parallel branches, through
    the series blocks. Blocks of one order stand as they were attached, the first innermost.
    """

    WEIGHT = 0
    BIAS = 1
    SCALE = 2
    PARALLEL = 3
    SERIES = 4


class Block(nn.Module):
    """Wraps one module of the base model and changes what it computes.

    A block's own parameters train; its buffers do not, but travel in the artifact beside them. Whatever is asked of
    it that it does not have is asked of the base model's own module inside: transformers looks at ``.weight`` of many
    a projection.

    Attributes:
        order: Where it stands among other blocks around the same module.
        alone: Whether no other block may change the same weight, as where a norm of the whole weight is taken.
        unties: Whether a head that is tied to its module goes on with the weight as it is without this block.
        site: For a change of one projection, which.

    What the blocks of one method have in common is a module that each of them calls ``shared``: its tensors are
    counted and stored once, at an address of no layer.
    """

    order: ClassVar[Order] = Order.SERIES
    alone: ClassVar[bool] = False
    unties: ClassVar[bool] = False
    site: Site | None = None
    wrapped: nn.Module

    def __init__(self, wrapped: nn.Module, address: str) -> None:
        super().__init__()
        self.wrapped = wrapped
        self.address = address
        self.enabled = True

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401  # as nn.Module declares it
        try:
            return super().__getattr__(name)
        except AttributeError:
            if name == "wrapped":
                raise
            return getattr(innermost(self), name)

    def forward(self, *args: Any, **kwargs: Any) -> Any:  # noqa: ANN401  # whatever the wrapped module takes
        return self.adapted(*args, **kwargs) if self.enabled else self.wrapped(*args, **kwargs)

    def adapted(self, *args: Any, **kwargs: Any) -> Any:  # noqa: ANN401
        """Compute what the adapted model computes here."""
        raise NotImplementedError

    def initialise(self, generator: torch.Generator) -> None:
        """Fill the parameters; ``generator`` is seeded from the run's seed and this block's address."""
        raise NotImplementedError

    def own_parameters(self) -> dict[str, nn.Parameter]:
        """Return the block's parameters, without those of the module it wraps."""
        return {n: p for n, p in self.named_parameters() if not n.startswith("wrapped.")}

    def own_buffers(self) -> dict[str, torch.Tensor]:
        """Return what travels beside them."""
        return {n: b for n, b in self.named_buffers() if not n.startswith("wrapped.")}

    def address_of(self, name: str) -> str:
        """Return the address of one of the block's tensors; what blocks share stands under the method's label alone."""
        label = self.address.partition(".")[0]
        return f"{label}.{name}" if name.startswith("shared.") else f"{self.address}.{name}"

    def make_room(self, shapes: Mapping[str, tuple[int, ...]]) -> None:
        """Take the shapes of a state that is about to be loaded (by address), where it is training that chose them."""

    def check_loaded(self) -> None:
        """Refuse what was loaded where it cannot be used.

        Raises:
            ArtifactError: It cannot.
        """

    def pack(self) -> None:
        """Drop what only training needs (a prefix's re-parameterisation); the function stays the same."""

    def folds(self) -> tuple[str, ...]:
        """Return the names of the wrapped module's parameters that ``fold`` changes; empty: it cannot be merged."""
        return ()

    def fold(self, name: str, tensor: torch.Tensor, rows: slice) -> torch.Tensor:
        """Return parameter ``name`` of the wrapped module with the delta folded in.

        Args:
            tensor: Stored rows ``rows`` of the parameter, in float32; a merge goes through large tensors row by row.
        """
        raise MethodError(f"{type(self).__name__} at {self.address} is not a change of weights and cannot be merged")


def innermost(module: nn.Module) -> nn.Module:
    """Return the base model's own module inside the blocks around it."""
    while isinstance(module, Block):
        module = module.wrapped
    return module
