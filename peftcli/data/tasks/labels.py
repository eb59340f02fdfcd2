"""One label for each row: what the labels are, whether every row has one of them, and how well they are told apart."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar, Self

from peftcli.data.complaints import SHOWN_PROBLEMS, did_you_mean, lines, listed
from peftcli.data.tasks.columns import kind, mixture
from peftcli.data.tasks.task import Outcome, Task
from peftcli.errors import ArtifactError, DataError, Problem, RecipeError

if TYPE_CHECKING:
    from torch import Tensor, nn

    from peftcli.data.examples import Example
    from peftcli.data.tables import Row, Table
    from peftcli.metrics.scored import Scored


@dataclass(frozen=True, kw_only=True)
class OneLabel(Task):
    """A task whose rows have one label each, in the column ``label``.

    Labels are text, whole numbers or true and false; their numbers for the network are their places in ``labels``.
    """

    new_head: ClassVar[bool] = True
    select: ClassVar[str] = "accuracy"
    metric_names: ClassVar[tuple[str, ...]] = ("accuracy", "f1", "loss")
    metric_kind: ClassVar[str] = "classes"
    more_metrics: ClassVar[tuple[str, ...]] = ("f1_micro", "f1_weighted", "matthews")

    labels: tuple[str, ...] = ()

    def with_labels(self, given: Sequence[str] | None, train: Table) -> Self:
        """Return the task with the labels that the recipe lists, or those of the training rows, sorted.

        Raises:
            RecipeError: The recipe lists one label, or one twice.
            DataError: The rows hold fewer than two.
        """
        return replace(self, labels=_checked(given) if given else self._found(train))

    @classmethod
    def from_manifest(cls, manifest: Mapping[str, Any]) -> Self:
        """Return the task that :meth:`manifest` described."""
        labels = manifest.get("labels")
        if not isinstance(labels, list) or not all(isinstance(label, str) for label in labels) or len(labels) < 2:
            raise ArtifactError(f"the artifact's task has the labels {labels!r}")
        return replace(super().from_manifest(manifest), labels=tuple(labels))

    def manifest(self) -> dict[str, Any]:
        """Return what must be known to measure a delta later, for JSON."""
        return {**super().manifest(), "labels": list(self.labels)}

    def network_settings(self) -> dict[str, Any]:
        """Return the labels as a network's configuration holds them."""
        return {
            "num_labels": len(self.labels),
            "id2label": dict(enumerate(self.labels)),
            "label2id": {label: number for number, label in enumerate(self.labels)},
            "problem_type": "single_label_classification",
        }

    def stratum(self, row: Row) -> str:
        """Return the row's label, so that a share has as much of each."""
        return _label_text(row.values.get(self.column_names["label"])) or ""

    def items(self, example: Example) -> int:
        """Return 1: the loss is averaged over rows."""
        del example
        return 1

    def loss(self, network: nn.Module, batch: Mapping[str, Tensor]) -> Tensor:
        """Return the cross entropy summed over the rows."""
        from torch.nn import functional

        return functional.cross_entropy(_logits(network, batch), batch["labels"], reduction="sum")

    def outcomes(self, network: nn.Module, batch: Mapping[str, Tensor]) -> list[Outcome]:
        """Return loss, label and prediction of every row, the latter two as numbers."""
        import torch
        from torch.nn import functional

        with torch.no_grad():
            logits = _logits(network, batch)
            losses = functional.cross_entropy(logits, batch["labels"], reduction="none")
            found = zip(losses.tolist(), batch["labels"].tolist(), logits.argmax(-1).tolist(), strict=True)
        return [{"loss": loss, "label": label, "prediction": prediction} for loss, label, prediction in found]

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
        return [numbers[_label_text(row.values[column]) or ""] for row in rows]

    def named(self, outcome: Outcome) -> dict[str, Any]:
        """Return what is told of an outcome, with the names of its labels."""
        return {**{key: self.labels[outcome[key]] for key in ("label", "prediction")}, "loss": outcome["loss"]}

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
            label = _label_text(value)
            if value is None or value == "":
                missing.append(row.where)
            elif label is None:
                bad.append(row)
            elif self.labels and label not in self.labels:
                unknown.setdefault(label, []).append(row.where)
        problems = [self._unknown(label, places) for label, places in list(unknown.items())[:SHOWN_PROBLEMS]]
        if len(unknown) > SHOWN_PROBLEMS:
            what = f"{len(unknown)} labels are unknown in all, of which the first {SHOWN_PROBLEMS} are shown"
            problems.append(Problem(what=what, where=table.files[0].path))
        if missing:
            problems.append(Problem(what=f"column {column!r} has no label in {lines(missing)}", where=missing[0]))
        if bad:
            value = bad[0].values[column]
            what = f"column {column!r} is {value!r}, {kind(value)}, not a label, in {lines([row.where for row in bad])}"
            hint = "A label is text, a whole number, or true or false."
            problems.append(Problem(what=what, where=bad[0].where, hint=hint))
        return problems

    def _found(self, train: Table) -> tuple[str, ...]:
        column = self.column_names["label"]
        found = {label for row in train.rows if (label := _label_text(row.values.get(column)))}
        if len(found) < 2:
            only = Problem(
                what=f"column {column!r} holds {len(found)} label{'s' * (len(found) != 1)}: {listed(found) or 'none'}",
                where=train.files[0].path,
                hint="A classification has at least two.",
            )
            raise DataError(self.problems(train) or [only])
        numeric = all(label.removeprefix("-").isdecimal() and str(int(label)) == label for label in found)
        return tuple(sorted(found, key=int) if numeric else sorted(found))

    def _unknown(self, label: str, places: Sequence[str]) -> Problem:
        hint = f"{did_you_mean(label, self.labels)}The labels are {listed(self.labels)}."
        if label == "-1":
            hint = "-1 stands for labels that are kept secret: measure on rows that have theirs."
        return Problem(what=f"label {label!r} is unknown in {lines(places)}", where=places[0], hint=hint)


def _checked(labels: Sequence[str]) -> tuple[str, ...]:
    if len(set(labels)) != len(labels):
        twice = next(label for label in labels if labels.count(label) > 1)
        raise RecipeError(f"data.labels names {twice!r} twice")
    if len(labels) < 2:
        raise RecipeError(f"data.labels is {list(labels)}, but a classification has at least two labels")
    return tuple(labels)


def _label_text(value: object) -> str | None:
    """Return a label as text, or None for what is no label."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int):
        return str(value)
    return value if isinstance(value, str) and value else None


def _logits(network: nn.Module, batch: Mapping[str, Tensor]) -> Tensor:
    """Return the network's logits in float32. Shapes: (batch, labels)."""
    inputs = {key: value for key, value in batch.items() if key != "labels"}
    logits: Tensor = network(**inputs).logits
    return logits.float()
