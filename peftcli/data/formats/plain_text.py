"""Text, all of which is learned."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from peftcli.data.formats.format import Format, Rendering, Segment

if TYPE_CHECKING:
    from peftcli.data.tables import Row


@dataclass(frozen=True, kw_only=True)
class PlainText(Format):
    """``text``; what is too long loses its end, and then nothing says that it is over."""

    alternatives: ClassVar[tuple[Mapping[str, str], ...]] = ({"text": "text"},)
    required: ClassVar[tuple[str, ...]] = ("text",)
    texts: ClassVar[tuple[str, ...]] = ("text",)
    learned: ClassVar[str] = "the text"
    asks: ClassVar[tuple[str, ...]] = ("text",)

    def question(self, row: Row) -> Sequence[Any]:
        return [self.text(row, "text")]

    def answered(self, row: Row) -> str:
        return self.text(row, "text")

    def asked(self, row: Row, reader: Any) -> str:  # noqa: ANN401
        return self.answered(row)

    def known(self, row: Row) -> str | None:
        del row
        return None  # what follows the text, no row says

    def renderings(self, row: Row, reader: Any) -> Iterator[Rendering]:  # noqa: ANN401
        yield Rendering((Segment(self.answered(row), answer=True, loses="end"),))
