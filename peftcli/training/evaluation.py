"""Measuring a network on examples: longest first, over all processes, without gradients."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from operator import itemgetter
from typing import TYPE_CHECKING, Literal, TypeVar

import torch

from peftcli.data.batches import VirtualTokens, evaluation_batches
from peftcli.data.tasks.generating import Generating
from peftcli.training.generation import Writer, written
from peftcli.training.modes import evaluating

if TYPE_CHECKING:
    from accelerate import Accelerator
    from torch import nn

    from peftcli.data.examples import Examples
    from peftcli.data.tasks.task import Outcome, Task

Precision = Literal["float32", "bfloat16", "float16"]
Found = TypeVar("Found")


@dataclass(frozen=True, kw_only=True)
class EvaluationSettings:
    """How a network is measured.

    Attributes:
        batch_size: Examples per forward pass.
        pad: The id that fills rows up.
        virtual: Ids beyond the vocabulary that every row gets; None for a base that has no vectors for them.
        precision: What is computed in.
        accelerator: Where, and over how many processes.
        writer: How texts are written, where a metric needs them.
    """

    batch_size: int
    pad: int
    accelerator: Accelerator
    virtual: VirtualTokens | None = None
    precision: Precision = "float32"
    writer: Writer | None = None


def evaluate(
    network: nn.Module,
    task: Task,
    examples: Examples,
    settings: EvaluationSettings,
    metrics: Sequence[str] | None = None,
) -> tuple[dict[str, float], list[Outcome]]:
    """Return the metrics of ``network`` on ``examples``, ``n`` among them, and the outcome of every example.

    See ``outcomes_of``; ``metrics`` are those that are computed, None for all that the task has by default.
    """
    outcomes = outcomes_of(network, task, examples, settings, metrics)
    return {**task.metrics(outcomes, metrics), "n": len(examples)}, outcomes


def outcomes_of(
    network: nn.Module,
    task: Task,
    examples: Examples,
    settings: EvaluationSettings,
    metrics: Sequence[str] | None = None,
) -> list[Outcome]:
    """Return what ``metrics`` need to know of every example, in the order of the examples.

    See ``asked``.

    Args:
        network: Called as it is; its blocks may be disabled.
        task: Whose outcomes are computed.
        examples: What it is measured on.
        settings: How.
        metrics: For which; some need texts that the network generates.
    """
    found = asked(network, task, examples, settings, partial(task.outcomes, network))
    outcomes = [task.completed(example, outcome) for example, outcome in zip(examples, found, strict=True)]
    if isinstance(task, Generating) and task.asks_for_texts(metrics):
        texts = write(network, task, examples, settings)
        outcomes = [outcome | text for outcome, text in zip(outcomes, texts, strict=True)]
    return outcomes


def asked(
    network: nn.Module,
    task: Task,
    examples: Examples,
    settings: EvaluationSettings,
    question: Callable[[Mapping[str, torch.Tensor]], list[Found]],
) -> list[Found]:
    """Return what ``question`` answers for every example of a batch, in the order of ``examples``.

    All processes of a run call this together, and all get the whole result. The network itself is called and not a
    data-parallel wrapper; every module is left in the mode it had.
    """
    accelerator = settings.accelerator
    found: list[tuple[int, Found]] = []
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
            found += zip(indices, question(on_device), strict=True)
    return _of_all(found, accelerator)


def write(network: nn.Module, task: Generating, examples: Examples, settings: EvaluationSettings) -> list[Outcome]:
    """Return for every example the ``text`` that the network answers with, and its ``references``.

    All processes of a run call this together, and all get the whole result.
    """
    with evaluating(network), torch.inference_mode(), autocast(settings.accelerator.device, settings.precision):
        found = list(written(network, task, examples, settings))
    texts = _of_all(found, settings.accelerator)
    return [{"text": text, "references": list(e.references)} for text, e in zip(texts, examples, strict=True)]


def _of_all(found: list[tuple[int, Found]], accelerator: Accelerator) -> list[Found]:
    """Return what all processes found, in the order of the examples."""
    if accelerator.num_processes > 1:
        from accelerate.utils import gather_object

        found = gather_object(found)
    return [one for _, one in sorted(found, key=itemgetter(0))]


def autocast(device: torch.device, precision: str) -> torch.autocast:
    """Return the context in which matrix products are computed in ``precision``; the weights stay as they are."""
    low = precision != "float32"
    return torch.autocast(device.type, dtype=getattr(torch, precision) if low else None, enabled=low)
