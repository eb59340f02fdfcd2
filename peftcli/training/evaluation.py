"""Measuring a network on examples: longest first, over all processes, without gradients."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import torch

from peftcli.data.batches import VirtualTokens, evaluation_batches
from peftcli.training.modes import evaluating

if TYPE_CHECKING:
    import numpy as np
    from accelerate import Accelerator
    from torch import nn

    from peftcli.data.examples import Examples
    from peftcli.data.tasks.task import Task

Precision = Literal["float32", "bfloat16", "float16"]


@dataclass(frozen=True, kw_only=True)
class EvaluationSettings:
    """How a network is measured.

    Attributes:
        batch_size: Examples per forward pass.
        pad: The id that fills rows up.
        virtual: Ids beyond the vocabulary that every row gets; None for a base that has no vectors for them.
        precision: What is computed in.
        accelerator: Where, and over how many processes.
    """

    batch_size: int
    pad: int
    accelerator: Accelerator
    virtual: VirtualTokens | None = None
    precision: Precision = "float32"


def evaluate(
    network: nn.Module,
    task: Task,
    examples: Examples,
    settings: EvaluationSettings,
    metrics: Sequence[str] | None = None,
) -> tuple[dict[str, float], np.ndarray]:
    """Return the metrics of ``network`` on ``examples``, ``n`` among them, and the outcome of every example.

    All processes of a run call this together, and all get the whole result. The network itself is called and not a
    data-parallel wrapper; every module is left in the mode it had.

    Args:
        network: Called as it is; its blocks may be disabled.
        task: Whose outcomes and metrics are computed.
        examples: What it is measured on.
        settings: How.
        metrics: Which; None for all that the task has.

    Shapes: the outcomes (examples, task.columns) in float64, in the order of ``examples``.
    """
    accelerator = settings.accelerator
    # Each process fills in its own rows, so that the sum over the processes is the whole table.
    table = torch.zeros(len(examples), len(task.columns), dtype=torch.float64, device=accelerator.device)
    batches = evaluation_batches(
        examples,
        task,
        batch_size=settings.batch_size,
        pad=settings.pad,
        virtual=settings.virtual,
        rank=accelerator.process_index,
        world=accelerator.num_processes,
    )
    with evaluating(network), torch.inference_mode(), autocast(accelerator.device, settings.precision):
        for indices, batch in batches:
            outcomes = task.outcomes(network, {k: t.to(table.device, non_blocking=True) for k, t in batch.items()})
            table[indices] = outcomes.to(table)
        if accelerator.num_processes > 1:
            table = accelerator.reduce(table, reduction="sum")
    outcomes_of_all = table.cpu().numpy()
    return {**task.metrics(outcomes_of_all, metrics), "n": len(examples)}, outcomes_of_all


def autocast(device: torch.device, precision: str) -> torch.autocast:
    """Return the context in which matrix products are computed in ``precision``; the weights stay as they are."""
    low = precision != "float32"
    return torch.autocast(device.type, dtype=getattr(torch, precision) if low else None, enabled=low)
