"""How likely a language model finds continuations of prompts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from peftcli.data.tasks.labelled_logits import labelled_logits

if TYPE_CHECKING:
    from torch import Tensor, nn

Pair = tuple[Sequence[int], Sequence[int]]
"""The ids of a prompt, of at least one token, and those of its continuation."""
AT_ONCE = 64
"""Pairs in one forward pass: every prompt stands there once for each of its continuations."""


def likelihoods(network: nn.Module, pairs: Sequence[Pair], pad: int) -> tuple[Tensor, Tensor]:
    """Return log p(continuation | prompt), summed over the continuation's tokens, and how many these are.

    Args:
        network: A causal language model.
        pairs: At least one.
        pad: The id that rows are filled up with.

    Shapes: (pairs) each; the likelihoods in float32.
    """
    device = next(network.parameters()).device
    batch = {name: tensor.to(device) for name, tensor in pair_batch(pairs, pad).items()}
    return pair_likelihoods(network, batch), batch["lengths"]


def pair_batch(pairs: Sequence[Pair], pad: int) -> dict[str, Tensor]:
    """Return pairs as rectangles: ``input_ids``, ``attention_mask``, and the ``lengths`` of the continuations.

    Shapes: (pairs, tokens) and, for the lengths, (pairs).
    """
    import torch

    longest = max(len(prompt) + len(continuation) for prompt, continuation in pairs)
    ids = torch.full((len(pairs), longest), pad)
    mask = torch.zeros_like(ids)
    for row, (prompt, continuation) in enumerate(pairs):
        whole = [*prompt, *continuation]
        ids[row, : len(whole)] = torch.tensor(whole)
        mask[row, : len(whole)] = 1
    lengths = torch.tensor([len(continuation) for _, continuation in pairs])
    return {"input_ids": ids, "attention_mask": mask, "lengths": lengths}


def pair_likelihoods(network: nn.Module, batch: Mapping[str, Tensor]) -> Tensor:
    """Return log p(continuation | prompt) of what ``pair_batch`` returned. Shapes: (pairs)."""
    import torch

    pieces = zip(*(_pieces(batch[name]) for name in ("input_ids", "attention_mask", "lengths")), strict=True)
    return torch.cat([_piece(network, *piece) for piece in pieces])


def _pieces(rows: Tensor) -> list[Tensor]:
    return [rows[start : start + AT_ONCE] for start in range(0, len(rows), AT_ONCE)]


def _piece(network: nn.Module, ids: Tensor, mask: Tensor, lengths: Tensor) -> Tensor:
    import torch
    from torch.nn import functional

    ends = mask.sum(1)
    width = int(ends.max())
    ids, mask = ids[:, :width], mask[:, :width]
    places = torch.arange(width, device=ids.device)
    # The logits before a token are those that predict it.
    predicting = (places >= (ends - lengths - 1)[:, None]) & (places < (ends - 1)[:, None])
    positions = predicting.flatten().nonzero().squeeze(1)
    logits = labelled_logits(network, {"input_ids": ids, "attention_mask": mask}, positions)
    losses = functional.cross_entropy(logits.float(), ids.flatten()[positions + 1], reduction="none")
    return -losses.new_zeros(len(ids)).index_add(0, positions // width, losses)
