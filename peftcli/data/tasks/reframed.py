"""A task whose rows are answered in another way than by a head that was trained for them."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, ClassVar, Self

from peftcli.data.tasks.task import Outcome, Task
from peftcli.errors import MethodError

if TYPE_CHECKING:
    from torch import Tensor, nn

    from peftcli.data.examples import Example, Examples, VirtualTokens
    from peftcli.data.tables import Row, Table
    from peftcli.errors import Problem
    from peftcli.metrics.scored import Scored
    from peftcli.recipe.recipe import DataSection

_SHARED = ("reads", "select", "metric_names", "metric_kind", "more_metrics", "text_metrics", "settings", "inputs")


@dataclass(frozen=True, kw_only=True)
class Reframed(Task):
    """The task ``of``, with something else in place of its network: rows, columns and metrics stay the same.

    A subclass says what gives the scores: ``answering`` stands where the network with its head would be called.
    """

    new_head: ClassVar[bool] = False

    of: Task

    def __post_init__(self) -> None:
        for name in _SHARED:
            object.__setattr__(self, name, getattr(self.of, name))

    @classmethod
    def around(cls, task: Task, **own: Any) -> Self:  # noqa: ANN401  # the fields of a subclass
        """Return ``task``, answered in this way.

        Raises:
            MethodError: The recipe says what a head is to read, and there is none.
        """
        if task.pooling != "base":
            what = f"data.pooling={task.pooling} says what a trained head reads, and this method has none"
            raise MethodError(what, hint="Leave data.pooling out.")
        return cls(of=task, column_names=task.column_names, max_length=task.max_length, **own)

    @classmethod
    def from_section(cls, section: DataSection, train: Table) -> Self:  # noqa: ARG003
        """Refuse: a recipe names the task itself, and a method reframes it."""
        raise AssertionError(f"a recipe cannot ask for {cls.name}")

    @classmethod
    @abstractmethod
    def reopened(cls, of: Task, manifest: Mapping[str, Any]) -> Self:
        """Return what :meth:`manifest` described, around the task ``of``.

        Raises:
            ArtifactError: The description is damaged.
        """

    @abstractmethod
    def answering(self, network: nn.Module) -> Any:  # noqa: ANN401  # what is called as a network is
        """Return what is called with a batch's inputs and returns ``scores``: the logits that the task wants."""

    def manifest(self) -> dict[str, Any]:
        """Return what must be known to measure with it later, for JSON."""
        return {**super().manifest(), "of": self.of.manifest()}

    def problems(self, table: Table) -> list[Problem]:
        """Return what is wrong with the rows of ``table``."""
        return self.of.problems(table)

    def encode(self, table: Table, reader: Any, max_length: int, vocabulary: int | None = None) -> Examples:  # noqa: ANN401
        """Return the examples of the task."""
        return self.of.encode(table, reader, max_length, vocabulary)

    def items(self, example: Example) -> int:
        """Return what ``example`` adds to the count that the loss is averaged over."""
        return self.of.items(example)

    def collate(self, examples: Sequence[Example], pad: int, virtual: VirtualTokens | None) -> dict[str, Tensor]:
        """Return the batch of ``examples``."""
        return self.of.collate(examples, pad, virtual)

    def loss(self, network: nn.Module, batch: Mapping[str, Tensor]) -> Tensor:
        """Return the task's loss of the scores."""
        return self.of.loss(self.answering(network), batch)

    def outcomes(self, network: nn.Module, batch: Mapping[str, Tensor]) -> list[Outcome]:
        """Return the task's outcomes of the scores."""
        return self.of.outcomes(self.answering(network), batch)

    def scored(self, outcomes: Sequence[Outcome], names: Sequence[str]) -> dict[str, Scored]:
        """Return the task's metrics."""
        return self.of.scored(outcomes, names)

    def answers(self, outcomes: Sequence[Outcome]) -> tuple[list[Any], list[Any]]:
        """Return what the task gives a metric module of the user's own."""
        return self.of.answers(outcomes)

    def details(self, outcomes: Sequence[Outcome]) -> dict[str, Any]:
        """Return what the task shows beside the metrics."""
        return self.of.details(outcomes)

    def describe(self, row: Row, outcome: Outcome) -> dict[str, Any]:
        """Return what the task tells of one row."""
        return self.of.describe(row, outcome)

    def network_settings(self) -> dict[str, Any]:
        """Return nothing: the network gets no head."""
        return {}

    def signature(self, metric: str) -> str:
        """Return how exactly the task computes a metric."""
        return self.of.signature(metric)

    def told(self, examples: Examples) -> str:
        """Return what people are told of the examples."""
        return self.of.told(examples)

    def key(self, row: Row) -> str:
        """Return the task's key of a row."""
        return self.of.key(row)

    def stratum(self, row: Row) -> str:
        """Return the task's group of a row."""
        return self.of.stratum(row)


def scores(values: Tensor) -> Any:  # noqa: ANN401  # of the form of a network's output
    """Return scores as a network returns its logits."""
    return SimpleNamespace(logits=values)
