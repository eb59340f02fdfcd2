"""Trained vectors in place of what virtual tokens have become at the entry of a layer."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from peftcli.delta.block import Block


class Batch:
    """What the layers must know of the batch that is being computed.

    Attributes:
        virtual: The number of the virtual token at each position; negative where a real one stands.
    """

    virtual: Tensor


class Positions(Block):
    """Wraps the token embedding and notes where virtual tokens stand; it trains nothing itself."""

    def __init__(self, wrapped: nn.Module, vocabulary: int, batch: Batch) -> None:
        super().__init__(wrapped, "embeddings")
        self.vocabulary = vocabulary
        self.batch = batch

    def initialise(self, generator: torch.Generator) -> None:
        """There is nothing to fill."""

    def adapted(self, ids: Tensor) -> Tensor:
        self.batch.virtual = ids - self.vocabulary
        # Any vector will do: the first layer reads another one.
        embedded: Tensor = self.wrapped(ids.masked_fill(self.batch.virtual >= 0, 0))
        return embedded


class LayerInputs(Block):
    """Wraps a layer; at virtual tokens it reads trained vectors, whatever came out of the layer below.

    Shapes: vectors (virtual tokens, width).
    """

    def __init__(self, wrapped: nn.Module, address: str, *, shape: tuple[int, int], batch: Batch) -> None:
        super().__init__(wrapped, address)
        self.batch = batch
        self.vectors = nn.Parameter(torch.empty(shape))
        self.vectors.no_decay = True  # type: ignore[attr-defined]

    def initialise(self, generator: torch.Generator) -> None:
        nn.init.normal_(self.vectors, std=0.02, generator=generator)

    def adapted(self, hidden: Tensor, *args: Any, **kwargs: Any) -> Any:  # noqa: ANN401
        virtual = self.batch.virtual
        trained = self.vectors[virtual.clamp(min=0)].to(hidden.dtype)
        return self.wrapped(torch.where((virtual >= 0)[..., None], trained, hidden), *args, **kwargs)
