"""Batches: a function of the seed, the epoch and the index, on any number of processes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import KW_ONLY, dataclass
from functools import lru_cache
from itertools import pairwise
from typing import TYPE_CHECKING, Protocol

from peftcli.data.examples import Example, Examples, VirtualTokens
from peftcli.data.permutation import permutation

if TYPE_CHECKING:
    from torch import Tensor

    from peftcli.data.tasks.task import Task

__all__ = ["Batch", "BatchSource", "Batches", "Position", "Share", "VirtualTokens", "evaluation_batches"]


@dataclass(frozen=True, slots=True)
class Position:
    """Where training stands: batch ``index`` of ``epoch``, both from 0."""

    epoch: int
    index: int


@dataclass(frozen=True, slots=True)
class Batch:
    """What one process computes of one global batch.

    Attributes:
        micro: The process's share in pieces; their summed losses over ``items`` are its part of the mean loss.
        items: Items of the whole global batch.
        examples: Examples of the whole global batch.
        tokens: Tokens of the whole global batch, without padding and virtual tokens.
    """

    micro: list[dict[str, Tensor]]
    items: int
    examples: int
    tokens: int


class BatchSource(Protocol):
    """Where training has its batches from."""

    @property
    def steps_per_epoch(self) -> int | None:
        """Return the number of batches in a pass over the rows; None where nobody has counted them."""

    def batch(self, position: Position) -> Batch:
        """Return the process's part of the global batch at ``position``."""

    def after(self, position: Position) -> Position:
        """Return the position that follows ``position``."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Share:
    """What process ``rank`` of ``world`` takes of a global batch, and how it becomes tensors."""

    task: Task
    micro_batch_size: int
    pad: int
    rank: int = 0
    world: int = 1
    virtual: VirtualTokens | None = None

    def __post_init__(self) -> None:
        assert 0 <= self.rank < self.world, f"rank {self.rank} of {self.world}"

    def of(self, whole: Sequence[Example]) -> Batch:
        """Return the process's part of the global batch that ``whole`` is."""
        pieces = _pieces(sorted(whole, key=_length), self.micro_batch_size, self.world)
        return Batch(
            micro=[self.task.collate(piece, self.pad, self.virtual) for piece in pieces[self.rank :: self.world]],
            items=sum(map(self.task.items, whole)),
            examples=len(whole),
            tokens=sum(map(_length, whole)),
        )


@dataclass(frozen=True)
class Batches:
    """The batches of a run as one process of ``world`` sees them.

    The order and the members of every global batch depend on the seed alone. It is sorted by length (pieces of equal
    lengths need less padding, and the gradient of a sum does not mind) and cut into pieces of at most
    ``micro_batch_size``, of which process ``rank`` takes every ``world``-th: as long as the number of processes
    divides the number of pieces, any number of processes computes the same pieces, and only the order of summation
    tells them apart. The last batch of an epoch may be smaller, and leaves a process without pieces where it has
    fewer examples than there are processes.
    """

    examples: Examples
    share: Share
    _: KW_ONLY
    batch_size: int
    seed: int

    @property
    def steps_per_epoch(self) -> int:
        """Return the number of batches, a smaller last one included."""
        return -(-len(self.examples) // self.batch_size)

    def order(self, epoch: int) -> list[int]:
        """Return the indices of all examples in the order of ``epoch``."""
        return list(_order(len(self.examples), self.seed, epoch))

    def batch(self, position: Position) -> Batch:
        """Return the process's part of the global batch at ``position``."""
        assert 0 <= position.index < self.steps_per_epoch, f"no batch {position.index} in an epoch"
        start = position.index * self.batch_size
        whole = _order(len(self.examples), self.seed, position.epoch)[start : start + self.batch_size]
        return self.share.of([self.examples.items[index] for index in whole])

    def after(self, position: Position) -> Position:
        """Return the position that follows ``position``."""
        if position.index + 1 < self.steps_per_epoch:
            return Position(position.epoch, position.index + 1)
        return Position(position.epoch + 1, 0)


def evaluation_batches(  # noqa: PLR0913 (two of them say what, the rest how it becomes tensors and for whom)
    examples: Examples,
    task: Task,
    *,
    batch_size: int,
    pad: int,
    virtual: VirtualTokens | None = None,
    rank: int = 0,
    world: int = 1,
) -> Iterator[tuple[list[int], dict[str, Tensor]]]:
    """Yield the process's batches with the indices of their examples, the longest first.

    Over all processes every example is in exactly one batch.
    """
    order = sorted(range(len(examples)), key=lambda index: (-examples.items[index].length, index))
    for start in range(rank * batch_size, len(order), world * batch_size):
        indices = order[start : start + batch_size]
        yield indices, task.collate([examples.items[index] for index in indices], pad, virtual)


@lru_cache(maxsize=2)
def _order(count: int, seed: int, epoch: int) -> tuple[int, ...]:
    return tuple(permutation(count, f"{seed}:epoch {epoch}"))


def _length(example: Example) -> int:
    return example.length


def _pieces(batch: Sequence[Example], most: int, world: int) -> list[Sequence[Example]]:
    """Cut ``batch`` into as few pieces of at most ``most`` as all processes can share evenly, nearly equal in size."""
    count = min(world * -(-len(batch) // (most * world)), len(batch))
    bounds = [len(batch) * piece // count for piece in range(count + 1)]
    return [batch[start:end] for start, end in pairwise(bounds)]
