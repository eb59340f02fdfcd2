"""Runs of methods that answer without training: the task is reframed, learned from rows, and measured."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

from peftcli.delta.untrained import Frozen, Untrained
from peftcli.errors import RecipeError

if TYPE_CHECKING:
    from torch import Tensor, nn

    from peftcli.data.tables import Table
    from peftcli.data.tasks.task import Task
    from peftcli.delta.delta import Delta
    from peftcli.delta.method import Method
    from peftcli.pipeline.training import Run
    from peftcli.training.job import Outcome


def untrained(methods: tuple[Method, ...]) -> Untrained | None:
    """Return the method that answers without training; None where gradients train something.

    Raises:
        RecipeError: There is one beside other methods.
    """
    found = next((method for method in methods if isinstance(method, Untrained)), None)
    if found and len(methods) > 1:
        what = f"{found.name} answers without training, and cannot stand in a stack"
        raise RecipeError(what, hint="Give it a recipe of its own; 'peft compare' sets the runs side by side.")
    return found


def reframed(methods: tuple[Method, ...], task: Task) -> Task:
    """Return ``task`` as the methods have it answered.

    Raises:
        MethodError: A method has no answer to it.
        RecipeError: A setting does not fit its columns or labels.
    """
    method = untrained(methods)
    return method.reframed(task) if method else task


def answered(run: Run, method: Untrained) -> tuple[Run, Delta, Outcome]:
    """Let the method learn from the training rows; return the run that answers so, its empty delta and what it took.

    Raises:
        RecipeError: The training rows are streamed.
    """
    from peftcli.delta.delta import attach
    from peftcli.training.job import Outcome
    from peftcli.training.memory import peak_memory_bytes

    if run.splits.stream:
        raise RecipeError(f"{method.name} needs all training rows, which data.streaming does not hold")
    start = time.perf_counter()
    task = method.learned(run.prepared.task, Frozen(train=run.splits.train, seed=run.recipe.seed, ask=_asking(run)))
    prepared = replace(run.prepared, task=task)
    tables = {"train": run.splits.train, "validation": run.splits.validation, "test": run.splits.test}
    examples = {split: prepared.encode(table) for split, table in tables.items() if table is not None}
    outcome = Outcome(
        steps=0,
        best_step=0,
        best_metrics={},
        evaluations=[],
        losses=[],
        learning_rates=[],
        examples=0,
        tokens=0,
        seconds=time.perf_counter() - start,
        stopped_early=False,
        peak_memory_bytes=peak_memory_bytes(run.accelerator.device),
        trained=0,
        proofs={},
        resumed=0,
    )
    delta = attach(run.prepared.methods, run.prepared.base, seed=run.recipe.seed)
    return replace(run, prepared=prepared, examples=examples), delta, outcome


def _asking(run: Run) -> Callable[..., list[Any]]:
    from peftcli.training.evaluation import asked

    network = run.prepared.base.network

    def ask(task: Task, table: Table, question: Callable[[nn.Module, Mapping[str, Tensor]], list[Any]]) -> list[Any]:
        examples = replace(run.prepared, task=task).encode(table)
        return asked(network, task, examples, run.settings, partial(question, network))

    return ask
