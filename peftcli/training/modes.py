"""Which modules of a network behave as in training, and which as when it is used."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

from torch import nn
from torch.utils.checkpoint import checkpoint

from peftcli.delta.block import Block
from peftcli.errors import RecipeError


@contextmanager
def evaluating(network: nn.Module) -> Iterator[None]:
    """Put every module into evaluation mode; afterwards each is back in the mode it had."""
    with _modes_kept(network):
        network.eval()
        yield


@contextmanager
def training(network: nn.Module, *, base_dropout: bool, gradient_checkpointing: bool) -> Iterator[None]:
    """Put ``network`` into training mode.

    Args:
        network: With its blocks attached.
        base_dropout: Whether the frozen modules' own dropout acts; that of the blocks always does.
        gradient_checkpointing: Whether activations are computed again in the backward pass.

    Raises:
        RecipeError: The network cannot do so.
    """
    with _modes_kept(network), _without_cache(network), _checkpointing(network, gradient_checkpointing):
        if base_dropout:
            network.train()
        else:
            _train_blocks_alone(network)
            if gradient_checkpointing:
                _checkpoint_in_evaluation_mode(network)
        yield


@contextmanager
def _modes_kept(network: nn.Module) -> Iterator[None]:
    modes = [(module, module.training) for module in network.modules()]
    try:
        yield
    finally:
        for module, mode in modes:
            module.training = mode


@contextmanager
def _checkpointing(network: Any, on: bool) -> Iterator[None]:  # noqa: ANN401  # a transformers model
    if not on:
        yield
        return
    if not network.supports_gradient_checkpointing:
        raise RecipeError(
            f"training.gradient_checkpointing is not possible with {type(network).__name__}",
            hint="Leave it out; a smaller training.micro_batch_size saves memory too.",
        )
    network.activation_checkpointing_enable({"use_reentrant": False})
    # The other kind of checkpoint needs inputs with gradients; this one would only compute below the lowest block.
    network.disable_input_require_grads()
    try:
        yield
    finally:
        network.activation_checkpointing_disable()


@contextmanager
def _without_cache(network: nn.Module) -> Iterator[None]:
    """Keep decoders from collecting keys and values for a generation that does not come."""
    config: Any = getattr(network, "config", None)
    before = getattr(config, "use_cache", None)
    if before is None:
        yield
        return
    config.use_cache = False
    try:
        yield
    finally:
        config.use_cache = before


def _train_blocks_alone(network: nn.Module) -> None:
    # Dropout hides in modules, in attributes of attentions and in calls of functional.dropout; the mode reaches all.
    network.eval()
    for module in network.modules():
        if isinstance(module, Block):
            module.training = True
            for name, child in module.named_children():
                if name != "wrapped":
                    child.train()


def _checkpoint_in_evaluation_mode(network: nn.Module) -> None:
    """Let layers that only checkpoint in training mode do so, while their dropout stays off.

    A transformers layer looks at its mode twice: before its forward, to decide whether to checkpoint it, and inside.
    """
    from transformers.modeling_layers import GradientCheckpointingLayer  # seconds to import

    for module in network.modules():
        if isinstance(module, GradientCheckpointingLayer):
            module.training = True
            module._gradient_checkpointing_func = partial(_checkpoint_evaluating, module)


def _checkpoint_evaluating(layer: nn.Module, forward: Callable[..., Any], *args: Any) -> Any:  # noqa: ANN401
    def quiet(*inputs: Any) -> Any:  # noqa: ANN401
        layer.training = False
        try:
            return forward(*inputs)
        finally:
            layer.training = True

    return checkpoint(quiet, *args, use_reentrant=False)
