"""Logits of the tokens that a label asks for, and of no others."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor, nn


def labelled_logits(network: nn.Module, inputs: Mapping[str, Tensor], positions: Tensor) -> Tensor:
    """Return the logits at ``positions`` of the flattened (batch, tokens) rectangle.

    The head sees only those hidden states: in a large vocabulary the logits of the rest cost more than the layers.
    In an encoder-decoder the tokens are the decoder's.

    Args:
        network: A language model, or a data-parallel wrapper with it as ``module``.
        inputs: What the network is called with.
        positions: Indices below batch x tokens.

    Shapes: positions (labelled tokens); the result (labelled tokens, vocabulary).
    """
    language_model: Any = getattr(network, "module", network)
    head: nn.Module | None = language_model.get_output_embeddings()
    handle = head.register_forward_pre_hook(_Selection(positions)) if head is not None else None
    try:
        logits: Tensor = network(**inputs, use_cache=False).logits
    finally:
        if handle is not None:
            handle.remove()
    # A network that does not call its head as a module gives all of them. Two shapes cannot be mistaken for each
    # other: one row has fewer positions than tokens (or, in a decoder beside an encoder, exactly these).
    if logits.shape[:2] == inputs.get("decoder_input_ids", inputs["input_ids"]).shape:
        return logits.flatten(0, 1)[positions]
    return logits.squeeze(0)


class _Selection:
    """A hook that passes the hidden states at some positions on, as one row."""

    def __init__(self, positions: Tensor) -> None:
        self.positions = positions

    def __call__(self, head: nn.Module, arguments: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """Shapes: hidden states (batch, tokens, width) -> (1, labelled tokens, width)."""
        del head
        hidden, *rest = arguments
        return hidden.flatten(0, 1)[self.positions].unsqueeze(0), *rest
