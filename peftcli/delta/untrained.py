"""Methods that answer without training: what a fine-tuned delta has to be better than."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from peftcli.delta.method import Method

if TYPE_CHECKING:
    from torch import Tensor, nn

    from peftcli.base.anatomy import Anatomy
    from peftcli.base.base_model import BaseModel
    from peftcli.data.tables import Table
    from peftcli.data.tasks.task import Task


@dataclass(frozen=True, kw_only=True, eq=False)
class Frozen:
    """What a method learns from that takes no gradient.

    Attributes:
        train: The training rows; no others are seen.
        seed: Of the run.
        ask: Encodes rows for a task and asks a question about every batch of them: the network and the batch in, one
            answer per row out. The answers are those of all rows, in their order.
    """

    train: Table
    seed: int
    ask: Callable[[Task, Table, Callable[[nn.Module, Mapping[str, Tensor]], list[Any]]], list[Any]]


class Untrained(Method):
    """A method that attaches nothing: it says how a task is answered, and learns from the rows without a gradient.

    What it learned is the task's: it stands in the artifact's manifest, and its tensors beside those of the delta. So
    such a run is opened, measured and compared like any other. It stands alone in a recipe, never in a stack.
    """

    trains: ClassVar[bool] = False

    network_class: ClassVar[str]
    """The transformers class that answers, whatever class the task would train."""

    def head_size(self, anatomy: Anatomy) -> int:
        """Return how many numbers are fitted, which count as a head."""
        return 0

    @abstractmethod
    def reframed(self, task: Task) -> Task:
        """Return ``task`` as the method has it answered, with nothing learned yet.

        Raises:
            MethodError: The method has no answer to such a task.
            RecipeError: A setting does not fit the task's columns or labels.
        """

    @abstractmethod
    def learned(self, task: Task, frozen: Frozen) -> Task:
        """Return what ``reframed`` returned with what the training rows teach."""

    def sizes(self, anatomy: Anatomy) -> dict[str, int]:
        """Return nothing: nothing trains."""
        return {}

    def attach(self, base: BaseModel) -> None:
        """Attach nothing."""
