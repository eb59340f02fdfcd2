"""Answers of one who knows how often each answer occurs, and never looks at a row."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Self

from peftcli.data.tasks.labels import OneLabel
from peftcli.data.tasks.multi_label import MultiLabel
from peftcli.data.tasks.reframed import Reframed, scores
from peftcli.data.tasks.regression import Regression
from peftcli.errors import ArtifactError

if TYPE_CHECKING:
    from torch import Tensor, nn

    from peftcli.data.tables import Row
    from peftcli.data.tasks.task import Task


@dataclass(frozen=True, kw_only=True)
class Prior(Reframed):
    """The same scores for every row.

    Attributes:
        constant: The logits of every row.
    """

    name: ClassVar[str] = "prior"
    model_class: ClassVar[str] = "AutoModel"

    constant: tuple[float, ...] = ()

    @classmethod
    def reopened(cls, of: Task, manifest: Mapping[str, Any]) -> Self:
        """Return what :meth:`manifest` described."""
        found = manifest.get("scores")
        wanted = of.network_settings().get("num_labels")
        if not isinstance(found, list) or len(found) != wanted or not all(isinstance(s, int | float) for s in found):
            raise ArtifactError(f"the artifact's task has the scores {found!r:.60}")
        return cls.around(of, constant=tuple(map(float, found)))

    def manifest(self) -> dict[str, Any]:
        """Return what must be known to measure with it later, for JSON."""
        return {**super().manifest(), "scores": list(self.constant)}

    def answering(self, network: nn.Module) -> Any:  # noqa: ANN401
        """Return what gives every row the constant; the network is never called."""
        del network

        def answer(**inputs: Tensor) -> Any:  # noqa: ANN401
            rows = next(iter(inputs.values()))
            return scores(rows.new_tensor(self.constant, dtype=_double()).expand(len(rows), -1))

        return answer


def has_prior(task: Task) -> bool:
    """Return whether a task has one answer per row that can be counted."""
    return isinstance(task, OneLabel | MultiLabel | Regression)


def prior_scores(task: Task, rows: Sequence[Row]) -> tuple[float, ...]:
    """Return the logits that the answers of ``rows`` alone call for.

    Labels: log (n_c + 1) / (n + classes). Any number of labels: log (n_c + 1) / (n - n_c + 1), each by itself.
    Numbers: their mean.
    """
    if isinstance(task, Regression):
        return (math.fsum(task.label_numbers(rows)) / len(rows),)
    assert isinstance(task, OneLabel | MultiLabel)
    counts = dict.fromkeys(task.labels, 0)
    for row in rows:
        for label in task.labels_in(row):
            counts[label] += 1
    if isinstance(task, OneLabel):
        return tuple(math.log((n + 1) / (len(rows) + len(counts))) for n in counts.values())
    return tuple(math.log((n + 1) / (len(rows) - n + 1)) for n in counts.values())


def _double() -> Any:  # noqa: ANN401  # torch is imported where something is computed
    import torch

    return torch.float64
