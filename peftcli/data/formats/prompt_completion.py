"""A prompt, and the completion that follows it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from peftcli.data.formats.format import Format, Rendering, Segment

if TYPE_CHECKING:
    from peftcli.data.tables import Row

SEPARATOR = "\n"
"""What stands between a prompt and its completion, unless the prompt ends in white space."""


@dataclass(frozen=True, kw_only=True)
class PromptCompletion(Format):
    """``completion`` and, optional, ``prompt``; a row that is too long loses the start of its prompt."""

    alternatives: ClassVar[tuple[Mapping[str, str], ...]] = (
        {"prompt": "prompt", "completion": "completion"},
        {"prompt": "input", "completion": "target"},
    )
    required: ClassVar[tuple[str, ...]] = ("completion",)
    texts: ClassVar[tuple[str, ...]] = ("prompt", "completion")
    blank: ClassVar[tuple[str, ...]] = ("prompt",)
    asks: ClassVar[tuple[str, ...]] = ("prompt",)
    answer: ClassVar[str] = "completion"

    def question(self, row: Row) -> Sequence[Any]:
        prompt = self.text(row, "prompt")
        return [prompt if prompt.strip() else self.answered(row)]

    def answered(self, row: Row) -> str:
        return self.text(row, "completion")

    def renderings(self, row: Row, reader: Any) -> Iterator[Rendering]:  # noqa: ANN401
        prompt = Segment(self.prompt(row), loses="start")
        yield Rendering((prompt, Segment(self.answered(row), answer=True)))

    def asked(self, row: Row, reader: Any) -> str:  # noqa: ANN401
        return self.prompt(row)

    def prompt(self, row: Row) -> str:
        """Return the text that the completion follows, with the separator."""
        text = self.text(row, "prompt")
        return f"{text}{SEPARATOR}" if text and not text[-1].isspace() else text
