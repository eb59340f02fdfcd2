"""The scores of starts and ends of answers in a batch of windows: their loss, and the best spans."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from peftcli.data.tasks.answer_spans import END, NOWHERE, START

if TYPE_CHECKING:
    from torch import Tensor, nn

AT_ONCE = 64
"""Windows in one forward pass where nothing is learned."""


def _marked(tags: Tensor, mark: int) -> Tensor:
    return (tags >= 0) & (tags & mark).bool()


def span_scores(network: nn.Module, windows: Mapping[str, Tensor]) -> Tensor:
    """Return the scores of start and end; where no answer may stand they are minus infinity.

    Args:
        network: A network for question answering.
        windows: Its inputs, and their ``tags``.

    Shapes: (windows, tokens, 2).
    """
    import torch

    output = network(**{key: tensor for key, tensor in windows.items() if key != "tags"})
    scores = torch.stack([output.start_logits, output.end_logits], dim=-1).float()
    return scores.masked_fill((windows["tags"] < 0).unsqueeze(-1), float("-inf"))


def scores_in_pieces(network: nn.Module, windows: Mapping[str, Tensor]) -> Tensor:
    """Return the same, computed a few windows at once: a text may have any number of them."""
    import torch

    pieces = zip(*(torch.split(tensor, AT_ONCE) for tensor in windows.values()), strict=True)
    return torch.cat([span_scores(network, dict(zip(windows, piece, strict=True))) for piece in pieces])


def none_scores(scores: Tensor, tags: Tensor) -> Tensor:
    """Return the score of no answer in every window. Shapes: (windows, tokens, 2), (windows, tokens) -> (windows)."""
    return scores.sum(-1).masked_fill(~_marked(tags, NOWHERE), float("inf")).amin(1)


def span_losses(scores: Tensor, tags: Tensor) -> Tensor:
    """Return the mean of the cross entropies of start and end.

    Shapes: scores (windows, tokens, 2), tags (windows, tokens); the result (windows).
    """
    import torch
    from torch.nn import functional

    targets = torch.stack([_marked(tags, mark).long().argmax(1) for mark in (START, END)], dim=-1)
    return functional.cross_entropy(scores, targets, reduction="none").mean(-1)


def best_spans(scores: Tensor, tags: Tensor, longest: int, count: int) -> list[list[tuple[int, int, float]]]:
    """Return the best spans of every window: first and last token among those of the text, and the score.

    Args:
        scores: What ``span_scores`` returned.
        tags: Of the same windows.
        longest: Most tokens of a span.
        count: Most spans of a window.

    Shapes: (windows, tokens, 2), (windows, tokens).
    """
    import torch
    from torch.nn import functional

    inside = (tags >= 0) & ~_marked(tags, NOWHERE)
    starts, ends = scores.masked_fill(~inside.unsqueeze(-1), float("-inf")).unbind(-1)
    tokens = starts.shape[1]
    # All spans of one length side by side: what there is to choose from is a band, not a square.
    band = torch.stack(
        [
            functional.pad(starts[:, : tokens - more] + ends[:, more:], (0, more), value=float("-inf"))
            for more in range(min(longest, tokens))
        ],
        dim=1,
    ).flatten(1)
    best, at = band.topk(min(count, band.shape[1]))
    place = inside.long().cumsum(1) - 1
    begins = at % tokens
    # What is worth nothing may end beyond the window.
    ends_at = (begins + at // tokens).clamp(max=tokens - 1)
    first, last = place.gather(1, begins), place.gather(1, ends_at)
    found = zip(first.tolist(), last.tolist(), best.tolist(), strict=True)
    return [[span for span in zip(*window, strict=True) if span[-1] > float("-inf")] for window in found]
