"""What a task is: which columns it reads, what it learns from them, and how well."""

from __future__ import annotations

import unicodedata
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self

from peftcli.data.examples import SHARES
from peftcli.data.metrics import LOSSES, check_names, is_module, own_metric
from peftcli.errors import ArtifactError, Problem

if TYPE_CHECKING:
    from torch import Tensor, nn

    from peftcli.data.examples import Example, Examples, VirtualTokens
    from peftcli.data.shown import Shown
    from peftcli.data.tables import Row, Table
    from peftcli.metrics.scored import Scored
    from peftcli.recipe.recipe import DataSection, Pooling

NETWORK_INPUTS = ("input_ids", "attention_mask", "token_type_ids", "pixel_values")
Outcome = dict[str, Any]
"""What was measured of one example, for JSON: its loss, what was right, what the network said."""


@dataclass(frozen=True, kw_only=True)
class Task(ABC):
    """A task whose columns are found.

    Attributes:
        name: What a recipe calls it.
        model_class: The transformers class with the head that it needs.
        new_head: Whether that head is new, rather than a part of what was pretrained.
        reads: What turns its rows into numbers: a tokenizer, or an image processor.
        select: The metric by which the best checkpoint is kept.
        metric_names: The metrics that are measured by default.
        metric_kind: What they are computed from, a key of ``metrics.registry.NAMES``; empty: losses alone.
        more_metrics: Further ones that a recipe may ask for.
        text_metrics: Those of texts that the network generates.
        settings: The keys of a recipe's data section that mean something here beside those that always do.
        inputs: The columns that make two rows the same question.
        answer: The column of what is right.
        column_names: What the task calls a column -> what the files call it.
        max_length: Longest input in tokens as the recipe or a run decided it; None where neither did.
        pooling: Which of the last hidden states the head reads.
    """

    name: ClassVar[str]
    model_class: ClassVar[str]
    new_head: ClassVar[bool]
    reads: ClassVar[Literal["text", "images"]] = "text"
    select: ClassVar[str]
    metric_names: ClassVar[tuple[str, ...]]
    metric_kind: ClassVar[str] = ""
    more_metrics: ClassVar[tuple[str, ...]] = ()
    text_metrics: ClassVar[tuple[str, ...]] = ()
    settings: ClassVar[tuple[str, ...]] = ()
    inputs: ClassVar[tuple[str, ...]]
    answer: ClassVar[str] = "label"

    column_names: Mapping[str, str]
    max_length: int | None = None
    pooling: Pooling = "base"

    @classmethod
    def variant(cls, section: DataSection) -> type[Task]:
        """Return the class that does what the recipe asks of this task: another one for rows of another kind."""
        del section
        return cls

    @classmethod
    @abstractmethod
    def from_section(cls, section: DataSection, train: Table) -> Task:
        """Return the task of a recipe (see make_task)."""

    @classmethod
    def from_manifest(cls, manifest: Mapping[str, Any]) -> Self:
        """Return the task that :meth:`manifest` described."""
        names, longest = manifest.get("columns"), manifest.get("max_length")
        if not isinstance(names, dict) or not all(isinstance(name, str) for name in names.values()):
            raise ArtifactError(f"the artifact's task has the columns {names!r}")
        if not (longest is None or (type(longest) is int and longest > 0)):
            raise ArtifactError(f"the artifact's task has the max_length {longest!r}")
        return cls(column_names=names, max_length=longest)

    def manifest(self) -> dict[str, Any]:
        """Return what must be known to measure a delta later, for JSON."""
        return {"name": self.name, "columns": dict(self.column_names), "max_length": self.max_length}

    def tensors(self) -> dict[str, Tensor]:
        """Return what beside :meth:`manifest` must be known to measure later, by name."""
        return {}

    def with_tensors(self, tensors: Mapping[str, Tensor]) -> Self:
        """Return the task with what :meth:`tensors` returned.

        Raises:
            ArtifactError: Names or shapes are others.
        """
        if tensors:
            raise ArtifactError(f"holds tensors of a task that has none (for instance {min(tensors)})")
        return self

    @abstractmethod
    def problems(self, table: Table) -> list[Problem]:
        """Return what is wrong with the rows of ``table``, with their lines."""

    @abstractmethod
    def encode(self, table: Table, reader: Any, max_length: int, vocabulary: int | None = None) -> Examples:  # noqa: ANN401
        """Return the examples of ``table``.

        Args:
            table: The rows.
            reader: What ``reads`` says: a fast tokenizer, or the model's own image processor.
            max_length: Most tokens of one example, special ones included, virtual ones not.
            vocabulary: How many vectors the base model has; ids beyond it are refused.

        Raises:
            DataError: Rows do not fit the task, the reader or the base model.
        """

    @abstractmethod
    def items(self, example: Example) -> int:
        """Return what ``example`` adds to the count that the loss is averaged over."""

    @abstractmethod
    def collate(self, examples: Sequence[Example], pad: int, virtual: VirtualTokens | None) -> dict[str, Tensor]:
        """Return the batch of ``examples`` that loss and outcomes take, padded on the right with the id ``pad``."""

    def first_rows(self, batch: Mapping[str, Tensor], count: int) -> dict[str, Tensor]:
        """Return the batch of the first ``count`` examples of ``batch``."""
        return {name: tensor[:count] for name, tensor in batch.items()}

    @abstractmethod
    def loss(self, network: nn.Module, batch: Mapping[str, Tensor]) -> Tensor:
        """Return the loss summed over the items of the batch, computed in float32."""

    @abstractmethod
    def outcomes(self, network: nn.Module, batch: Mapping[str, Tensor]) -> list[Outcome]:
        """Return what the metrics need of every example of the batch, ``loss`` among it, without gradients."""

    def logits(self, network: nn.Module, batch: Mapping[str, Tensor]) -> Tensor:
        """Return the logits by which two networks are compared. Shapes: (real tokens or rows, logits)."""
        inputs = {name: batch[name] for name in NETWORK_INPUTS if name in batch}
        logits: Tensor = network(**inputs).logits
        return logits[inputs["attention_mask"].bool()] if logits.ndim == 3 else logits

    def predicted(self, network: nn.Module, batch: Mapping[str, Tensor]) -> list[Outcome]:
        """Return the outcomes of the batch with what else people want to know of a prediction: how sure it is."""
        return self.outcomes(network, batch)

    def asking(self, text: str) -> dict[str, Any]:
        """Return the values of a row that asks about ``text``."""
        return {self.column_names[self.inputs[0]]: text}

    def some_answer(self, row: Row) -> Any:  # noqa: ANN401  # whatever a column holds
        """Return an answer that ``row`` may have, whatever it is; None where none can be made up."""
        del row

    def completed(self, example: Example, outcome: Outcome) -> Outcome:
        """Return the outcome of ``example`` with what no batch of numbers could tell: its texts."""
        del example
        return outcome

    @abstractmethod
    def scored(self, outcomes: Sequence[Outcome], names: Sequence[str]) -> dict[str, Scored]:
        """Return the task's metrics called ``names``, each as what every example adds to it."""

    def metrics(self, outcomes: Sequence[Outcome], names: Sequence[str] | None) -> dict[str, float]:
        """Return the metrics of ``outcomes``: by default all that the task has, or those of ``names`` and own modules.

        Raises:
            DataError: There is no such metric, or an own module's value is not a number.
        """
        names = self.metric_names if names is None else names
        self.check_metrics(names)
        scored = self.scored(outcomes, [name for name in names if not is_module(name)])
        values: dict[str, float] = {}
        for name in names:
            values |= own_metric(name, *self.answers(outcomes)) if is_module(name) else {name: scored[name].value}
        return values

    def answers(self, outcomes: Sequence[Outcome]) -> tuple[list[Any], list[Any]]:
        """Return what a metric module of the user's own is given: the predictions, and what was right."""
        return [outcome["prediction"] for outcome in outcomes], [outcome["label"] for outcome in outcomes]

    def details(self, outcomes: Sequence[Outcome]) -> dict[str, Any]:
        """Return what a report shows beside the metrics, for JSON: scores by class, a confusion matrix."""
        del outcomes
        return {}

    @abstractmethod
    def describe(self, row: Row, outcome: Outcome) -> dict[str, Any]:
        """Return what is told of one row and its outcome: a line of predictions."""

    @abstractmethod
    def network_settings(self) -> dict[str, Any]:
        """Return what the network's configuration must say for this task."""

    def told(self, examples: Examples) -> str:
        """Return what people are told of the examples before a run: how long they are."""
        lengths = examples.lengths()
        within = ", ".join(f"{share} % within {lengths[f'p{share}']:,}" for share in SHARES)
        return f"tokens per row: {within}, longest {lengths['max']:,}"

    def shown(self, example: Example, reader: Any) -> Shown:  # noqa: ANN401
        """Return an example as people read it, its learned tokens told apart."""
        from peftcli.data.shown import Shown, label_text, stretches

        found = stretches(example, reader) if self.reads == "text" else ()
        return Shown(found, label_text(example.label, self.network_settings().get("id2label", {})))

    def check_metrics(self, names: Sequence[str]) -> None:
        """Check the metrics that a recipe names.

        Raises:
            DataError: Some are neither the task's nor a file.
        """
        check_names(names, (*self.metric_names, *self.more_metrics, *self.text_metrics))

    def signature(self, metric: str) -> str:
        """Return how exactly a metric is computed, so that its value can be had again elsewhere."""
        from peftcli.metrics.registry import signature

        if metric in LOSSES:
            return LOSSES[metric]
        return signature(metric, "texts" if metric in self.text_metrics else self.metric_kind)

    def higher_is_better(self, metric: str) -> bool:
        """Return whether a greater ``metric`` is better; a metric of the user's own is taken to be such.

        Raises:
            DataError: The task has no such metric.
        """
        from peftcli.metrics.registry import higher_is_better as better

        self.check_metrics([metric])
        return is_module(metric) or (metric not in LOSSES and better(metric))

    def key(self, row: Row) -> str:
        """Return the input of ``row`` without case, spacing and Unicode variants: equal for rows that repeat it."""
        names = [self.column_names[role] for role in self.inputs if role in self.column_names]
        return "\0".join(normalised(row.values.get(name)) for name in names)

    def stratum(self, row: Row) -> str:
        """Return the group of which a share of the rows takes its part."""
        del row
        return ""

    def labels_in(self, row: Row) -> Sequence[str]:
        """Return the labels that ``row`` adds to the count of each."""
        del row
        return ()


def normalised(text: object) -> str:
    """Return ``text`` without case, spacing and Unicode variants; nothing for what is no text."""
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split()) if isinstance(text, str) else ""
