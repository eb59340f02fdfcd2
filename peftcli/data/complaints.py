"""How mistakes in data are told: the first few with their lines, and the count of all."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from pathlib import PurePath

from peftcli.errors import DataError, Problem

SHOWN_PROBLEMS = 10
SHOWN_LINES = 5


class Complaints:
    """The problems of one file: all are counted, the first ten are kept."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.count = 0
        self._kept: list[Problem] = []

    def add(self, what: str, place: str = "", hint: str | None = None) -> None:
        """Note one problem; ``place`` is ``line`` or ``line:column``."""
        self.note(Problem(what=what, where=f"{self.name}:{place}" if place else self.name, hint=hint))

    def note(self, problem: Problem) -> None:
        """Note a problem that knows its place."""
        self.count += 1
        if self.count <= SHOWN_PROBLEMS:
            self._kept.append(problem)

    def raise_if_any(self) -> None:
        """Raise the noted problems.

        Raises:
            DataError: There is at least one.
        """
        if self.count > SHOWN_PROBLEMS:
            what = f"{self.count} problems in all, of which the first {SHOWN_PROBLEMS} are shown"
            raise DataError([*self._kept, Problem(what=what, where=self.name)])
        raise_all(self._kept)


def raise_all(problems: Sequence[Problem]) -> None:
    """Raise ``problems`` if there are any.

    Raises:
        DataError: There is at least one.
    """
    if problems:
        raise DataError(problems)


def lines(places: Sequence[str]) -> str:
    """Return ``3 rows (a.jsonl:1, a.jsonl:4, a.jsonl:9)``: how many, and the first five."""
    shown = ", ".join(PurePath(place).name for place in places[:SHOWN_LINES])
    rest = f" and {len(places) - SHOWN_LINES} more" if len(places) > SHOWN_LINES else ""
    return f"{len(places)} row{'s' * (len(places) != 1)} ({shown}{rest})"


def did_you_mean(word: str, words: Iterable[str]) -> str:
    """Return ``Did you mean 'x'? `` or nothing, to stand before the rest of a hint."""
    near = difflib.get_close_matches(word, list(words), n=1)
    return f"Did you mean {near[0]!r}? " if near else ""


def listed(words: Iterable[str], most: int = 20) -> str:
    """Return the words with commas between them, cut after ``most``."""
    words = list(words)
    return ", ".join(words[:most]) + (f" and {len(words) - most} more" if len(words) > most else "")
