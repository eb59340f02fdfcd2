"""Measuring a network on examples: longest first, over all processes, without gradients."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from operator import itemgetter
from typing import TYPE_CHECKING, Literal

import torch

from peftcli.data.batches import VirtualTokens, evaluation_batches
from peftcli.training.modes import evaluating

if TYPE_CHECKING:
    from accelerate import Accelerator
    from torch import nn

    from peftcli.data.examples import Examples
    from peftcli.data.tasks.task import Outcome, Task

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
) -> tuple[dict[str, float], list[Outcome]]:
    """Return the metrics of ``network`` on ``examples``, ``n`` among them, and the outcome of every example.

    All processes of a run call this together, and all get the whole result. The network itself is called and not a
    data-parallel wrapper; every module is left in the mode it had.

    Args:
        network: Called as it is; its blocks may be disabled.
        task: Whose outcomes and metrics are computed.
        examples: What it is measured on.
        settings: How.
        metrics: Which; None for all that the task has.

    Returns:
        The metrics, and the outcomes in the order of ``examples``.
    """
    accelerator = settings.accelerator
    found: list[tuple[int, Outcome]] = []
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
            on_device = {k: t.to(accelerator.device, non_blocking=True) for k, t in batch.items()}
            found += zip(indices, task.outcomes(network, on_device), strict=True)
    outcomes = _of_all(found, accelerator)
    return {**task.metrics(outcomes, metrics), "n": len(examples)}, outcomes


def _of_all(found: list[tuple[int, Outcome]], accelerator: Accelerator) -> list[Outcome]:
    """Return the outcomes that all processes found, in the order of the examples."""
    if accelerator.num_processes > 1:
        from accelerate.utils import gather_object

        found = gather_object(found)
    return [outcome for _, outcome in sorted(found, key=itemgetter(0))]


def autocast(device: torch.device, precision: str) -> torch.autocast:
    """Return the context in which matrix products are computed in ``precision``; the weights stay as they are."""
    low = precision != "float32"
    return torch.autocast(device.type, dtype=getattr(torch, precision) if low else None, enabled=low)
