"""One optimizer step: the gradient of one global batch, clipped, and AdamW."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn.utils import clip_grads_with_norm_, get_total_norm

from peftcli.data.batches import Batch
from peftcli.training.optimizer import scale_learning_rates
from peftcli.training.processes import sum_over_processes
from peftcli.training.signals import StopRequest

if TYPE_CHECKING:
    from accelerate import Accelerator

    from peftcli.data.tasks.task import Task
    from peftcli.delta.delta import Delta

_LEAST_SCALE = 1.0  # of float16's loss: below it the gradient itself is out of range


@dataclass(frozen=True, kw_only=True)
class Computed:
    """What one global batch gave: its mean loss, the norm of its gradient, and whether any process shall stop."""

    loss: float
    gradient_norm: float
    stop: bool


@dataclass(frozen=True, kw_only=True)
class Stepper:
    """Takes steps.

    Attributes:
        delta: Whose penalty is added to the loss.
        network: As it was prepared.
        parameters: What trains.
        clip: Largest norm of the gradient.
        spare: A batch for a process that has no share of a global batch: it must still meet the others.
    """

    task: Task
    delta: Delta
    network: nn.Module
    parameters: list[nn.Parameter]
    optimizer: torch.optim.Optimizer
    accelerator: Accelerator
    clip: float | None
    spare: Mapping[str, Tensor]

    def compute(self, batch: Batch, request: StopRequest) -> Computed:
        """Compute the clipped gradient of ``batch``, and tell the other processes of a ``request`` to stop."""
        loss = self._backward(batch)
        if self.accelerator.scaler is not None:
            self.accelerator.scaler.unscale_(self.optimizer)
        loss = loss + self._penalise() / self.accelerator.num_processes
        norm = self._clip()
        shared = sum_over_processes(self.accelerator, torch.stack([loss, loss.new_tensor(float(request.requested))]))
        # The only time in a step that the host waits for the device.
        numbers = torch.cat([shared, norm.to(shared)[None]]).tolist()
        return Computed(loss=numbers[0], gradient_norm=numbers[2], stop=numbers[1] > 0)

    def apply(self, share: float) -> None:
        """Move the parameters against the gradient, with ``share`` of their peak learning rates."""
        scale_learning_rates(self.optimizer, share)
        if self.accelerator.scaler is None:
            self.optimizer.step()
        else:
            self.accelerator.scaler.step(self.optimizer)
            self.accelerator.scaler.update()
        self.optimizer.zero_grad(set_to_none=True)

    def discard(self) -> bool:
        """Leave the parameters as they are, and return whether a smaller scale of the loss may mend it."""
        scaler = self.accelerator.scaler
        if scaler is not None:
            scaler.update()
        self.optimizer.zero_grad(set_to_none=True)
        return scaler is not None and float(scaler.get_scale()) >= _LEAST_SCALE

    def _backward(self, batch: Batch) -> Tensor:
        """Accumulate the gradient of the mean loss, and return this process's part of the loss."""
        device, world = self.accelerator.device, self.accelerator.num_processes
        pieces: list[tuple[Mapping[str, Tensor], float]] = [(piece, 1.0) for piece in batch.micro]
        pieces = pieces or [(self.spare, 0.0)]
        total = torch.zeros((), device=device)
        for number, (piece, weight) in enumerate(pieces, start=1):
            last = number == len(pieces)
            with contextlib.nullcontext() if last else self.accelerator.no_sync(self.network):
                inputs = {name: tensor.to(device, non_blocking=True) for name, tensor in piece.items()}
                with self.accelerator.autocast():
                    loss = self.task.loss(self.network, inputs) * weight
                # Processes average their gradients, and the mean is over the items of all of them.
                self.accelerator.backward(loss / (batch.items / world))
            total += loss.detach() / batch.items
        return total

    def _penalise(self) -> Tensor | float:
        """Add the gradient of the methods' penalty, which is the same in every process, and return the penalty."""
        penalty = self.delta.penalty()
        if penalty is None:
            return 0.0
        # Not backward(): the network's gradients have been averaged over the processes by now.
        gradients = torch.autograd.grad(penalty, self.parameters, allow_unused=True)
        for parameter, gradient in zip(self.parameters, gradients, strict=True):
            if gradient is not None:
                parameter.grad = gradient if parameter.grad is None else parameter.grad + gradient
        return penalty.detach()

    def _clip(self) -> Tensor:
        gradients = [p.grad for p in self.parameters if p.grad is not None]
        norm = get_total_norm(gradients)
        if self.clip is not None:
            clip_grads_with_norm_(self.parameters, self.clip, norm)
        return norm
