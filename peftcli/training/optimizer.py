"""AdamW on the delta: its groups, and its moments by address."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

MOMENTS = ("step", "exp_avg", "exp_avg_sq")
_FUSED = ("cpu", "cuda")


def decays(parameter: nn.Parameter) -> bool:
    """Return whether weight decay acts on ``parameter``: on matrices, unless their block says ``no_decay``."""
    return parameter.ndim >= 2 and not getattr(parameter, "no_decay", False)


def make_optimizer(parameters: Mapping[str, nn.Parameter], weight_decay: float) -> torch.optim.AdamW:
    """Return AdamW over ``parameters`` (by address); the learning rate is set at every step."""
    groups = [
        {"params": [p for p in parameters.values() if decays(p)], "weight_decay": weight_decay},
        {"params": [p for p in parameters.values() if not decays(p)], "weight_decay": 0.0},
    ]
    fused = all(p.device.type in _FUSED and p.is_floating_point() for p in parameters.values())
    return torch.optim.AdamW([g for g in groups if g["params"]], lr=0.0, fused=fused)


def set_learning_rate(optimizer: torch.optim.Optimizer, learning_rate: float) -> None:
    """Let the next step be taken with ``learning_rate``."""
    for group in optimizer.param_groups:
        group["lr"] = learning_rate


def moments(optimizer: torch.optim.Optimizer, parameters: Mapping[str, nn.Parameter]) -> dict[str, Tensor]:
    """Return the optimizer's tensors as ``exp_avg.ADDRESS``; a parameter that was never stepped has none."""
    return {
        f"{moment}.{address}": optimizer.state[parameter][moment]
        for address, parameter in parameters.items()
        if parameter in optimizer.state
        for moment in MOMENTS
    }


def restore_moments(
    optimizer: torch.optim.Optimizer, parameters: Mapping[str, nn.Parameter], tensors: Mapping[str, Tensor]
) -> None:
    """Give the optimizer the tensors that ``moments`` returned."""
    optimizer.state.clear()
    for address, parameter in parameters.items():
        if f"step.{address}" in tensors:
            # The count of steps stays in main memory unless the fused kernel reads it.
            home = parameter.device if optimizer.defaults["fused"] else torch.device("cpu")
            optimizer.state[parameter] = {
                "step": tensors[f"step.{address}"].to(home, copy=True),
                **{m: tensors[f"{m}.{address}"].to(parameter.device, copy=True) for m in MOMENTS[1:]},
            }
