"""The tasks by name: each file holds one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from peftcli.data.tasks.causal_lm import CausalLm
from peftcli.data.tasks.classification import Classification
from peftcli.data.tasks.image_classification import ImageClassification
from peftcli.data.tasks.label_likelihood import LabelLikelihood
from peftcli.data.tasks.multi_label import MultiLabel
from peftcli.data.tasks.multiple_choice import MultipleChoice
from peftcli.data.tasks.prior import Prior
from peftcli.data.tasks.probed import Probed
from peftcli.data.tasks.reframed import Reframed
from peftcli.data.tasks.regression import Regression
from peftcli.data.tasks.seq2seq import Seq2Seq
from peftcli.data.tasks.span_qa import SpanQa
from peftcli.data.tasks.task import Task
from peftcli.data.tasks.token_classification import TokenClassification, WordTags
from peftcli.errors import ArtifactError, Problem, RecipeError

if TYPE_CHECKING:
    from peftcli.data.tables import Table
    from peftcli.recipe.recipe import DataSection

__all__ = [
    "CausalLm",
    "Classification",
    "ImageClassification",
    "MultiLabel",
    "MultipleChoice",
    "Regression",
    "Seq2Seq",
    "SpanQa",
    "Task",
    "TokenClassification",
    "WordTags",
    "make_task",
    "model_class",
    "network_of",
    "task_from_manifest",
]

_TASKS: dict[str, type[Task]] = {
    task.name: task
    for task in (
        Classification,
        MultiLabel,
        Regression,
        TokenClassification,
        WordTags,
        SpanQa,
        MultipleChoice,
        CausalLm,
        Seq2Seq,
        ImageClassification,
    )
}

_REFRAMED: dict[str, type[Reframed]] = {task.name: task for task in (Prior, Probed, LabelLikelihood)}
"""What a task becomes where a method answers it without training."""


def make_task(section: DataSection, train: Table) -> Task:
    """Return the task of a recipe, its columns and labels found in the training rows.

    Raises:
        RecipeError: ``data.columns`` or ``data.labels`` says what the task cannot mean.
        DataError: A column is not in the files, or there are fewer than two labels.
    """
    task = _TASKS[section.task]
    special = {key for other in _TASKS.values() for key in other.settings}
    # A resolved recipe holds every key: what stands at its default was not asked for.
    asked = {key for key in special if getattr(section, key) != type(section).model_fields[key].get_default()}
    meaningless = sorted(asked - set(task.settings))
    if problems := [Problem(what=f"data.{key} means nothing for {task.name}") for key in meaningless]:
        raise RecipeError(problems)
    return task.variant(section).from_section(section, train)


def task_from_manifest(manifest: Mapping[str, Any]) -> Task:
    """Return the task that :meth:`Task.manifest` described.

    Raises:
        ArtifactError: The description is not one of a task.
    """
    name, inner = manifest.get("name"), manifest.get("of")
    if isinstance(name, str) and name in _REFRAMED and isinstance(inner, dict):
        return _REFRAMED[name].reopened(task_from_manifest(inner), manifest)
    if not isinstance(name, str) or name not in _TASKS:
        raise ArtifactError(f"the artifact names the task {name!r}", hint=f"Known are {', '.join(_TASKS)}.")
    return _TASKS[name].from_manifest(manifest)


def has_labels(name: str) -> bool:
    """Return whether the task called ``name`` has labels that the training rows, or the recipe, must tell it."""
    return hasattr(_TASKS[name], "labels")


def model_class(name: str) -> str:
    """Return the transformers class that the task called ``name`` needs."""
    return _TASKS[name].model_class


def network_of(manifest: Mapping[str, Any] | None) -> tuple[str, int | None]:
    """Return the transformers class that a manifest's task needs and its number of labels; no task: the bare model.

    Raises:
        ArtifactError: The description is not one of a task.
    """
    if manifest is None:
        return "AutoModel", None
    task = task_from_manifest(manifest)
    return task.model_class, task.network_settings().get("num_labels")
