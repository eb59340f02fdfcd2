"""Classification with any number of labels for each row."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Self

from peftcli.data.tasks.answer_logits import answer_logits
from peftcli.data.tasks.columns import kind, mixture, row_problems
from peftcli.data.tasks.label_names import Labelled, label_text, with_shares
from peftcli.data.tasks.task import Outcome
from peftcli.data.tasks.whole_texts import WholeTexts
from peftcli.errors import Problem

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor, nn

    from peftcli.data.tables import Row, Table
    from peftcli.metrics.scored import Scored
    from peftcli.recipe.recipe import DataSection

SEPARATOR = ";"
"""What stands between the labels where a row has them as one text."""
_HINT = f"Labels are a list, or a text with {SEPARATOR!r} between them; an empty one means none."


@dataclass(frozen=True, kw_only=True)
class MultiLabel(Labelled, WholeTexts):
    """Any number of labels for each row, each decided by itself.

    The columns are those of classification. ``label`` is a list, or a text with ``;`` between the labels; an empty one
    means that no label fits. The loss is the binary cross entropy summed over the labels, a mean over rows; a label is
    predicted where its logit is greater than 0.
    """

    name: ClassVar[str] = "multi-label-classification"
    problem_type: ClassVar[str] = "multi_label_classification"
    settings: ClassVar[tuple[str, ...]] = ("labels", "multi_label", "pooling")
    select: ClassVar[str] = "f1"
    metric_names: ClassVar[tuple[str, ...]] = ("f1", "f1_micro", "accuracy", "loss")
    metric_kind: ClassVar[str] = "multilabel"
    more_metrics: ClassVar[tuple[str, ...]] = ("f1_weighted", "f1_samples", "hamming")

    @classmethod
    def from_section(cls, section: DataSection, train: Table) -> Self:
        """Return the task of a recipe; the labels are those it lists, or those of the training rows, sorted."""
        task = cls(column_names=cls.columns_of(section, train), max_length=section.max_length, pooling=section.pooling)
        return task.with_labels(section.labels, train)

    def labels_in(self, row: Row) -> Sequence[str]:
        """Return the row's labels."""
        return [label for label in _parts(row.values.get(self.column_names["label"])) or () if label is not None]

    def stratum(self, row: Row) -> str:
        """Return the row's set of labels, so that a share has as much of each."""
        return SEPARATOR.join(sorted(self.labels_in(row)))

    def label_numbers(self, rows: Sequence[Row]) -> list[tuple[int, ...]]:
        """Return the numbers of the labels of every row, in order."""
        numbers = {label: number for number, label in enumerate(self.labels)}
        return [tuple(sorted(numbers[label] for label in self.labels_in(row))) for row in rows]

    def targets(self, labels: Sequence[Any]) -> Tensor:
        """Return 1 where a row has a label and 0 elsewhere. Shapes: (batch, labels)."""
        import torch

        found = torch.zeros(len(labels), len(self.labels))
        for row, numbers in enumerate(labels):
            found[row, list(numbers)] = 1.0
        return found

    def loss(self, network: nn.Module, batch: Mapping[str, Tensor]) -> Tensor:
        """Return the binary cross entropy summed over labels and rows."""
        from torch.nn import functional

        logits = answer_logits(network, batch)
        return functional.binary_cross_entropy_with_logits(logits, batch["labels"], reduction="sum")

    def outcomes(self, network: nn.Module, batch: Mapping[str, Tensor]) -> list[Outcome]:
        """Return loss, labels and predicted labels of every row, the latter two as lists of numbers."""
        import torch

        with torch.no_grad():
            return _outcomes(answer_logits(network, batch), batch["labels"])

    def predicted(self, network: nn.Module, batch: Mapping[str, Tensor]) -> list[Outcome]:
        """Return the outcomes with the probability of every label."""
        import torch

        with torch.no_grad():
            logits = answer_logits(network, batch)
            return with_shares(_outcomes(logits, batch["labels"]), logits.sigmoid().tolist())

    def some_answer(self, row: Row) -> list[str]:
        """Return no label."""
        del row
        return []

    def scored(self, outcomes: Sequence[Outcome], names: Sequence[str]) -> dict[str, Scored]:
        """Return F1 and its kin over sets of labels, and the mean loss."""
        from peftcli.metrics import multilabel
        from peftcli.metrics.scored import averaged

        labels, predictions = self._indicators(outcomes, "label"), self._indicators(outcomes, "prediction")
        return {
            name: averaged(o["loss"] for o in outcomes)
            if name == "loss"
            else multilabel.scored(name, labels, predictions)
            for name in names
        }

    def details(self, outcomes: Sequence[Outcome]) -> dict[str, Any]:
        """Return precision, recall and F1 of every label."""
        from peftcli.metrics.classes import table_row

        labels, predictions = self._indicators(outcomes, "label"), self._indicators(outcomes, "prediction")
        counts = zip(self.labels, (labels * predictions).sum(0), labels.sum(0), predictions.sum(0), strict=True)
        return {"classes": [table_row(label, *(int(count) for count in found)) for label, *found in counts]}

    def signature(self, metric: str) -> str:
        """Return how exactly a metric is computed."""
        if metric == "loss":
            return "binary cross entropy in nats, summed over labels, the mean over rows"
        return super().signature(metric)

    def named(self, outcome: Outcome) -> dict[str, Any]:
        """Return what is told of an outcome, with the names of its labels."""
        names = {key: [self.labels[number] for number in outcome[key]] for key in ("label", "prediction")}
        return {**names, **self.named_shares(outcome), "loss": outcome["loss"]}

    def label_problems(self, table: Table) -> list[Problem]:
        """Return what is wrong with the labels of ``table``."""
        column = self.column_names["label"]
        if mixed := mixture(table, column):
            return [mixed]
        wrong: dict[str, list[Row]] = {}
        unknown: dict[str, list[str]] = {}
        known = set(self.labels)
        for row in table.rows:
            if what := _wrong(row.values.get(column)):
                wrong.setdefault(what, []).append(row)
            elif known:
                for label in set(self.labels_in(row)) - known:
                    unknown.setdefault(label, []).append(row.where)
        return [*self.unknown_problems(dict(sorted(unknown.items())), table), *row_problems(column, wrong, _HINT)]

    def _indicators(self, outcomes: Sequence[Outcome], key: str) -> np.ndarray:
        """Return 1 where an outcome has a label. Shapes: (examples, labels)."""
        import numpy as np

        found = np.zeros((len(outcomes), len(self.labels)))
        for row, outcome in enumerate(outcomes):
            found[row, outcome[key]] = 1.0
        return found


def _parts(value: object) -> list[str | None] | None:
    """Return the labels that a value holds, None for a part that cannot be one; None: the value holds none."""
    if isinstance(value, str):
        return [part.strip() or None for part in value.split(SEPARATOR)] if value.strip() else []
    return [label_text(part) for part in value] if isinstance(value, list) else None


def _wrong(value: object) -> str:
    """Return what keeps a value from being labels."""
    if value is None:
        return "has no labels"
    parts = _parts(value)
    if parts is None:
        return f"is {kind(value)}, not labels,"
    if isinstance(value, str) and value.lstrip().startswith("["):
        return "is a list written as text"
    if None in parts:
        return "has an empty label" if isinstance(value, str) else "has a label that is no text or whole number"
    twice = next((part for part in parts if parts.count(part) > 1), None)
    return f"names {twice!r} twice" if twice else ""


def _outcomes(logits: Tensor, labels: Tensor) -> list[Outcome]:
    from torch.nn import functional

    losses = functional.binary_cross_entropy_with_logits(logits, labels, reduction="none").sum(1)
    sets = [[row.nonzero().flatten().tolist() for row in side] for side in (labels > 0, logits > 0)]
    found = zip(losses.tolist(), *sets, strict=True)
    return [{"loss": loss, "label": label, "prediction": prediction} for loss, label, prediction in found]
