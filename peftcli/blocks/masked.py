"""A mask over many tensors of the base model: where it stands at first, and how it is chosen."""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial

import torch
from torch import Tensor, nn

from peftcli.base.anatomy import BaseTensor
from peftcli.base.base_model import BaseModel
from peftcli.blocks.sparse import Sparse, largest
from peftcli.blocks.tensor_change import TensorChange, WholeChange, surround
from peftcli.delta.block import Block
from peftcli.delta.entries import dealt

Place = tuple[TensorChange, str]


def attach_sparse(base: BaseModel, tensors: Iterable[BaseTensor], number: int) -> None:
    """Surround ``tensors`` and let ``number`` of their entries train, somewhere: training or an artifact chooses."""
    listed = list(tensors)
    places = surround(base, listed)
    for address, count in dealt(number, {t.address: t.size for t in listed if t.address in places}).items():
        block, name = places[address]
        block.give(name, Sparse(torch.arange(count)))


def places(blocks: Iterable[Block]) -> list[Place]:
    """Return every tensor that may change: its block, and what its module calls it; in the order of the network."""
    made = [block for block in blocks if isinstance(block, TensorChange)]
    return [(block, name) for block in reversed(made) for name in block.tensors]


def changes(blocks: Iterable[Block]) -> list[nn.Module]:
    """Return the changes that blocks hold, in the order of the network."""
    return [block.changes[name] for block, name in places(blocks) if name in block.changes]


@torch.no_grad()
def keep_largest(chosen_from: Iterable[Place], number: int, *, keep: bool) -> None:
    """Let only those entries change further that moved most; ties go to the first.

    Args:
        chosen_from: The tensors.
        number: How many entries, over all tensors.
        keep: Whether they go on from where they are, or from the base model's values.
    """
    listed = list(chosen_from)
    moves = [partial(_move, block.changes[name]) for block, name in listed]
    for (block, name), moved, indices in zip(listed, moves, largest(moves, number), strict=True):
        values = moved().reshape(-1)[indices] if keep else None
        block.give(name, Sparse(indices, values) if len(indices) else None)


def _move(change: nn.Module) -> Tensor:
    assert isinstance(change, WholeChange), "a mask is chosen among the entries of whole tensors"
    return change.move()
