"""Rows as token ids, and how they become the rectangles that a network reads."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from peftcli.errors import DataError, Problem

if TYPE_CHECKING:
    from torch import Tensor

IGNORED = -100
"""The label of a token that no loss is computed on."""
SHARES = (50, 90, 99)
"""The percentiles of lengths that are told."""
_FILLERS = {"token_type_ids": 0, "labels": IGNORED, "tags": IGNORED}

Label = int | float | tuple[int, ...]
"""What a whole row is labelled with: the number of a label, a number, or the numbers of several labels."""


class VirtualTokens(Protocol):
    """Ids from ``first_id`` on, beyond the vocabulary, that stand in every row after its first ``after`` tokens.

    The last ``infix`` of them stand after the row's prompt: before its first label, or at its end where it has none.
    """

    @property
    def count(self) -> int:
        """How many."""

    @property
    def first_id(self) -> int:
        """The first of their ids."""

    @property
    def after(self) -> int:
        """How many real tokens stand before them."""

    @property
    def infix(self) -> int:
        """How many of them stand after the prompt."""


@dataclass(frozen=True, slots=True)
class Example:
    """One row as ids.

    Attributes:
        ids: ``input_ids`` and what else the task gives for every token: ``labels`` of a text that is to be written,
            ``tags`` of tokens that are read.
        length: Tokens.
        row: Index of the row in its table.
        where: The row's ``file:line``.
        label: What the row is labelled with, where a whole row is.
        target: The ids that an encoder-decoder is to write.
        references: The texts that a generated one is compared with, where the row names them.
        prompt: How many tokens stand before the last answer, where the task knows.
        parts: The sequences that the row is read as, where these are several; it has no ids of its own then.
    """

    ids: dict[str, list[int]]
    length: int
    row: int
    where: str
    label: Label | None = None
    target: list[int] | None = None
    references: tuple[str, ...] = ()
    prompt: int | None = None
    parts: tuple[Example, ...] = ()


@dataclass(frozen=True, slots=True)
class Examples:
    """The examples of a table in its order.

    Attributes:
        items: The examples.
        counts: rows, truncated, dropped, tokens, supervised (tokens or rows a loss is computed on), longest.
    """

    items: list[Example]
    counts: dict[str, int]

    def __len__(self) -> int:
        return len(self.items)

    def __iter__(self) -> Iterator[Example]:
        return iter(self.items)

    def __getitem__(self, index: int) -> Example:
        return self.items[index]

    def lengths(self) -> dict[str, int]:
        """Return how long the examples are: 50, 90 and 99 % of them are no longer than p50, p90 and p99 tokens."""
        lengths = sorted(example.length for example in self.items)
        places = {f"p{share}": -(-len(lengths) * share // 100) - 1 for share in SHARES}
        return {**{name: lengths[place] for name, place in places.items()}, "max": lengths[-1]}


def check_ids(examples: Sequence[Example], vocabulary: int | None) -> None:
    """Check that every example has tokens, and that the network has a vector for each.

    Raises:
        DataError: The tokenizer belongs to another model, or leaves nothing of some row.
    """
    problems = [
        Problem(what="the tokenizer makes no token of this row", where=e.where) for e in examples if not e.length
    ]
    largest, where = max(((max(e.ids["input_ids"]), e.where) for e in examples if e.length), default=(0, ""))
    if vocabulary is not None and largest >= vocabulary:
        what = f"the tokenizer gives id {largest}, but the base model's vocabulary ends at {vocabulary - 1}"
        problems.append(Problem(what=what, where=where, hint="Use the tokenizer that belongs to the base model."))
    if problems:
        raise DataError(problems[:10])


def pad_examples(
    examples: Sequence[Example], pad: int, virtual: VirtualTokens | None, *, left: bool = False
) -> dict[str, Tensor]:
    """Return what the examples hold for each token, padded on the right or the left, and the attention mask.

    Shapes: each (batch, tokens), where tokens is the longest example and the virtual tokens together.
    """
    import torch

    count = virtual.count if virtual else 0
    longest = max(example.length for example in examples)
    columns = {"attention_mask": ([[1] * (example.length + count) for example in examples], 0)}
    for key in examples[0].ids:
        filler = pad if key == "input_ids" else _FILLERS[key]
        columns[key] = ([_row(example, key, virtual) for example in examples], filler)

    def filled(row: list[int], filler: int) -> list[int]:
        padding = [filler] * (longest + count - len(row))
        return padding + row if left else row + padding

    return {
        key: torch.tensor([filled(row, filler) for row in rows], dtype=torch.long)
        for key, (rows, filler) in columns.items()
    }


def _row(example: Example, key: str, virtual: VirtualTokens | None) -> list[int]:
    ids = example.ids[key]
    if virtual is None:
        return ids
    filler = _FILLERS.get(key)
    given = range(virtual.first_id, virtual.first_id + virtual.count)
    inserted = list(given) if filler is None else [filler] * virtual.count
    prefix, prompt = virtual.count - virtual.infix, _prompt_length(example)
    return [
        *ids[: virtual.after],
        *inserted[:prefix],
        *ids[virtual.after : prompt],
        *inserted[prefix:],
        *ids[prompt:],
    ]


def _prompt_length(example: Example) -> int:
    """Return how many tokens stand before the first label; all of them where no token has one."""
    labels = example.ids.get("labels", ())
    return next((i for i, label in enumerate(labels) if label != IGNORED), example.length)
