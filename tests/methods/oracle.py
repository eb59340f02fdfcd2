"""The adapted network of ours beside Hugging Face peft's: the same weights, the same delta, the same batch."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any

import torch
from tiny import DECODERS, tasks, tiny_base, tiny_batch

from peftcli.delta.delta import Delta, attach
from peftcli.delta.method import Method

STEPS = 20


@dataclass
class Pair:
    """Our delta, peft's model around a copy of the same network, and their trained tensors one to one."""

    delta: Delta
    theirs: torch.nn.Module
    twins: list[tuple[torch.nn.Parameter, torch.nn.Parameter]]
    batch: dict[str, torch.Tensor]

    def logits(self) -> tuple[torch.Tensor, torch.Tensor]:
        return _output(self.delta.base.network, self.batch), _output(self.theirs, self.batch)

    def largest_logit_difference(self) -> float:
        with torch.no_grad():
            one, other = self.logits()
        return float((one - other).abs().max())

    def largest_gradient_difference(self) -> float:
        for out in self.logits():
            out.pow(2).mean().backward()
        worst = max(float((a.grad - b.grad).abs().max()) for a, b in self.twins)
        for a, b in self.twins:
            a.grad = b.grad = None
        return worst

    def largest_loss_difference(self) -> float:
        """Take 20 AdamW steps with each and compare the losses."""
        curves = []
        for network, side in ((self.delta.base.network, 0), (self.theirs, 1)):
            optimizer = torch.optim.AdamW([t[side] for t in self.twins], lr=1e-2, weight_decay=0.1)
            losses = []
            target: torch.Tensor | None = None
            for _ in range(STEPS):
                optimizer.zero_grad()
                out = _output(network, self.batch)
                if target is None:
                    target = torch.randn(out.shape, generator=torch.Generator().manual_seed(5))
                loss = (out - target).pow(2).mean()
                loss.backward()
                optimizer.step()
                losses.append(loss.item())
            curves.append(losses)
        assert curves[0][0] > curves[0][-1]
        return max(abs(a - b) for a, b in zip(*curves, strict=True))


def base_task(family: str) -> str | None:
    return "causal-lm" if family in DECODERS else tasks(family)[-1]


def beside_peft(family: str, method: Method, config: Any, match: Any) -> Pair:
    """Attach ``method`` and peft's ``config`` to the same network and give both the same random delta.

    Args:
        match: From (our delta, their named parameters) to pairs of our and their tensors.
    """
    from peft import get_peft_model

    base = tiny_base(family, base_task(family))
    theirs = get_peft_model(copy.deepcopy(base.network), config).eval()
    delta = attach((method,), base, seed=0)
    generator = torch.Generator().manual_seed(2)
    twins = list(match(delta, dict(theirs.named_parameters())))
    with torch.no_grad():
        for ours, other in twins:
            ours.copy_(0.3 * torch.randn(ours.shape, generator=generator))
            other.copy_(ours.reshape(other.shape))
    return Pair(delta, theirs, twins, tiny_batch(family))


def _output(network: torch.nn.Module, batch: dict[str, torch.Tensor]) -> torch.Tensor:
    out = network(**batch)
    return out.logits if "logits" in out else out.last_hidden_state
