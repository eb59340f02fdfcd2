"""A change of single entries: values at indices, and the choice of the largest ones."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn

_INFINITY = 0x7F80_0000  # its bits


class Sparse(nn.Module):
    """W' = W + values at the flat indices. Shapes: values (n,), indices (n,), rising.

    Nothing else can move: neither weight decay nor an optimizer's moments know of the other entries.
    """

    indices: Tensor

    def __init__(self, indices: Tensor, values: Tensor | None = None) -> None:
        super().__init__()
        start = torch.zeros(indices.shape, device=indices.device) if values is None else values
        self.values = nn.Parameter(start.detach().float().clone())
        # Entries that the first batches need not reach: the embedding of a rare word.
        self.values.may_rest = True  # type: ignore[attr-defined]
        self.register_buffer("indices", indices)

    def draw(self, size: int, generator: torch.Generator) -> None:
        """Choose entries at random: one in each of equal parts of a tensor of ``size`` entries."""
        self.indices.copy_(spread(len(self.indices), size, generator))

    def forward(self, start: Tensor) -> Tensor:
        return start.to(self.values.dtype).reshape(-1).index_add(0, self.indices, self.values).view(start.shape)

    def add_to(self, flat: Tensor, first: int) -> None:
        """Add the values to a part of the flattened tensor, in place; ``first`` is where it begins in the whole."""
        ends = self.indices.new_tensor([first, first + len(flat)])
        low, high = torch.searchsorted(self.indices, ends).tolist()
        flat.index_add_(0, self.indices[low:high] - first, self.values.detach()[low:high])

    def fits(self, size: int) -> bool:
        """Whether there are indices, every one points into a tensor of ``size`` entries, and none twice."""
        indices = self.indices
        return bool(len(indices) and (indices[1:] > indices[:-1]).all() and indices[0] >= 0 and indices[-1] < size)


def spread(number: int, size: int, generator: torch.Generator) -> Tensor:
    """Return ``number`` rising indices below ``size``, drawn at random: one in each of equal parts."""
    ends = torch.arange(number + 1) * size // number
    places = torch.rand(number, generator=generator, dtype=torch.float64) * (ends[1:] - ends[:-1])
    return ends[:-1] + places.long()


@torch.no_grad()
def largest(tensors: Iterable[Callable[[], Tensor]], number: int, *, signed: bool = False) -> list[Tensor]:
    """Return the flat indices of the ``number`` entries that are largest over all tensors together.

    Of equally large ones the first count: in the order of the tensors, then of their indices. Tensors are asked for
    one at a time and more than once, so that no copy of all of them is made.

    Args:
        tensors: Each returns one.
        number: How many entries, over all tensors.
        signed: Whether a negative entry is small; otherwise the absolute values are compared.

    Returns:
        The rising indices of each tensor.
    """
    made = list(tensors)
    bits_of = _ordered_bits if signed else _bits
    # Floats have the order of these whole numbers, so the smallest that still counts is found by halving: 32 counts at
    # most, and no ties or rounding in between.
    low, high = -_INFINITY - 1 if signed else 0, _INFINITY
    while low < high:
        middle = (low + high + 1) // 2
        enough = sum(int((bits_of(make()) >= middle).sum()) for make in made) >= number
        low, high = (middle, high) if enough else (low, middle - 1)
    left = number - sum(int((bits_of(make()) > low).sum()) for make in made)
    found = []
    for make in made:
        bits = bits_of(make())
        above, equal = bits > low, (bits == low).nonzero().view(-1)[:left]
        left -= len(equal)
        above[equal] = True
        found.append(above.nonzero().view(-1))
    return found


def _bits(tensor: Tensor) -> Tensor:
    return tensor.detach().float().abs().reshape(-1).view(torch.int32)


def _ordered_bits(tensor: Tensor) -> Tensor:
    bits = (tensor.detach().float() + 0.0).reshape(-1).view(torch.int32)  # + 0.0: of the two zeros only one is left
    return torch.where(bits < 0, bits ^ 0x7FFF_FFFF, bits)
