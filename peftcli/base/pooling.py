"""Which of the last hidden states a head reads.

The classes of transformers decide that for their family: BERT's reads the first token, LLaMA's the last. An encoder
that was pretrained to be read otherwise (as sentence encoders are, by their mean) keeps little in that one place.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

from peftcli.errors import MethodError

if TYPE_CHECKING:
    from torch import Tensor, nn

    from peftcli.base.anatomy import Anatomy
    from peftcli.recipe.recipe import Pooling


def check_pooling(anatomy: Anatomy, pooling: Pooling) -> None:
    """Check that texts have one hidden state for each of their tokens.

    Raises:
        MethodError: They go through an encoder and a decoder.
    """
    if pooling != "base" and anatomy.arch == "encoder-decoder":
        raise MethodError(
            f"{anatomy.family} reads a text in its encoder and in its decoder: there is no one row of states to pool",
            hint="Use an encoder or a decoder as the base.",
        )


def put_pooled(backbone: nn.Module, pooling: Pooling) -> None:
    """Put the pooled state of a row in every place of it, so that any head of ``backbone`` reads that one."""
    if pooling != "base":
        backbone.register_forward_hook(partial(_put, pooling), with_kwargs=True)


def pooled(hidden: Tensor, mask: Tensor | None, pooling: Pooling) -> Tensor:
    """Return one vector per row, padding left out: the states' mean, the first of them or the last.

    Shapes: hidden (batch, tokens, width), mask (batch, tokens), the result (batch, width).
    """
    import torch  # here, so that what checks a recipe needs none

    if mask is None:
        mask = torch.ones(hidden.shape[:2], device=hidden.device)
    if pooling == "mean":
        weights = mask.unsqueeze(-1).float()
        mean: Tensor = (hidden.float() * weights).sum(1) / weights.sum(1)
        return mean.to(hidden.dtype)
    places = torch.arange(1, mask.shape[1] + 1, device=mask.device) * mask
    found = places.argmax(1) if pooling == "last" else mask.argmax(1)
    return hidden[torch.arange(len(hidden), device=hidden.device), found]


def _put(pooling: Pooling, backbone: nn.Module, _: Any, inputs: Mapping[str, Any], output: Any) -> Any:  # noqa: ANN401
    hidden = output.last_hidden_state
    output.last_hidden_state = pooled(hidden, inputs.get("attention_mask"), pooling).unsqueeze(1).expand_as(hidden)
    pooler = getattr(backbone, "pooler", None)
    if pooler is not None and output.pooler_output is not None:  # it has read the states as they were
        output.pooler_output = pooler(output.last_hidden_state)
    return output
