"""Which metrics there are, and the user's own, through the evaluate library."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from peftcli.data.complaints import did_you_mean, listed, raise_all
from peftcli.errors import DataError, Problem
from peftcli.metrics.registry import missing

LOSSES = {
    "loss": "cross entropy in nats, the mean over rows or labelled tokens",
    "perplexity": "exponential of the loss per labelled token",
}
"""The metrics that every task can have, and how they are computed."""


def is_module(name: str) -> bool:
    """Return whether a metric's name is the path of a metric module."""
    return name.endswith(".py")


def check_names(names: Sequence[str], known: Sequence[str]) -> None:
    """Check that every name is a known metric or the path of an existing module.

    Raises:
        DataError: Some are not.
    """
    problems = []
    for name in names:
        if is_module(name) and not Path(name).is_file():
            problems.append(Problem(what="no such metric module", where=name))
        elif not is_module(name) and name not in known:
            hint = f"{did_you_mean(name, known)}The task has {listed(known)}; a path that ends in .py is your own."
            problems.append(Problem(what=f"no metric is called {name!r}", hint=hint))
        elif lacking := missing(name):
            hint = f"Install {lacking}, or measure something else."
            problems.append(Problem(what=f"the metric {name!r} needs {lacking}", hint=hint))
    raise_all(problems)


def own_metric(path: str, predictions: Sequence[Any], references: Sequence[Any]) -> dict[str, float]:
    """Return what the metric module at ``path`` computes.

    Raises:
        DataError: Some of its values are not numbers.
    """
    import evaluate

    values = evaluate.load(path).compute(predictions=predictions, references=references) or {}
    try:
        return {str(name): float(value) for name, value in values.items()}
    except (TypeError, ValueError):
        raise DataError("the metric module returns a value that is not a number", where=path) from None
