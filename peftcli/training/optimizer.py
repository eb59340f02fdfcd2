"""AdamW on the delta: its groups, and its moments by address."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

MOMENTS = ("step", "exp_avg", "exp_avg_sq")
_FUSED = ("cpu", "cuda")
_PEAK = "peak"


def decays(parameter: nn.Parameter) -> bool:
    """Return whether weight decay acts on ``parameter``: on matrices, unless their block says ``no_decay``."""
    return parameter.ndim >= 2 and not getattr(parameter, "no_decay", False)


def make_optimizer(
    parameters: Mapping[str, nn.Parameter], rates: Mapping[str, float], weight_decay: float
) -> torch.optim.AdamW:
    """Return AdamW over ``parameters``, in groups of one peak learning rate and one decay each.

    Args:
        parameters: By address.
        rates: The peak learning rate of each address; ``scale_learning_rates`` sets that of a step.
        weight_decay: Of those it acts on.
    """
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for address, parameter in parameters.items():
        decay = weight_decay if decays(parameter) else 0.0
        groups.setdefault((rates[address], decay), []).append(parameter)
    fused = all(p.device.type in _FUSED and p.is_floating_point() for p in parameters.values())
    return torch.optim.AdamW(
        [{"params": ps, _PEAK: rate, "lr": 0.0, "weight_decay": decay} for (rate, decay), ps in groups.items()],
        fused=fused,
    )


def scale_learning_rates(optimizer: torch.optim.Optimizer, share: float) -> None:
    """Let the next step be taken with ``share`` of the peak learning rates."""
    for group in optimizer.param_groups:
        group["lr"] = group[_PEAK] * share


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
