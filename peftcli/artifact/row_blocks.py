"""Merging in blocks of rows: whatever a tensor's size, a few MiB are in memory.

Small blocks are also fast: temporaries beyond what the allocator keeps are page-faulted afresh for every tensor.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch

from peftcli.artifact.base_folder import StoredTensor
from peftcli.artifact.numbers import DTYPES, from_bytes, to_bytes
from peftcli.artifact.tensor_file import TensorEntry, TensorSpec, TensorWriter
from peftcli.base.quantise import Form
from peftcli.base.quantised_linear import quantised
from peftcli.delta.block import Block

BLOCK = 2**20  # numbers: 4 MiB in float32
MOST_ROWS = 512


@dataclass(frozen=True, kw_only=True)
class Held:
    """How the base model held a weight while the delta was trained, where that was quantised.

    Attributes:
        form: In which form.
        dtype: Of the numbers before and after.
        transposed: Whether the weight is stored (d_in, d_out).
    """

    form: Form
    dtype: torch.dtype
    transposed: bool

    def weight(self, stored: torch.Tensor) -> torch.Tensor:
        """Return the numbers that the base model computed with. Shapes: as ``stored``, the whole of the weight."""
        layer = quantised(stored.to(self.dtype), self.form, bias=None, transposed=self.transposed)
        return layer.weight.contiguous()


@dataclass(frozen=True, kw_only=True)
class Output:
    """One tensor of the merged model and what it is made of.

    Attributes:
        spec: What the merged model's file says of it.
        stored: Its pretrained value; None for a head.
        trained: Its value in the artifact, where it was trained as it is.
        folds: The blocks around its module that change it, innermost first, with its name in that module.
        held: How the base model held it; None: as it is stored.
    """

    spec: TensorSpec
    stored: StoredTensor | None
    trained: StoredTensor | None
    folds: tuple[tuple[Block, str], ...] = ()
    held: Held | None = None

    @property
    def changed(self) -> bool:
        """Whether the delta touches it."""
        return self.trained is not None or bool(self.folds)

    @property
    def copied(self) -> bool:
        """Whether its bytes are those of the base model."""
        kept = not self.changed and self.held is None
        return kept and self.stored is not None and self.stored.entry.dtype == self.spec.dtype


@dataclass
class Loss:
    """What rounding to the output's dtype takes from the delta, over all merged tensors of the base model."""

    error: float = 0.0  # squared norm of cast(W + dW) - (W + dW)
    delta: float = 0.0  # squared norm of dW
    unchanged: int = 0
    numbers: int = 0

    def add(self, before: torch.Tensor, exact: torch.Tensor, stored: torch.Tensor) -> None:
        """Count one block. ``before`` as the base stores it, ``exact`` in float32, ``stored`` as it is written."""
        # Compared as integers, which is four times as fast.
        moved = stored.view(torch.int16) - before.to(stored.dtype).view(torch.int16)
        self.unchanged += before.numel() - int(torch.count_nonzero(moved))
        self.numbers += before.numel()
        self.error += _square(stored.float().sub_(exact))
        self.delta += _square(before.float().sub_(exact))

    @property
    def relative_error(self) -> float:
        """||cast(W + dW) - W - dW|| / ||dW||."""
        return math.sqrt(self.error / self.delta) if self.delta else 0.0

    @property
    def share_unchanged(self) -> float:
        """The share of entries that rounding left at the base model's value."""
        return self.unchanged / self.numbers if self.numbers else 0.0


@dataclass
class RowBlocks:
    """Writes tensors of the merged model, reusing its buffers."""

    loss: Loss = field(default_factory=Loss)
    _buffers: dict[str, bytearray] = field(default_factory=dict)

    @torch.no_grad()
    def write(self, output: Output, writer: TensorWriter) -> None:
        """Write one tensor."""
        writer.begin(output.spec)
        if output.copied:
            assert output.stored is not None
            writer.copy(output.stored.file, output.stored.entry.start, output.spec.bytes)
            return
        whole = self._held(output)
        for rows in _blocks(output.spec.shape):
            before = self._read(output.stored, rows, "before") if whole is None else whole[rows]
            writer.write(to_bytes(self._merged(output, rows, before)))

    def _held(self, output: Output) -> torch.Tensor | None:
        """Return a weight as the base model held it: its blocks of 64 run over the rows, so the whole is needed."""
        if output.held is None:
            return None
        stored = self._read(output.stored, slice(0, output.spec.shape[0]), "before")
        assert stored is not None, f"{output.spec.name} is no weight of the base model"
        return output.held.weight(stored)

    def _merged(self, output: Output, rows: slice, before: torch.Tensor | None) -> torch.Tensor:
        trained = self._read(output.trained, rows, "trained")
        start = before if trained is None else trained
        assert start is not None, f"{output.spec.name} comes from nowhere"
        dtype = DTYPES[output.spec.dtype]
        if not output.folds:
            stored = start.to(dtype)
            exact = start.float() if start.is_floating_point() else start
        else:
            exact = start.float() if start.dtype != torch.float32 else start.clone()  # a fold may work in place
            for block, name in output.folds:
                exact = block.fold(name, exact, rows)
            stored = exact.to(dtype)
        if output.changed and before is not None and stored.is_floating_point() and stored.dtype.itemsize < 4:
            self.loss.add(before, exact, stored)
        return stored

    def _read(self, stored: StoredTensor | None, rows: slice, use: str) -> torch.Tensor | None:
        if stored is None:
            return None
        entry = stored.entry
        row_bytes = _row_bytes(entry)
        buffer = self._buffer(use, (rows.stop - rows.start) * row_bytes)
        stored.file.read_into(buffer, entry.start + rows.start * row_bytes)
        return from_bytes(buffer, entry.dtype).view(rows.stop - rows.start, *entry.shape[1:])

    def _buffer(self, use: str, count: int) -> memoryview:
        if len(self._buffers.get(use, b"")) < count:
            self._buffers[use] = bytearray(count)
        return memoryview(self._buffers[use])[:count]


def _square(tensor: torch.Tensor) -> float:
    flat = tensor.reshape(-1)
    return float(torch.dot(flat, flat))


def _row_bytes(entry: TensorEntry) -> int:
    return entry.bytes // max(1, entry.shape[0]) if entry.shape else entry.bytes


def _blocks(shape: Sequence[int]) -> list[slice]:
    rows = shape[0] if shape else 1
    width = math.prod(shape[1:])
    step = max(1, min(BLOCK // max(1, width), MOST_ROWS if len(shape) > 1 else BLOCK))
    return [slice(start, min(start + step, rows)) for start in range(0, rows, step)]
