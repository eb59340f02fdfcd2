"""What a network with a head of its own says of a batch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor, nn


def answer_logits(network: nn.Module, batch: Mapping[str, Tensor]) -> Tensor:
    """Return the logits in float32; ``labels`` are kept from the network, which would compute a loss of its own.

    Shapes: (batch, labels), or (batch, tokens, labels) where every token has an answer.
    """
    logits: Tensor = network(**{key: value for key, value in batch.items() if key != "labels"}).logits
    return logits.float()
