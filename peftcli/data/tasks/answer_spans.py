"""Where answers stand in a text, as a row says it and as tags of the tokens of its windows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from peftcli.data.examples import IGNORED, Example
from peftcli.data.tasks.columns import kind
from peftcli.data.windows import Offsets, span_in
from peftcli.errors import Problem

if TYPE_CHECKING:
    from peftcli.data.tables import Row
    from peftcli.data.windows import WindowIds, Windows

START, END, NOWHERE = 1, 2, 4
"""What a tag says of a token: an answer starts, or ends, there; it stands for no answer. 0: an answer may hold it."""


@dataclass(frozen=True, slots=True)
class Answer:
    """A stretch of a text, and the character where it starts."""

    text: str
    start: int

    @property
    def bounds(self) -> tuple[int, int]:
        """The first character that is no white space, and the one after the last."""
        start = self.start + len(self.text) - len(self.text.lstrip())
        return start, start + len(self.text.strip())


@dataclass(frozen=True, slots=True, kw_only=True)
class Window(Example):
    """A question with a stretch of its text; the tokens of the text cover the characters ``offsets``."""

    offsets: Offsets = field(default_factory=list)


@dataclass(frozen=True, slots=True, kw_only=True)
class Question(Example):
    """A question and its whole text, in windows as its parts."""

    context: str = ""


def read_answers(value: object) -> list[Answer] | str:
    """Return the answers that a row holds in either form of SQuAD, or what keeps them from being such."""
    if isinstance(value, dict):
        texts, starts = value.get("text"), value.get("answer_start")
    elif isinstance(value, list) and all(isinstance(one, dict) for one in value):
        texts, starts = ([one.get(key) for one in value] for key in ("text", "answer_start"))
    else:
        return f"is {kind(value)}, not an object with the lists text and answer_start,"
    if not isinstance(texts, list) or not isinstance(starts, list):
        return "lacks one of the lists text and answer_start"
    if len(texts) != len(starts):
        return f"has {len(texts)} texts but {len(starts)} places in answer_start"
    for text, start in zip(texts, starts, strict=True):
        if not isinstance(text, str) or not text.strip():
            return f"has the text {text!r}, which is no answer"
        if not isinstance(start, int) or isinstance(start, bool):
            return f"has the answer_start {start!r}, not a whole number"
    return [Answer(text, start) for text, start in zip(texts, starts, strict=True)]


def answer_problem(row: Row, context: str, answers: str) -> Problem | None:
    """Return what is wrong with the answers of a row whose columns are called ``context`` and ``answers``."""
    found, text = read_answers(row.values.get(answers)), row.values.get(context)
    if isinstance(found, str):
        hint = 'Write {"text": [...], "answer_start": [...]}; both lists are empty where there is no answer.'
        return Problem(what=f"column {answers!r} {found}", where=row.where, hint=hint)
    if not isinstance(text, str):  # told as a fault of its own column
        return None
    for answer in found:
        if answer.start < 0 or not text.startswith(answer.text, answer.start):
            what = f"the answer {_short(answer.text)} does not stand at character {answer.start} of the context"
            return Problem(what=what, where=row.where, hint=_place(text, answer))
    return None


def question_example(row: Row, index: int, windows: Windows, context: str, answers: Sequence[Answer]) -> Question:
    """Return a row as one example: in each window that holds the whole first answer, its ends are tagged."""
    parts = tuple(_window(window, answers[:1], index, row.where) for window in windows.items)
    texts = tuple(answer.text for answer in answers)
    length = sum(part.length for part in parts)
    return Question({}, length, index, row.where, references=texts, parts=parts, context=context)


def tagged_span(tags: Sequence[int]) -> tuple[int, int] | None:
    """Return where the answer of a window starts and ends; None where it is not there."""
    start, end = (next(i for i, tag in enumerate(tags) if tag >= 0 and tag & mark) for mark in (START, END))
    return None if tags[start] & NOWHERE else (start, end)


def span_text(example: Question, number: int, first: int, last: int) -> str:
    """Return the text of the tokens ``first`` to ``last`` of window ``number``, counted among those of the text."""
    window = example.parts[number]
    assert isinstance(window, Window)
    return example.context[window.offsets[first][0] : window.offsets[last][1]].strip()


def _window(window: WindowIds, answers: Sequence[Answer], index: int, where: str) -> Window:
    tags = [IGNORED] * len(window.ids["input_ids"])
    tags[window.first : window.first + len(window.offsets)] = [0] * len(window.offsets)
    tags[window.nowhere] = NOWHERE
    found = next((span_in(window.offsets, *answer.bounds) for answer in answers), None)
    first, last = (window.first + place for place in found) if found else (window.nowhere, window.nowhere)
    tags[first] += START
    tags[last] += END
    return Window({**window.ids, "tags": tags}, len(tags), index, where, offsets=window.offsets)


def _place(text: str, answer: Answer) -> str:
    """Return where the answer does stand, the place nearest to the one that was said."""
    for whole, part, case in ((text, answer.text, ""), (text.lower(), answer.text.lower(), ", in other case")):
        places = [i for i in range(len(whole)) if whole.startswith(part, i)]
        if places:
            nearest = min(places, key=lambda place: abs(place - answer.start))
            return f"It stands at character {nearest}{case}; the first character has the number 0."
    return "The context does not hold it: an answer is a stretch of the context, letter for letter."


def _short(text: str) -> str:
    return repr(text if len(text) <= 40 else f"{text[:37]}...")
