"""What a row of multiple choice says: its choices, and which of them is right."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from string import ascii_uppercase
from typing import TYPE_CHECKING, Any

from peftcli.data.tasks.columns import kind
from peftcli.errors import Problem

if TYPE_CHECKING:
    from peftcli.data.tables import Row

_CHOICE = re.compile(r"choice([1-9]\d?)")


@dataclass(frozen=True, slots=True)
class ChoiceRow:
    """The texts of the choices, and the number of the right one, from 0."""

    texts: tuple[str, ...]
    answer: int


def letter(place: int) -> str:
    """Return A for 0, B for 1, ...; beyond Z the number itself, from 1."""
    return ascii_uppercase[place] if place < len(ascii_uppercase) else str(place + 1)


def choice_columns(named: Mapping[str, str], present: Sequence[str]) -> dict[str, str]:
    """Return what the task calls its columns -> what the files call them.

    The choices stand in one column of lists, ``choices``, or in columns of their own, ``choice1``, ``choice2``, ...

    Args:
        named: What the recipe says.
        present: The columns of the files.
    """
    names = {
        "prompt": "question" if "prompt" not in present and "question" in present else "prompt",
        "answer": "label" if "answer" not in present and "label" in present else "answer",
    }
    own = [role for role in named if _CHOICE.fullmatch(role)]
    if not own and "choices" not in named and "choices" not in present:
        own = [name for name in present if _CHOICE.fullmatch(name)]
    choices = {role: role for role in sorted(own, key=_number)} or {"choices": "choices"}
    return {**names, **choices, **{role: name for role, name in named.items() if role in {**names, **choices}}}


def read_choice(values: Mapping[str, Any], names: Mapping[str, str]) -> ChoiceRow | str:
    """Return the choices of a row and the right one, or what is wrong with them.

    ``choices`` is a list of texts, or an object with the lists ``text`` and ``label``, as ARC has it. The answer is
    the text of a choice, its label, its letter (A, B, ...) or its number from 0.
    """
    found = _choices(values, names)
    if isinstance(found, str):
        return found
    texts, labels = found
    if len(texts) < 2:
        return f"there is {len(texts)} choice, not two or more" if texts else "there are no choices"
    wrong = next((text for text in texts if not isinstance(text, str) or not text.strip()), None)
    if wrong is not None or None in texts:
        return f"one of the choices is {wrong!r}, not text"
    if len(set(texts)) < len(texts):
        return f"the choice {next(text for text in texts if texts.count(text) > 1)!r} stands there twice"
    answer = _answer(values.get(names["answer"]), texts, labels)
    if answer is None:
        value = values.get(names["answer"])
        return f"column {names['answer']!r} is {value!r}, which is none of the {len(texts)} choices"
    return ChoiceRow(tuple(texts), answer)


def choice_problem(row: Row, names: Mapping[str, str]) -> Problem | None:
    """Return what is wrong with the choices or the answer of a row."""
    found = read_choice(row.values, names)
    if not isinstance(found, str):
        return None
    return Problem(what=found, where=row.where, hint="An answer is a choice's text, its letter or its number from 0.")


def _number(role: str) -> int:
    return int(role.removeprefix("choice"))


def _choices(values: Mapping[str, Any], names: Mapping[str, str]) -> tuple[list[Any], list[Any]] | str:
    """Return the texts and their labels, if these have any; or what is wrong."""
    if "choices" not in names:
        found = [values.get(names[role]) for role in sorted(filter(_CHOICE.fullmatch, names), key=_number)]
        while found and found[-1] in (None, ""):  # rows may have fewer choices than there are columns
            found.pop()
        return found, []
    value, name = values.get(names["choices"]), names["choices"]
    if isinstance(value, list):
        return value, []
    if not isinstance(value, dict):
        return f"column {name!r} is {kind(value)}, not a list of texts"
    texts, labels = value.get("text"), value.get("label")
    if not isinstance(texts, list) or not isinstance(labels, list) or len(texts) != len(labels):
        return f"column {name!r} is an object without lists text and label of one length"
    return texts, labels


def _answer(value: object, texts: Sequence[str], labels: Sequence[object]) -> int | None:
    """Return the number of the choice that ``value`` names."""
    named = [labels, texts, [letter(place) for place in range(len(texts))]]
    for names in named:
        if isinstance(value, str) and value in names:
            return list(names).index(value)
    if isinstance(value, str) and value.isascii() and value.isdigit() and not labels:
        value = int(value)
    if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < len(texts):
        return value
    return None
