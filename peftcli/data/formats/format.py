"""What a format is: which columns it reads, and how a row of them becomes text of which a part is learned."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

if TYPE_CHECKING:
    from peftcli.data.tables import Row, Table
    from peftcli.errors import Problem

TrainOn = Literal["completion", "last", "all"]


@dataclass(frozen=True, slots=True)
class Segment:
    """A stretch of a row's text.

    Attributes:
        text: May be empty.
        answer: Whether it is what the model shall write.
        loses: Which end of it goes where the row is too long.
    """

    text: str
    answer: bool = False
    loses: Literal["", "start", "end"] = ""


@dataclass(frozen=True, slots=True)
class Rendering:
    """A row as text.

    Attributes:
        segments: In order; together they are the whole text.
        closed: Whether the text itself says that it is over, so that no end-of-text token has to.
    """

    segments: tuple[Segment, ...]
    closed: bool = False


@dataclass(frozen=True, kw_only=True)
class Format(ABC):
    """A format whose columns are found.

    Attributes:
        alternatives: What its columns are called where the recipe does not say, the likeliest first.
        required: The columns that every row needs; the others are optional.
        texts: The columns whose values are text.
        blank: Those of them that may be blank.
        learned: What its rows teach, in words.
        asks: The columns of which at least the first is needed to ask for an answer.
        answer: The column of the answer, where one column holds nothing else.
        templated: Whether a chat template writes the special tokens, rather than the tokenizer.
        columns: What the format calls a column -> what the files call it.
        train_on: Which answers are learned.
        chat_template: What replaces the tokenizer's own template.
    """

    alternatives: ClassVar[tuple[Mapping[str, str], ...]]
    required: ClassVar[tuple[str, ...]]
    texts: ClassVar[tuple[str, ...]]
    blank: ClassVar[tuple[str, ...]] = ()
    learned: ClassVar[str] = "the completion"
    templated: ClassVar[bool] = False
    asks: ClassVar[tuple[str, ...]]
    answer: ClassVar[str] = ""

    columns: Mapping[str, str]
    train_on: TrainOn = "completion"
    chat_template: str | None = None

    @classmethod
    def roles(cls) -> tuple[str, ...]:
        """Return what the format calls its columns."""
        return tuple(cls.alternatives[0])

    @classmethod
    def fits(cls, present: Sequence[str]) -> bool:
        """Return whether files with the columns ``present`` are of this format."""
        return any(_complete(cls, names, present) for names in cls.alternatives)

    @classmethod
    def names(cls, present: Sequence[str], given: Mapping[str, str]) -> dict[str, str]:
        """Return what its columns are called in files with the columns ``present``; ``given`` is what a recipe says."""
        found = next((n for n in cls.alternatives if _complete(cls, n, present)), cls.alternatives[0])
        return {**{r: n for r, n in found.items() if n in present or r in cls.required}, **given}

    def problems(self, table: Table) -> list[Problem]:
        """Return what is wrong with the rows beside texts that are none."""
        del table
        return []

    @abstractmethod
    def question(self, row: Row) -> Sequence[Any]:
        """Return what makes two rows the same question."""

    @abstractmethod
    def answered(self, row: Row) -> str:
        """Return the (last) answer, as it stands in the row."""

    @abstractmethod
    def renderings(self, row: Row, reader: Any) -> Iterator[Rendering]:  # noqa: ANN401  # a tokenizer
        """Yield the row as text, and then shorter forms of it for where that is too long.

        Raises:
            DataError: A template cannot render the row, or not so that its learned parts can be told.
        """

    @abstractmethod
    def asked(self, row: Row, reader: Any) -> str:  # noqa: ANN401  # a tokenizer
        """Return the text that an answer of the row would follow, whether it has one or not."""

    def asked_problems(self, table: Table) -> list[Problem]:
        """Return what keeps rows from being asked for an answer, beside texts that are none."""
        del table
        return []

    def known(self, row: Row) -> str | None:
        """Return the answer where the row has one beside its question."""
        return self.text(row, self.answer) or None

    def asking(self, text: str) -> dict[str, Any]:
        """Return the values of a row that asks for an answer to ``text``."""
        return {self.columns.get(self.asks[0], self.asks[0]): text}

    def text(self, row: Row, role: str) -> str:
        """Return the text of a column, empty where the files have none."""
        value = row.values.get(self.columns[role]) if role in self.columns else None
        return value if isinstance(value, str) else ""


def _complete(cls: type[Format], names: Mapping[str, str], present: Sequence[str]) -> bool:
    return all(names[role] in present for role in cls.required)
