"""Batches of rows that are read as training goes: of more rows than memory holds."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from typing import TYPE_CHECKING

from peftcli.data.batches import Batch, Position, Share
from peftcli.data.permutation import permutation
from peftcli.data.tables import Row, Table
from peftcli.errors import DataError

if TYPE_CHECKING:
    from peftcli.data.examples import Example, Examples
    from peftcli.data.rows import RowStream


class StreamedBatches:
    """The batches of a run whose rows stay in their files, as one process sees them.

    A pass over the files is cut into blocks of as many rows as the buffer holds, the last of which takes the rest
    that fills no block of its own. A block is checked, tokenised and shuffled as a whole, so the order and the
    members of every batch depend on the seed and the files alone, and any batch can be had again: the rows before its
    block are passed over without a look at them. Every process reads all rows and takes its pieces of each batch, as
    with rows in memory.

    ``Position.epoch`` counts passes. Batches are numbered as if no row were dropped, so that a number tells its block.
    """

    steps_per_epoch = None  # nobody has counted the rows

    def __init__(  # noqa: PLR0913 (two say what is read, two how it is cut, the rest is its own)
        self,
        stream: RowStream,
        encode: Callable[[Table], Examples],
        share: Share,
        *,
        batch_size: int,
        buffer: int,
        seed: int,
    ) -> None:
        self._stream = stream
        self._encode = encode
        self._share = share
        self._batch_size = batch_size
        self._per_block = -(-buffer // batch_size)  # batches
        self._seed = seed
        self._reader = _Reader(stream, self._per_block * batch_size)
        self._block: tuple[int, int] | None = None  # the pass, and the number of the block
        self._examples: list[Example] = []
        self._first: Batch | None = None

    def batch(self, position: Position) -> Batch:
        """Return the process's part of the global batch at ``position``.

        Raises:
            DataError: A row of its block is wrong.
        """
        at_first = position == Position(0, 0)
        if at_first and self._first:  # asked for again by every phase, and far behind by then
            return self._first
        start = self._load(position)
        found = self._share.of(self._examples[start : start + self._batch_size])
        if at_first:
            self._first = found
        return found

    def after(self, position: Position) -> Position:
        """Return the position that follows."""
        start = self._load(position)
        if start + self._batch_size < len(self._examples):
            return Position(position.epoch, position.index + 1)
        assert self._block
        if self._reader.ended:
            return Position(position.epoch + 1, 0)
        return Position(position.epoch, (self._block[1] + 1) * self._per_block)

    def _load(self, position: Position) -> int:
        """Hold the block of ``position``, and return where in it the batch begins."""
        number = position.index // self._per_block
        if self._block and self._block[0] == position.epoch and number - self._block[1] in (0, 1):
            start = (position.index - self._block[1] * self._per_block) * self._batch_size
            if start < len(self._examples):
                return start
        rows, number = self._reader.block(position.epoch, number)
        order = permutation(len(rows), f"{self._seed}:pass {position.epoch} block {number}")
        examples = self._encode(Table(rows, self._stream.files)).items
        by_row = {example.row: example for example in examples}
        self._examples = [by_row[row] for row in order if row in by_row]
        self._block = (position.epoch, number)
        return (position.index - number * self._per_block) * self._batch_size


class _Reader:
    """Reads blocks, one ahead, and one after the other where it can.

    Attributes:
        ended: Whether the block that was read last ends its pass.
    """

    def __init__(self, stream: RowStream, size: int) -> None:
        self.ended = False
        self._stream = stream
        self._size = size
        self._rows: Iterator[Row] = iter(())
        self._ahead: list[Row] = []
        self._next = (-1, -1)  # the pass and the number of the block in _ahead

    def block(self, number_of_pass: int, number: int) -> tuple[list[Row], int]:
        """Return a block's rows and its number: one less where its rows were too few for a block of their own."""
        if self._next != (number_of_pass, number) or not self._ahead:
            self._seek(number)
            if len(self._ahead) < self._size and number:
                number -= 1
                self._seek(number)
        rows, self._ahead = self._ahead, self._read()
        if len(self._ahead) < self._size:
            rows, self._ahead = rows + self._ahead, []
        self.ended = not self._ahead
        self._next = (number_of_pass, number + 1)
        return rows, number

    def _seek(self, number: int) -> None:
        self._rows = self._stream.rows(skip=number * self._size)
        self._ahead = self._read()
        if not self._ahead and number == 0:
            raise DataError("the files have no rows", where=self._stream.files[0].path)

    def _read(self) -> list[Row]:
        return list(islice(self._rows, self._size))


def first_rows(stream: RowStream, count: int) -> Table:
    """Return the first rows of a stream as a table: what columns there are, and what rows look like.

    Raises:
        DataError: There are none, or one is wrong.
    """
    rows: Sequence[Row] = list(islice(stream.rows(), count))
    if not rows:
        raise DataError("the files have no rows", where=stream.files[0].path)
    return Table(list(rows), stream.files)
