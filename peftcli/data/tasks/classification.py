"""Classification of a text or a pair of texts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar, Self

from peftcli.data.complaints import SHOWN_PROBLEMS, did_you_mean, lines, listed, raise_all
from peftcli.data.examples import Example, Examples, check_ids, pad_examples
from peftcli.data.tasks.columns import absent, check_roles, kind, mixture, require, text_problems
from peftcli.data.tasks.task import Outcome, Task
from peftcli.errors import ArtifactError, DataError, Problem, RecipeError

if TYPE_CHECKING:
    from torch import Tensor, nn
    from transformers import PreTrainedTokenizerBase

    from peftcli.data.examples import VirtualTokens
    from peftcli.data.tables import Row, Table
    from peftcli.metrics.scored import Scored
    from peftcli.recipe.recipe import DataSection

_CHUNK = 4096


@dataclass(frozen=True, kw_only=True)
class Classification(Task):
    """One label for each row.

    The columns are ``text`` (default: the file's ``text``, or ``sentence`` where that is missing), ``text_pair`` if
    the files have it or the recipe names it, and ``label``. Labels are text, whole numbers or true and false; their
    numbers for the network are their places in ``labels``.
    """

    name: ClassVar[str] = "classification"
    model_class: ClassVar[str] = "AutoModelForSequenceClassification"
    new_head: ClassVar[bool] = True
    select: ClassVar[str] = "accuracy"
    metric_names: ClassVar[tuple[str, ...]] = ("accuracy", "f1", "loss")
    metric_kind: ClassVar[str] = "classes"
    more_metrics: ClassVar[tuple[str, ...]] = ("f1_micro", "f1_weighted", "matthews")
    inputs: ClassVar[tuple[str, ...]] = ("text", "text_pair")

    labels: tuple[str, ...] = ()

    @classmethod
    def from_section(cls, section: DataSection, train: Table) -> Self:
        """Return the task of a recipe; the labels are those it lists, or those of the training rows, sorted."""
        check_roles(section.columns, (*cls.inputs, "label"))
        present = train.columns()
        default = "sentence" if "text" not in present and "sentence" in present else "text"
        pair = {"text_pair": "text_pair"} if "text_pair" in present else {}
        names = {"text": default, **pair, "label": "label", **section.columns}
        require(train, names)
        task = cls(column_names=names, max_length=section.max_length)
        return replace(task, labels=task._listed(section.labels) if section.labels else task._found(train))

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

    def problems(self, table: Table) -> list[Problem]:
        """Return what is wrong with the columns, texts and labels of ``table``."""
        if missing := absent(table, self.column_names):
            return missing
        texts = [text_problems(table, self.column_names[role]) for role in self.inputs if role in self.column_names]
        return [*(problem for problems in texts for problem in problems), *self._label_problems(table)]

    def stratum(self, row: Row) -> str:
        """Return the row's label, so that a share has as much of each."""
        return _label_text(row.values.get(self.column_names["label"])) or ""

    def encode(
        self, table: Table, reader: PreTrainedTokenizerBase, max_length: int, vocabulary: int | None = None
    ) -> Examples:
        """Return the examples; longer texts are cut at the right."""
        raise_all(self.problems(table))
        examples: list[Example] = []
        truncated = 0
        for start in range(0, len(table), _CHUNK):
            found, cut = self._encode(table.rows[start : start + _CHUNK], reader, max_length)
            examples.extend(replace(example, row=start + example.row) for example in found)
            truncated += cut
        check_ids(examples, vocabulary)
        longest = max(example.length for example in examples)
        if longest > max_length:
            what = f"data.max_length is {max_length}, too short for the tokenizer's special tokens"
            raise DataError(what, hint="Write at least 8.")
        tokens = sum(example.length for example in examples)
        counts = {"rows": len(table), "truncated": truncated, "dropped": 0, "tokens": tokens}
        return Examples(examples, {**counts, "supervised": len(examples), "longest": longest})

    def items(self, example: Example) -> int:
        """Return 1: the loss is averaged over rows."""
        del example
        return 1

    def collate(self, examples: Sequence[Example], pad: int, virtual: VirtualTokens | None) -> dict[str, Tensor]:
        """Return the padded ids, and ``labels`` of shape (batch)."""
        import torch

        labels = torch.tensor([example.label for example in examples], dtype=torch.long)
        return {**pad_examples(examples, pad, virtual), "labels": labels}

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

    def describe(self, row: Row, outcome: Outcome) -> dict[str, Any]:
        """Return the row's texts, its label and the predicted one."""
        texts = {role: row.values[self.column_names[role]] for role in self.inputs if role in self.column_names}
        named = {key: self.labels[outcome[key]] for key in ("label", "prediction")}
        return {"where": row.where, **texts, **named, "loss": outcome["loss"]}

    def _encode(
        self, rows: Sequence[Row], tokenizer: PreTrainedTokenizerBase, max_length: int
    ) -> tuple[list[Example], int]:
        texts = [
            [row.values[self.column_names[role]] for row in rows] for role in self.inputs if role in self.column_names
        ]
        encoding = tokenizer(*texts, truncation=True, max_length=max_length, return_attention_mask=False)
        numbers = {label: number for number, label in enumerate(self.labels)}
        column = self.column_names["label"]
        examples = []
        for index, row in enumerate(rows):
            ids = {key: encoding[key][index] for key in ("input_ids", "token_type_ids") if key in encoding}
            label = numbers[_label_text(row.values[column]) or ""]
            examples.append(Example(ids, len(ids["input_ids"]), index, row.where, label))
        return examples, sum(bool(piece.overflowing) for piece in encoding.encodings or ())

    def _listed(self, labels: Sequence[str]) -> tuple[str, ...]:
        if len(set(labels)) != len(labels):
            twice = next(label for label in labels if labels.count(label) > 1)
            raise RecipeError(f"data.labels names {twice!r} twice")
        if len(labels) < 2:
            raise RecipeError(f"data.labels is {list(labels)}, but a classification has at least two labels")
        return tuple(labels)

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

    def _label_problems(self, table: Table) -> list[Problem]:
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

    def _unknown(self, label: str, places: Sequence[str]) -> Problem:
        hint = f"{did_you_mean(label, self.labels)}The labels are {listed(self.labels)}."
        if label == "-1":
            hint = "-1 stands for labels that are kept secret: measure on rows that have theirs."
        return Problem(what=f"label {label!r} is unknown in {lines(places)}", where=places[0], hint=hint)


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
