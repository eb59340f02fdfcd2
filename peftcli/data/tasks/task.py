"""What a task is: which columns it reads, what it learns from them, and how well."""

from __future__ import annotations

import unicodedata
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Self

from peftcli.data.metrics import LOWER_IS_BETTER, check_names, is_module
from peftcli.errors import ArtifactError, Problem

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor, nn
    from transformers import PreTrainedTokenizerBase

    from peftcli.data.examples import Example, Examples, VirtualTokens
    from peftcli.data.tables import Row, Table
    from peftcli.recipe.recipe import DataSection


@dataclass(frozen=True, kw_only=True)
class Task(ABC):
    """A task whose columns are found.

    Attributes:
        column_names: What the task calls a column -> what the files call it.
        max_length: Longest input in tokens as the recipe or a run decided it; None where neither did.
    """

    name: ClassVar[str]
    model_class: ClassVar[str]
    new_head: ClassVar[bool]
    select: ClassVar[str]
    columns: ClassVar[tuple[str, ...]]
    metric_names: ClassVar[tuple[str, ...]]
    inputs: ClassVar[tuple[str, ...]]

    column_names: Mapping[str, str]
    max_length: int | None = None

    @classmethod
    @abstractmethod
    def from_section(cls, section: DataSection, train: Table) -> Self:
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

    @abstractmethod
    def problems(self, table: Table) -> list[Problem]:
        """Return what is wrong with the rows of ``table``, with their lines."""

    @abstractmethod
    def encode(
        self, table: Table, tokenizer: PreTrainedTokenizerBase, max_length: int, vocabulary: int | None = None
    ) -> Examples:
        """Return the examples of ``table``.

        Args:
            table: The rows.
            tokenizer: A fast tokenizer.
            max_length: Most tokens of one example, special ones included, virtual ones not.
            vocabulary: How many vectors the base model has; ids beyond it are refused.

        Raises:
            DataError: Rows do not fit the task, the tokenizer or the base model.
        """

    @abstractmethod
    def items(self, example: Example) -> int:
        """Return what ``example`` adds to the count that the loss is averaged over."""

    @abstractmethod
    def collate(self, examples: Sequence[Example], pad: int, virtual: VirtualTokens | None) -> dict[str, Tensor]:
        """Return the batch of ``examples`` that loss and outcomes take, padded on the right with the id ``pad``."""

    @abstractmethod
    def loss(self, network: nn.Module, batch: Mapping[str, Tensor]) -> Tensor:
        """Return the loss summed over the items of the batch, computed in float32."""

    @abstractmethod
    def outcomes(self, network: nn.Module, batch: Mapping[str, Tensor]) -> Tensor:
        """Return what the metrics need of every example, without gradients.

        Shapes: (examples, columns) in float64.
        """

    @abstractmethod
    def metrics(self, outcomes: np.ndarray, names: Sequence[str] | None) -> dict[str, float]:
        """Return the metrics of ``outcomes``, by default all that the task has."""

    @abstractmethod
    def describe(self, row: Row, outcome: Sequence[float]) -> dict[str, Any]:
        """Return what is told of one row and its outcome: a line of predictions."""

    @abstractmethod
    def network_settings(self) -> dict[str, Any]:
        """Return what the network's configuration must say for this task."""

    def check_metrics(self, names: Sequence[str]) -> None:
        """Check the metrics that a recipe names.

        Raises:
            DataError: Some are neither the task's nor a file.
        """
        check_names(names, self.metric_names)

    def higher_is_better(self, metric: str) -> bool:
        """Return whether a greater ``metric`` is better; a metric of the user's own is taken to be such.

        Raises:
            DataError: The task has no such metric.
        """
        self.check_metrics([metric])
        return is_module(metric) or metric not in LOWER_IS_BETTER

    def key(self, row: Row) -> str:
        """Return the input of ``row`` without case, spacing and Unicode variants: equal for rows that repeat it."""
        names = [self.column_names[role] for role in self.inputs if role in self.column_names]
        return "\0".join(normalised(row.values.get(name)) for name in names)

    def stratum(self, row: Row) -> str:
        """Return the group of which a share of the rows takes its part."""
        del row
        return ""


def normalised(text: object) -> str:
    """Return ``text`` without case, spacing and Unicode variants; nothing for what is no text."""
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split()) if isinstance(text, str) else ""
