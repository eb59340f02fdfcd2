"""Public data sets that are known by a short name: where they are, what their columns mean, how they are scored."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from peftcli.recipe.recipe import Recipe

_SENTENCES = {"text": "sentence1", "text_pair": "sentence2"}
_GLUE = "nyu-mll/glue"


@dataclass(frozen=True, kw_only=True)
class Known:
    """One data set.

    Attributes:
        hub: Its id.
        config: Which of its configurations.
        task: The task that the rest is meant for.
        columns: As in a recipe's data section.
        labels: In the order of their numbers.
        splits: Where a split has another name.
        metrics: By which it is scored; the first one chooses the checkpoint.
    """

    hub: str
    config: str | None = None
    task: str | None = None
    columns: Mapping[str, str] = field(default_factory=dict)
    labels: tuple[str, ...] = ()
    splits: Mapping[str, str] = field(default_factory=dict)
    metrics: tuple[str, ...] = ()


def _glue(config: str, columns: Mapping[str, str], labels: tuple[str, ...], **changes: Any) -> Known:  # noqa: ANN401
    task = "classification" if labels else "regression"
    settings: dict[str, Any] = {"metrics": ("accuracy",), **changes}
    return Known(hub=_GLUE, config=config, task=task, columns={**columns, "label": "label"}, labels=labels, **settings)


def _mnli(kind: str) -> Known:
    columns = {"text": "premise", "text_pair": "hypothesis"}
    splits = {"validation": f"validation_{kind}", "test": f"test_{kind}"}
    return _glue("mnli", columns, ("entailment", "neutral", "contradiction"), splits=splits)


def _squad(hub: str) -> Known:
    columns = {"question": "question", "context": "context", "answers": "answers"}
    return Known(hub=hub, task="span-qa", columns=columns, metrics=("f1", "exact_match"))


# The F1 of MRPC and QQP that GLUE reports is that of one class; ours is the mean over classes, so accuracy comes first.
KNOWN: Mapping[str, Known] = {
    "glue/cola": _glue("cola", {"text": "sentence"}, ("unacceptable", "acceptable"), metrics=("matthews", "accuracy")),
    "glue/sst2": _glue("sst2", {"text": "sentence"}, ("negative", "positive")),
    "glue/mrpc": _glue("mrpc", _SENTENCES, ("not_equivalent", "equivalent"), metrics=("accuracy", "f1")),
    "glue/stsb": _glue("stsb", _SENTENCES, (), metrics=("pearson", "spearman")),
    "glue/qqp": _glue(
        "qqp",
        {"text": "question1", "text_pair": "question2"},
        ("not_duplicate", "duplicate"),
        metrics=("accuracy", "f1"),
    ),
    "glue/mnli": _mnli("matched"),
    "glue/mnli_mismatched": _mnli("mismatched"),
    "glue/qnli": _glue("qnli", {"text": "question", "text_pair": "sentence"}, ("entailment", "not_entailment")),
    "glue/rte": _glue("rte", _SENTENCES, ("entailment", "not_entailment")),
    "glue/wnli": _glue("wnli", _SENTENCES, ("not_entailment", "entailment")),
    "squad": _squad("rajpurkar/squad"),
    "squad_v2": _squad("rajpurkar/squad_v2"),
}


def completed(recipe: Recipe) -> Recipe:
    """Return the recipe with what is known of its training data filled in where it says nothing itself."""
    known = KNOWN.get(recipe.data.train) if isinstance(recipe.data.train, str) else None
    if known is None or known.task != recipe.data.task:
        return recipe
    data: dict[str, Any] = {"columns": {**known.columns, **recipe.data.columns}}
    if known.labels and recipe.data.labels is None:
        data["labels"] = list(known.labels)
    evaluation: dict[str, Any] = {}
    if recipe.evaluation.metrics is None:
        evaluation["metrics"] = [*known.metrics, "loss"]
        if recipe.evaluation.select is None:
            evaluation["select"] = known.metrics[0]
    return recipe.model_copy(
        update={
            "data": recipe.data.model_copy(update=data),
            "evaluation": recipe.evaluation.model_copy(update=evaluation),
        }
    )
