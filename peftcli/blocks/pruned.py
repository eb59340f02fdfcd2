"""Weights of which some are pruned: those that survive train, and all others are exactly zero."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from peftcli.base.anatomy import BaseTensor
from peftcli.base.base_model import BaseModel
from peftcli.base.sites import Rows
from peftcli.blocks.sparse import largest, spread
from peftcli.blocks.tensor_change import TensorChange, surround
from peftcli.delta.block import Block
from peftcli.delta.entries import dealt
from peftcli.errors import ArtifactError


@dataclass(frozen=True, kw_only=True)
class Part:
    """What may be pruned of a weight.

    Attributes:
        tensor: The weight.
        rows: In a fused projection, the ranges of output features that may be; None for all.
        transposed: Whether the weight is stored (d_in, d_out).
    """

    tensor: BaseTensor
    rows: Rows | None
    transposed: bool

    @property
    def size(self) -> int:
        """How many weights may be pruned."""
        if self.rows is None:
            return self.tensor.size
        width = self.tensor.shape[0 if self.transposed else 1]
        return width * sum(stop - start for start, stop in self.rows)

    def clear(self, weight: Tensor, first: int = 0) -> None:
        """Set what may be pruned to zero, in place; ``first`` is where these stored rows begin in the whole."""
        if self.rows is None:
            weight.zero_()
            return
        for start, stop in self.rows:
            if self.transposed:
                weight[:, start:stop] = 0
            else:
                weight[max(start - first, 0) : max(stop - first, 0)] = 0

    def indices(self, device: torch.device) -> Tensor:
        """Return the flat indices of what may be pruned, rising."""
        mask = torch.ones(self.tensor.shape, dtype=torch.bool, device=device)
        self.clear(mask)
        return (~mask).reshape(-1).nonzero().view(-1)


class Survivors(nn.Module):
    """W' = values where ``kept`` has a bit, and exactly zero everywhere else that may be pruned.

    Shapes: values (n,); kept (bytes,), one bit for every entry of the weight.

    Only survivors are parameters: neither weight decay nor an optimizer's moments know of a pruned weight. Rounds that
    another one follows also hold what it is made from: each weight's movement score, and the value it goes back to.
    """

    kept: Tensor
    score: Tensor | None
    late: Tensor | None

    def __init__(
        self, part: Part, indices: Tensor, values: Tensor, *, scored: bool = False, late: bool = False
    ) -> None:
        super().__init__()
        self.part = part
        # A weight without survivors has nothing to train.
        self.values = nn.Parameter(values.detach().float().clone()) if len(values) else None
        if self.values is not None:
            self.values.may_rest = True  # type: ignore[attr-defined]  # the few survivors of a unit that is always off
        self.register_buffer("kept", _packed(indices, part.tensor.size))
        self.register_buffer("score", torch.zeros_like(values, dtype=torch.float32) if scored else None)
        self.register_buffer("late", values.detach().float().clone() if late else None)
        self._indices: Tensor | None = None

    @classmethod
    def room(cls, part: Part, number: int, *, scored: bool, late: bool) -> Survivors:
        """Return one that ``number`` survivors can be loaded into."""
        return cls(part, torch.arange(number), torch.zeros(number), scored=scored, late=late)

    @property
    def number(self) -> int:
        """How many weights survive."""
        return 0 if self.values is None else len(self.values)

    @property
    def indices(self) -> Tensor:
        """The flat indices of the survivors, rising."""
        if self._indices is None or self._indices.device != self.kept.device:
            self._indices = _unpacked(self.kept).nonzero().view(-1)
        return self._indices

    def draw(self, start: Tensor, generator: torch.Generator) -> None:
        """Choose survivors at random, at the values they have in ``start``."""
        if self.values is None:
            return
        candidates = self.part.indices(self.kept.device)
        indices = candidates[spread(self.number, len(candidates), generator).to(candidates.device)]
        self.kept.copy_(_packed(indices, self.part.tensor.size))
        self.forget()
        if not start.is_meta:
            self.values.data.copy_(start.reshape(-1)[indices])

    def forget(self) -> None:
        """Look at ``kept`` anew."""
        self._indices = None

    def forward(self, start: Tensor) -> Tensor:
        if self.values is None:
            weight = start.clone()
            self.part.clear(weight)
            return weight
        if self.number == start.numel():
            return self.values.view(start.shape)
        weight = start.detach().to(self.values.dtype, copy=True)
        self.part.clear(weight)
        return weight.reshape(-1).index_copy(0, self.indices, self.values).view(start.shape)

    def scores(self, *, movement: bool) -> Tensor:
        """Return what decides who survives the round: the movement, or the values themselves."""
        if self.values is None:
            return self.kept.new_zeros(0, dtype=torch.float32)
        if not movement:
            return self.values.detach()
        assert self.score is not None, "every round but the last is scored"
        return self.score

    @torch.no_grad()
    def add_movement(self) -> None:
        """Add this step's movement, -dL/dw w, to the score: large where training takes a weight away from zero."""
        if self.score is not None and self.values is not None and self.values.grad is not None:
            self.score.addcmul_(self.values.grad, self.values, value=-1)

    @torch.no_grad()
    def note_values(self) -> None:
        """Note the values of now as those that the next rounds begin with."""
        if self.late is not None and self.values is not None:
            self.late.copy_(self.values)

    def survive(self, chosen: Tensor, start: Tensor, *, last: bool) -> Survivors:
        """Return the survivors of the next round, back at the values they begin with.

        Args:
            chosen: Which of the survivors of this round.
            start: The weight of the base model.
            last: Whether no further round follows.
        """
        indices = self.indices[chosen]
        values = start.reshape(-1)[indices] if self.late is None else self.late[chosen]
        more = {"scored": self.score is not None, "late": self.late is not None}
        return Survivors(self.part, indices, values, **({} if last else more))

    def fits(self) -> bool:
        """Whether ``kept`` has a bit for every value, and only where weights may be pruned."""
        mask = _unpacked(self.kept)
        outside = torch.ones(len(mask), dtype=torch.bool, device=mask.device)
        outside[self.part.indices(mask.device)] = False
        return int(mask.sum()) == self.number and not bool((mask & outside).any())

    def write_into(self, weight: Tensor, first: int) -> None:
        """Prune stored rows of the weight in place; ``first`` is where they begin in the whole."""
        self.part.clear(weight, first)
        if self.values is None:
            return
        flat, offset = weight.view(-1), first * weight[0].numel()
        ends = self.indices.new_tensor([offset, offset + len(flat)])
        low, high = torch.searchsorted(self.indices, ends).tolist()
        flat[self.indices[low:high] - offset] = self.values.detach()[low:high]


class PrunedTensors(TensorChange):
    """Wraps a module and prunes weights that it holds itself.

    No other change may act on them: a sum with something else would not be zero where a weight is pruned.
    """

    alone = True

    def __init__(self, wrapped: nn.Module, address: str, tensors: Iterable[str]) -> None:
        super().__init__(wrapped, address, tensors)
        self.parts: dict[str, Part] = {}

    def initialise(self, generator: torch.Generator) -> None:
        for name in self.tensors:
            self.survivors(name).draw(self.start(name), generator)

    def survivors(self, name: str) -> Survivors:
        """Return what a weight is made of now."""
        change = self.changes[name]
        assert isinstance(change, Survivors), "nothing else is given"
        return change

    def make_room(self, shapes: Mapping[str, tuple[int, ...]]) -> None:
        for name in self.tensors:
            whole = self.address_of(name)
            if f"{whole}.kept" in shapes:
                number = shapes.get(whole, (0,))[0] if shapes.get(whole, (0,)) else 0
                more = {"scored": f"{whole}.score" in shapes, "late": f"{whole}.late" in shapes}
                self.give(name, Survivors.room(self.parts[name], min(number, self.parts[name].size), **more))

    def check_loaded(self) -> None:
        for name in self.tensors:
            self.survivors(name).forget()
            if not self.survivors(name).fits():
                raise ArtifactError(f"the survivors of {self.address_of(name)} are not as many as it has values")

    @torch.no_grad()
    def fold(self, name: str, tensor: Tensor, rows: slice) -> Tensor:
        if name not in self.tensors:
            return tensor
        tensor = tensor.contiguous()
        self.survivors(name).write_into(tensor, rows.start)
        return tensor


Place = tuple[PrunedTensors, str]


def attach_pruned(base: BaseModel, parts: Mapping[str, Part], number: int) -> None:
    """Surround the weights of ``parts`` (by address) and let ``number`` of them survive, somewhere."""
    found = surround(base, [part.tensor for part in parts.values()], PrunedTensors)
    numbers = dealt(number, {address: part.size for address, part in parts.items()})
    for address, part in parts.items():
        block, name = found[address]
        assert isinstance(block, PrunedTensors)
        block.parts[name] = part
        block.give(name, Survivors.room(part, numbers.get(address, 0), scored=False, late=False))


def places(blocks: Iterable[Block]) -> list[Place]:
    """Return every weight that is pruned: its block, and what its module calls it; in the order of the network."""
    made = [block for block in blocks if isinstance(block, PrunedTensors)]
    return [(block, name) for block in reversed(made) for name in block.tensors]


@torch.no_grad()
def keep_all(weights: Iterable[Place], *, scored: bool, late: bool) -> None:
    """Begin the first round: every weight survives, at the value of the base model."""
    for block, name in weights:
        part, start = block.parts[name], block.start(name)
        indices = part.indices(start.device)
        block.give(name, Survivors(part, indices, start.reshape(-1)[indices], scored=scored, late=late))


@torch.no_grad()
def prune(weights: Iterable[Place], number: int, *, movement: bool, last: bool) -> None:
    """Let the ``number`` survivors live on that have the largest scores over all weights; ties go to the first."""
    listed = list(weights)
    scores = [partial(block.survivors(name).scores, movement=movement) for block, name in listed]
    for (block, name), chosen in zip(listed, largest(scores, number, signed=movement), strict=True):
        block.give(name, block.survivors(name).survive(chosen, block.start(name), last=last))


def _packed(indices: Tensor, size: int) -> Tensor:
    """Return one bit per entry, eight to a byte, the lowest bit first."""
    mask = torch.zeros(-(-size // 8) * 8, dtype=torch.uint8, device=indices.device)
    mask[indices] = 1
    shifts = torch.arange(8, dtype=torch.uint8, device=mask.device)
    return (mask.view(-1, 8) << shifts).sum(1, dtype=torch.uint8)


def _unpacked(kept: Tensor) -> Tensor:
    shifts = torch.arange(8, dtype=torch.uint8, device=kept.device)
    return ((kept[:, None] >> shifts) & 1).bool().view(-1)
