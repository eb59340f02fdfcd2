"""The metrics as modules of the evaluate library that need no network."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from peftcli.metrics import answers, classes, multilabel, numbers, tags, texts
from peftcli.metrics.registry import kind_of, signature
from peftcli.metrics.scored import Scored

if TYPE_CHECKING:
    from datasets import Features
    from evaluate import EvaluationModule, MetricInfo


def as_evaluate(name: str, kind: str | None = None) -> EvaluationModule:
    """Return a metric as an evaluation module: ``as_evaluate("bleu").compute(predictions=..., references=...)``.

    Predictions and references are classes, rows of 0 and 1, numbers, rows of tags, or texts, where the references of
    texts and answers are lists. ``compute`` returns the value under the metric's name.

    Args:
        name: Of the metric.
        kind: A key of ``registry.NAMES``; by default the first that has the name.

    Raises:
        KeyError: There is no such metric.
    """
    import evaluate

    of_kind = kind or kind_of(name)
    described = signature(name, of_kind)

    class Module(evaluate.Metric):  # type: ignore[misc]
        def _info(self) -> MetricInfo:
            return evaluate.MetricInfo(
                description=described, citation="", inputs_description="", features=_features(of_kind), module_name=name
            )

        def _compute(self, predictions: Sequence[Any], references: Sequence[Any]) -> dict[str, float]:
            return {name: scored(of_kind, name, predictions, references).value}

    return Module(keep_in_memory=True)


def _features(kind: str) -> Features:
    from datasets import Features, List, Value

    one = {
        "classes": Value("int64"),
        "multilabel": List(Value("int64")),
        "numbers": Value("float64"),
        "tags": List(Value("string")),
        "answers": Value("string"),
        "texts": Value("string"),
    }[kind]
    return Features({"predictions": one, "references": List(one) if kind in ("answers", "texts") else one})


def scored(kind: str, name: str, predictions: Sequence[Any], references: Sequence[Any]) -> Scored:
    """Return a metric of a kind on plain lists of predictions and of what is right.

    Raises:
        KeyError: There is no such metric.
        DataError: A text has no reference.
    """
    import numpy as np

    if kind == "classes":
        count = 1 + max((*predictions, *references), default=0)
        return classes.scored(name, np.array(references), np.array(predictions), count)
    if kind == "multilabel":
        return multilabel.scored(name, np.array(references), np.array(predictions))
    if kind == "numbers":
        return numbers.scored(name, np.array(references), np.array(predictions))
    if kind == "tags":
        return tags.scored(name, references, predictions)
    if kind == "answers":
        return answers.scored(name, predictions, references)
    return texts.scored(name, predictions, references)
