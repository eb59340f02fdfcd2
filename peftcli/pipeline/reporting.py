"""From a finished run to its report and the contents of its artifact."""

from __future__ import annotations

import os
import platform
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from peftcli.base.source import read_config
from peftcli.pipeline.data_facts import data_facts
from peftcli.recipe.read import resolved

if TYPE_CHECKING:
    from peftcli.artifact.artifact import ArtifactContents
    from peftcli.data.tasks.task import Task
    from peftcli.delta.delta import Delta
    from peftcli.pipeline.measuring import Measurement
    from peftcli.pipeline.training import Run
    from peftcli.training.loop import Outcome

OWN_FILES = ("delta.safetensors", "delta.json")  # the rest of the artifact is the same delta for other tools


def build(run: Run, delta: Delta, outcome: Outcome, measured: Mapping[str, Measurement | None]) -> dict[str, Any]:
    """Return the report of a run (format 1)."""
    task = run.prepared.task
    select = run.select if run.select != "last" else task.select
    return {
        "format": 1,
        "name": run.recipe.name,
        "method": "+".join(m.name for m in delta.methods),
        "recipe": resolved(run.recipe),
        "base": _base(run),
        "parameters": {**parameters(delta, outcome.trained, task), "budgets": [s.summary for s in run.budgets]},
        **scores(task, measured),
        "select": select,
        "higher_is_better": task.higher_is_better(select),
        "training": _training(run, outcome),
        "cost": _cost(run, outcome),
        "data": data_facts(run.splits, run.examples),
        "proofs": outcome.proofs,
        "environment": _environment(run),
        "resumed": outcome.resumed,
    }


def scores(task: Task, measured: Mapping[str, Measurement | None]) -> dict[str, Any]:
    """Return what a report says of the measurements: values, intervals, details, and how each metric is computed."""
    found = {name: one for name, one in measured.items() if one is not None}
    names = sorted({metric for one in found.values() for metric in one.intervals})
    return {
        "metrics": {"base": None, "validation": None, "test": None, **{n: one.metrics for n, one in found.items()}},
        "intervals": {n: one.intervals for n, one in found.items()},
        "details": {n: one.details for n, one in found.items() if one.details and n != "base"},
        "signatures": {name: task.signature(name) for name in names},
    }


def parameters(delta: Delta, trained: int, task: Task) -> dict[str, Any]:
    """Return the counts of a finished delta; ``trained`` also holds what only training needed.

    What a method without training fitted stands in the task, and is a head.
    """
    from peftcli.delta.count import counted

    count = counted(delta)
    count = replace(count, head=count.head + sum(tensor.numel() for tensor in task.tensors().values()))
    return {
        **asdict(count),
        "fraction": count.fraction,
        "fraction_of_all": count.fraction_of_all,
        "method": "+".join(m.name for m in delta.methods),
        "trained_during_training": trained,
    }


def artifact_contents(run: Run, delta: Delta) -> ArtifactContents:
    """Return what is saved of a finished delta."""
    from peftcli.artifact.artifact import TASK, ArtifactContents, base_identity
    from peftcli.artifact.exports import export

    source, task = run.prepared.source, run.prepared.task
    return ArtifactContents(
        methods=delta.methods,
        base=base_identity(
            delta.base,
            read_config(str(source.folder)),
            name=source.label,
            commit=source.commit,
            fingerprint=run.fingerprint,
            dtype=str(run.prepared.dtype).removeprefix("torch."),
            quantise=run.recipe.base.quantise,
        ),
        tensors=delta.state() | {TASK + name: tensor for name, tensor in task.tensors().items()},
        task=task.manifest(),
        counts=parameters(delta, delta.size, task),
        seed=run.recipe.seed,
        export=export(
            delta, base=source.label if source.kind == "hub" else None, revision=source.commit, task=task.name
        ),
    )


def artifact_bytes(folder: Path) -> int:
    """Return the size of the delta on disk, without the copy in other tools' form."""
    return sum((folder / name).stat().st_size for name in OWN_FILES)


def _base(run: Run) -> dict[str, Any]:
    source = run.prepared.source
    return {
        "name": source.label,
        "commit": source.commit,
        "family": run.prepared.base.anatomy.family,
        "fingerprint": run.fingerprint["sample"],
        "dtype": str(run.prepared.dtype).removeprefix("torch."),
        "quantise": run.recipe.base.quantise,
    }


def _training(run: Run, outcome: Outcome) -> dict[str, Any]:
    training = run.recipe.training
    return {
        "steps": outcome.steps,
        "epochs": None if run.splits.stream else outcome.examples / len(run.examples["train"]),
        "examples": outcome.examples,
        "tokens": outcome.tokens,
        "best_step": outcome.best_step,
        "learning_rate": max((r for _, r in outcome.learning_rates), default=None),
        "batch_size": training.batch_size,
        "seed": run.recipe.seed,
        "processes": run.accelerator.num_processes,
        "stopped_early": outcome.stopped_early,
        "losses": outcome.losses,
        "evaluations": outcome.evaluations,
        "learning_rates": outcome.learning_rates,
    }


def _cost(run: Run, outcome: Outcome) -> dict[str, Any]:
    return {
        "seconds": outcome.seconds,
        "tokens_per_second": outcome.tokens / outcome.seconds if outcome.seconds else None,
        "peak_memory_bytes": outcome.peak_memory_bytes,
        "artifact_bytes": None,
        "base_bytes": run.prepared.base.bytes,
    }


def _environment(run: Run) -> dict[str, Any]:
    import torch

    from peftcli.artifact.manifest import versions

    return {
        **versions(),
        "python": platform.python_version(),
        "platform": f"{platform.system()} {platform.machine()}",
        "cpus": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "precision": run.precision,
        "device": str(run.accelerator.device),
    }
