"""An instruction with, perhaps, an input, and the output that it asks for, in the words of Stanford Alpaca.

Taori et al., "Stanford Alpaca: An Instruction-following LLaMA model", 2023.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from peftcli.data.complaints import lines
from peftcli.data.formats.format import Format, Rendering, Segment
from peftcli.errors import Problem

if TYPE_CHECKING:
    from peftcli.data.tables import Row, Table

WITH_INPUT = (
    "Below is an instruction that describes a task, paired with an input that provides further context. "
    "Write a response that appropriately completes the request.\n\n"
    "### Instruction:\n{instruction}\n\n### Input:\n{input}\n\n### Response:"
)
WITHOUT_INPUT = (
    "Below is an instruction that describes a task. "
    "Write a response that appropriately completes the request.\n\n"
    "### Instruction:\n{instruction}\n\n### Response:"
)
"""The published prompts, letter by letter: the output follows without a space."""


@dataclass(frozen=True, kw_only=True)
class Alpaca(Format):
    """``instruction``, ``output`` and, optional, ``input``; a row that is too long loses the start of its prompt."""

    alternatives: ClassVar[tuple[Mapping[str, str], ...]] = (
        {"instruction": "instruction", "input": "input", "output": "output"},
    )
    required: ClassVar[tuple[str, ...]] = ("instruction", "output")
    texts: ClassVar[tuple[str, ...]] = ("instruction", "output")
    learned: ClassVar[str] = "the output"
    asks: ClassVar[tuple[str, ...]] = ("instruction",)
    answer: ClassVar[str] = "output"

    def problems(self, table: Table) -> list[Problem]:
        """Return the inputs that are neither text nor missing."""
        column = self.columns.get("input", "")
        bad = [row.where for row in table.rows if not isinstance(row.values.get(column), str | None)]
        return [Problem(what=f"column {column!r} is not text in {lines(bad)}", where=bad[0])] if bad else []

    def question(self, row: Row) -> Sequence[Any]:
        return [self.text(row, "instruction"), self.text(row, "input")]

    def answered(self, row: Row) -> str:
        return self.text(row, "output")

    def renderings(self, row: Row, reader: Any) -> Iterator[Rendering]:  # noqa: ANN401
        yield Rendering((Segment(self.asked(row, reader), loses="start"), Segment(self.answered(row), answer=True)))

    def asked(self, row: Row, reader: Any) -> str:  # noqa: ANN401
        instruction, given = self.text(row, "instruction"), self.text(row, "input")
        return (WITH_INPUT if given else WITHOUT_INPUT).format(instruction=instruction, input=given)

    def asked_problems(self, table: Table) -> list[Problem]:
        return self.problems(table)
