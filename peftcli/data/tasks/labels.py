"""One label for each row: whether every row has one, and how well they are told apart."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from peftcli.data.complaints import lines
from peftcli.data.tasks.answer_logits import answer_logits
from peftcli.data.tasks.columns import kind, mixture
from peftcli.data.tasks.label_names import Labelled, label_text, with_shares
from peftcli.data.tasks.task import Outcome
from peftcli.errors import Problem

if TYPE_CHECKING:
    from torch import Tensor, nn

    from peftcli.data.examples import Example
    from peftcli.data.tables import Row, Table
    from peftcli.metrics.scored import Scored


@dataclass(frozen=True, kw_only=True)
class OneLabel(Labelled):
    """A task whose rows have one label each, in the column ``label``."""

    problem_type: ClassVar[str] = "single_label_classification"
    select: ClassVar[str] = "accuracy"
    metric_names: ClassVar[tuple[str, ...]] = ("accuracy", "f1", "loss")
    metric_kind: ClassVar[str] = "classes"
    more_metrics: ClassVar[tuple[str, ...]] = ("f1_micro", "f1_weighted", "matthews")

    def labels_in(self, row: Row) -> Sequence[str]:
        """Return the row's label."""
        label = label_text(row.values.get(self.column_names["label"]))
        return [label] if label else []

    def stratum(self, row: Row) -> str:
        """Return the row's label, so that a share has as much of each."""
        return "".join(self.labels_in(row))

    def items(self, example: Example) -> int:
        """Return 1: the loss is averaged over rows."""
        del example
        return 1

    def loss(self, network: nn.Module, batch: Mapping[str, Tensor]) -> Tensor:
        """Return the cross entropy summed over the rows."""
        from torch.nn import functional

        return functional.cross_entropy(answer_logits(network, batch), batch["labels"], reduction="sum")

    def outcomes(self, network: nn.Module, batch: Mapping[str, Tensor]) -> list[Outcome]:
        """Return loss, label and prediction of every row, the latter two as numbers."""
        import torch

        with torch.no_grad():
            return _outcomes(answer_logits(network, batch), batch["labels"])

    def predicted(self, network: nn.Module, batch: Mapping[str, Tensor]) -> list[Outcome]:
        """Return the outcomes with the probability of every label."""
        import torch

        with torch.no_grad():
            logits = answer_logits(network, batch)
            return with_shares(_outcomes(logits, batch["labels"]), logits.softmax(-1).tolist())

    def some_answer(self, row: Row) -> str:
        """Return a label."""
        del row
        return self.labels[0]

    def scored(self, outcomes: Sequence[Outcome], names: Sequence[str]) -> dict[str, Scored]:
        """Return accuracy, F1 and their kin over the labels, and the mean loss."""
        import numpy as np

        from peftcli.metrics import classes
        from peftcli.metrics.scored import averaged

        labels, predictions = (np.array([o[key] for o in outcomes], dtype=int) for key in ("label", "prediction"))
        return {
            name: averaged(o["loss"] for o in outcomes)
            if name == "loss"
            else classes.scored(name, labels, predictions, len(self.labels))
            for name in names
        }

    def details(self, outcomes: Sequence[Outcome]) -> dict[str, Any]:
        """Return precision, recall and F1 of every label, and the confusion matrix (rows: what was right)."""
        import numpy as np

        from peftcli.metrics import classes

        labels, predictions = (np.array([o[key] for o in outcomes], dtype=int) for key in ("label", "prediction"))
        return {
            "classes": classes.class_table(labels, predictions, self.labels),
            "confusion": classes.confusion(labels, predictions, len(self.labels)),
        }

    def label_numbers(self, rows: Sequence[Row]) -> list[int]:
        """Return the numbers of the labels of rows that have no problems."""
        numbers, column = {label: number for number, label in enumerate(self.labels)}, self.column_names["label"]
        return [numbers[label_text(row.values[column]) or ""] for row in rows]

    def named(self, outcome: Outcome) -> dict[str, Any]:
        """Return what is told of an outcome, with the names of its labels."""
        told = {key: self.labels[outcome[key]] for key in ("label", "prediction")}
        return {**told, **self.named_shares(outcome), "loss": outcome["loss"]}

    def label_problems(self, table: Table) -> list[Problem]:
        """Return what is wrong with the labels of ``table``."""
        column = self.column_names["label"]
        if mixed := mixture(table, column):
            return [mixed]
        missing: list[str] = []
        bad: list[Row] = []
        unknown: dict[str, list[str]] = {}
        for row in table.rows:
            value = row.values.get(column)
            label = label_text(value)
            if value is None or value == "":
                missing.append(row.where)
            elif label is None:
                bad.append(row)
            elif self.labels and label not in self.labels:
                unknown.setdefault(label, []).append(row.where)
        problems = self.unknown_problems(unknown, table)
        if missing:
            problems.append(Problem(what=f"column {column!r} has no label in {lines(missing)}", where=missing[0]))
        if bad:
            value = bad[0].values[column]
            what = f"column {column!r} is {value!r}, {kind(value)}, not a label, in {lines([row.where for row in bad])}"
            hint = "A label is text, a whole number, or true or false."
            problems.append(Problem(what=what, where=bad[0].where, hint=hint))
        return problems


def _outcomes(logits: Tensor, labels: Tensor) -> list[Outcome]:
    from torch.nn import functional

    losses = functional.cross_entropy(logits, labels, reduction="none")
    found = zip(losses.tolist(), labels.tolist(), logits.argmax(-1).tolist(), strict=True)
    return [{"loss": loss, "label": label, "prediction": prediction} for loss, label, prediction in found]
