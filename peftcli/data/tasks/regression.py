"""Regression: a number for a text or a pair of texts."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Self

from peftcli.data.tasks.answer_logits import answer_logits
from peftcli.data.tasks.columns import kind, row_problems
from peftcli.data.tasks.task import Outcome
from peftcli.data.tasks.whole_texts import WholeTexts
from peftcli.errors import Problem

if TYPE_CHECKING:
    from torch import Tensor, nn

    from peftcli.data.tables import Row, Table
    from peftcli.metrics.scored import Scored
    from peftcli.recipe.recipe import DataSection

_LARGEST = 1e15  # whose square a float32 still holds


@dataclass(frozen=True, kw_only=True)
class Regression(WholeTexts):
    """A number for each row.

    The columns are ``text``, ``text_pair`` and ``label`` as in classification; in csv and tsv the numbers are their
    texts. The network has one output; the loss is the squared error of the numbers as they are, as is usual on STS-B
    (Devlin et al. 2019), so numbers in the thousands want to be scaled before.
    """

    name: ClassVar[str] = "regression"
    select: ClassVar[str] = "pearson"
    metric_names: ClassVar[tuple[str, ...]] = ("pearson", "spearman", "mse", "mae")
    metric_kind: ClassVar[str] = "numbers"
    more_metrics: ClassVar[tuple[str, ...]] = ("loss",)
    settings: ClassVar[tuple[str, ...]] = ("pooling",)

    @classmethod
    def from_section(cls, section: DataSection, train: Table) -> Self:
        """Return the task of a recipe."""
        return cls(column_names=cls.columns_of(section, train), max_length=section.max_length, pooling=section.pooling)

    def network_settings(self) -> dict[str, Any]:
        """Return that the network has one output, which is a number."""
        # transformers counts the outputs by their names.
        names = {"id2label": {0: "LABEL_0"}, "label2id": {"LABEL_0": 0}}
        return {"num_labels": 1, **names, "problem_type": "regression"}

    def label_numbers(self, rows: Sequence[Row]) -> list[float]:
        """Return the numbers of rows that have no problems."""
        return [_number(row.values[self.column_names["label"]]) for row in rows]

    def label_problems(self, table: Table) -> list[Problem]:
        """Return what is wrong with the numbers of ``table``."""
        column = self.column_names["label"]
        wrong: dict[str, list[Row]] = {}
        for row in table.rows:
            if what := _wrong(row.values.get(column)):
                wrong.setdefault(what, []).append(row)
        return row_problems(column, wrong)

    def targets(self, labels: Sequence[Any]) -> Tensor:
        """Return the numbers in float32. Shapes: (batch)."""
        import torch

        return torch.tensor(labels, dtype=torch.float32)

    def loss(self, network: nn.Module, batch: Mapping[str, Tensor]) -> Tensor:
        """Return the squared error summed over the rows."""
        return self._errors(network, batch)[0].sum()

    def outcomes(self, network: nn.Module, batch: Mapping[str, Tensor]) -> list[Outcome]:
        """Return the squared error, the number and the predicted number of every row."""
        import torch

        with torch.no_grad():
            losses, predictions = self._errors(network, batch)
        found = zip(losses.tolist(), batch["labels"].tolist(), predictions.tolist(), strict=True)
        return [{"loss": loss, "label": label, "prediction": prediction} for loss, label, prediction in found]

    def scored(self, outcomes: Sequence[Outcome], names: Sequence[str]) -> dict[str, Scored]:
        """Return correlations and mean errors; the loss is the mean squared error."""
        import numpy as np

        from peftcli.metrics import numbers

        labels, predictions = (np.array([o[key] for o in outcomes]) for key in ("label", "prediction"))
        return {name: numbers.scored("mse" if name == "loss" else name, labels, predictions) for name in names}

    def details(self, outcomes: Sequence[Outcome]) -> dict[str, Any]:
        """Return where the numbers and the predicted ones lie."""
        return {"numbers": [_spread(key, [o[key] for o in outcomes]) for key in ("label", "prediction")]}

    def signature(self, metric: str) -> str:
        """Return how exactly a metric is computed."""
        return super().signature("mse" if metric == "loss" else metric)

    def some_answer(self, row: Row) -> float:
        """Return a number."""
        del row
        return 0.0

    def named(self, outcome: Outcome) -> dict[str, Any]:
        """Return what is told of an outcome."""
        return {key: outcome[key] for key in ("label", "prediction", "loss")}

    def _errors(self, network: nn.Module, batch: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Return the squared errors and the predicted numbers. Shapes: (batch) each."""
        predictions = answer_logits(network, batch).squeeze(-1)
        return (predictions - batch["labels"]) ** 2, predictions


def _number(value: object) -> float:
    """Return the number that a value is or spells.

    Raises:
        ValueError: It is none.
    """
    if isinstance(value, bool) or not isinstance(value, int | float | str) or "_" in str(value):
        raise ValueError(value)
    return float(value)


def _wrong(value: object) -> str:
    """Return what keeps a value from being a number that can be learned."""
    if value is None or (isinstance(value, str) and not value.strip()):
        return "has no number"
    try:
        number = _number(value)
    except ValueError:
        return f"is {value[:40]!r}, not a number," if isinstance(value, str) else f"is {kind(value)}, not a number,"
    except OverflowError:
        number = math.inf
    if not math.isfinite(number):
        return "is not finite"
    return f"is greater than {_LARGEST:.0e}" if abs(number) > _LARGEST else ""


def _spread(name: str, numbers: Sequence[float]) -> dict[str, Any]:
    import numpy as np

    found = np.array(numbers)
    return {
        "of": name,
        "mean": float(found.mean()),
        "deviation": float(found.std()),
        "least": float(found.min()),
        "most": float(found.max()),
    }
