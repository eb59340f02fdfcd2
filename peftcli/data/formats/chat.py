"""Conversations, rendered by a chat template; what is learned is found by rendering their beginnings."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from peftcli.data.chat_template import Message, Render, renderer
from peftcli.data.complaints import SHOWN_PROBLEMS, lines
from peftcli.data.formats.format import Format, Rendering, Segment
from peftcli.errors import DataError, Problem

if TYPE_CHECKING:
    from peftcli.data.tables import Row, Table

SYSTEM = ("system", "developer")
USER, ASSISTANT = "user", "assistant"


@dataclass(frozen=True, kw_only=True)
class Chat(Format):
    """Turns of several speakers.

    Learned is what the template writes between the opening of an assistant's turn and the end of that turn, the mark
    of its end included, white space after the mark not. Turns of the assistant before the first of a user are context.
    Messages after the assistant's last are left out: nothing follows from them.

    A row that is too long loses its first turns, whole ones, up to a user's; the system's messages at its head stay.
    Where the last exchange alone is too long, the user's message loses its start.
    """

    learned: ClassVar[str] = "the assistant's turn"
    templated: ClassVar[bool] = True

    @abstractmethod
    def messages(self, row: Row) -> list[Message]:
        """Return the row's messages as ``role`` and ``content``."""

    @abstractmethod
    def mistake(self, value: Any) -> str | None:  # noqa: ANN401  # whatever a file holds
        """Return what keeps the value of a column from being messages."""

    def problems(self, table: Table) -> list[Problem]:
        """Return what is wrong with the messages, the rows of one kind together."""
        (column,) = self.columns.values()
        found: dict[str, list[str]] = {}
        for row in table.rows:
            value = row.values.get(column)
            what = self.mistake(value) or _unanswered(self.messages(row))
            if what:
                found.setdefault(f"column {column!r}: {what}", []).append(row.where)
        some = list(found.items())[:SHOWN_PROBLEMS]
        return [Problem(what=f"{what}, in {lines(places)}", where=places[0]) for what, places in some]

    def question(self, row: Row) -> Sequence[Any]:
        messages = _until_answered(self.messages(row))[:-1]
        return [text for m in messages for text in (m["role"], m.get("content") or "")]

    def answered(self, row: Row) -> str:
        return str(_until_answered(self.messages(row))[-1].get("content") or "")

    def asked(self, row: Row, reader: Any) -> str:  # noqa: ANN401
        messages = self.messages(row)
        asking = messages[:-1] if messages[-1]["role"] == ASSISTANT else messages
        return renderer(reader, self.chat_template, row.where)(asking, True)

    def asked_problems(self, table: Table) -> list[Problem]:
        (column,) = self.columns.values()
        bad = [(what, row.where) for row in table.rows if (what := self._unasked(row.values.get(column), row))]
        return [Problem(what=f"column {column!r}: {what}", where=where) for what, where in bad[:SHOWN_PROBLEMS]]

    def known(self, row: Row) -> str | None:
        last = self.messages(row)[-1]
        return str(last.get("content") or "") if last["role"] == ASSISTANT else None

    def _unasked(self, value: Any, row: Row) -> str | None:  # noqa: ANN401
        if what := self.mistake(value):
            return what
        asked = any(message["role"] == USER for message in self.messages(row))
        return None if asked else f"there is no turn of the {USER}"

    def renderings(self, row: Row, reader: Any) -> Iterator[Rendering]:  # noqa: ANN401
        render = renderer(reader, self.chat_template, row.where)
        messages = _until_answered(self.messages(row))
        head = next(i for i, m in enumerate(messages) if m["role"] not in SYSTEM)
        questions = [i for i, m in enumerate(messages) if m["role"] == USER]
        yield _Conversation(messages, render, row.where).rendering(self)
        for start in questions[1:]:
            yield _Conversation([*messages[:head], *messages[start:]], render, row.where).rendering(self)
        last = _Conversation([*messages[:head], *messages[questions[-1] :]], render, row.where)
        yield last.rendering(self, shorter=head)


@dataclass(frozen=True, slots=True)
class _Conversation:
    messages: list[Message]
    render: Render
    where: str

    def rendering(self, form: Chat, *, shorter: int | None = None) -> Rendering:
        """Return the whole text; message ``shorter`` may lose its start."""
        whole = self.render(self.messages, False)
        answers = self._answers()
        segments: list[Segment] = []
        at = 0
        closed = False
        for index in answers[-1:] if form.train_on == "last" else answers:
            start, end, closed = self._answer(index, whole)
            segments += [Segment(whole[at:start]), Segment(whole[start:end], answer=True)]
            at = end
        segments.append(Segment(whole[at:]))
        if shorter is not None:
            segments = self._losing(shorter, segments)
        return Rendering(tuple(s for s in segments if s.text), closed)

    def _answers(self) -> list[int]:
        """Return the assistant's turns that follow one of a user."""
        first = next(i for i, m in enumerate(self.messages) if m["role"] == USER)
        return [i for i, m in enumerate(self.messages) if m["role"] == ASSISTANT and i > first]

    def _answer(self, index: int, whole: str) -> tuple[int, int, bool]:
        """Return where the turn of message ``index`` starts and ends, and whether a mark closes it."""
        before = self.render(self.messages[:index], True)
        last = index == len(self.messages) - 1
        after = whole if last else self.render(self.messages[: index + 1], False)
        if not (after.startswith(before) and whole.startswith(after)):
            raise DataError(
                f"the chat template writes the beginning of this conversation, up to message {index + 1}, "
                "otherwise than it stands in the whole",
                where=self.where,
                hint="Write data.train_on: last, or a data.chat_template that writes a turn alike wherever it stands.",
            )
        turn = after[len(before) :]
        closed = _is_closed(turn, self.messages[index])
        return len(before), len(before) + len(turn.rstrip() if closed else turn), closed

    def _losing(self, index: int, segments: list[Segment]) -> list[Segment]:
        """Return the segments with the content of message ``index`` as one that may lose its start."""
        content = self.messages[index]["content"].strip()
        first, *rest = segments
        asked = self.render(self.messages[: index + 1], False)
        at = asked.rfind(content) if content and first.text.startswith(asked) else -1
        if at < 0:
            return segments
        cut = Segment(content, loses="start")
        return [Segment(first.text[:at]), cut, Segment(first.text[at + len(content) :]), *rest]


def _is_closed(text: str, message: Message) -> bool:
    """Return whether a mark stands between the content of a last message and the end of ``text``."""
    content = (message.get("content") or "").strip()
    return not text.rstrip().endswith(content) if content else bool(text.strip())


def _until_answered(messages: list[Message]) -> list[Message]:
    last = max(i for i, m in enumerate(messages) if m["role"] == ASSISTANT)
    return messages[: last + 1]


def _unanswered(messages: list[Message]) -> str | None:
    roles = [m["role"] for m in messages]
    if USER in roles and ASSISTANT in roles[roles.index(USER) :]:
        return None
    return f"no turn of the {ASSISTANT} follows one of the {USER}"
