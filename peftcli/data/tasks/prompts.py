"""A row written as a prompt that a language model goes on with, and the demonstrations before it."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from peftcli.data.complaints import did_you_mean, listed
from peftcli.errors import RecipeError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

LABEL = "label"
_PLACEHOLDER = re.compile(r"\{(\w+)\}")
_WORD = re.compile(r"\w+")


@dataclass(frozen=True)
class Template:
    """How a row and its label become text: ``{text}`` and its kin stand for columns, ``{label}`` ends it."""

    text: str

    def check(self, roles: Sequence[str]) -> None:
        """Check the placeholders.

        Raises:
            RecipeError: One is no column of the task, there is none, or the label is not what comes last.
        """
        named = _PLACEHOLDER.findall(self.text)
        allowed = [*roles, LABEL]
        if unknown := next((name for name in named if name not in allowed), None):
            hint = f"{did_you_mean(unknown, allowed)}There are {listed('{' + name + '}' for name in allowed)}."
            raise RecipeError(f"method.template has {{{unknown}}}, which is no column of the task", hint=hint)
        if named.count(LABEL) != 1 or not self.text.endswith(f"{{{LABEL}}}") or len(named) == 1:
            what = f"method.template is {self.text!r}: it must hold a column of the row, and end with {{label}}"
            raise RecipeError(what, hint='Write "Review: {text}\\nSentiment: {label}", for instance.')

    @cached_property
    def _parts(self) -> tuple[str, str]:
        before = self.text.removesuffix(f"{{{LABEL}}}")
        start = before.rstrip()
        return start, before[len(start) :]

    @property
    def ending(self) -> str:
        """What stands before every label alike: the last words of the template itself."""
        return _PLACEHOLDER.split(self._parts[0])[-1]

    def prompt(self, values: Mapping[str, str]) -> str:
        """Return the text of a row up to its label, and up to the white space before that."""
        return _PLACEHOLDER.sub(lambda found: values.get(found[1], ""), self._parts[0])

    def continuation(self, word: str) -> str:
        """Return a label's word with the white space before it."""
        return self._parts[1] + word

    def filled(self, values: Mapping[str, str], word: str) -> str:
        """Return the text of a row with its label."""
        return self.prompt(values) + self.continuation(word)


@dataclass(frozen=True)
class Demonstration:
    """A training row that is shown: its texts by column, and its label."""

    values: Mapping[str, str]
    label: str


class Nearest:
    """Which of some texts are nearest to another, by the cosine of their TF-IDF vectors.

    A word's weight in a text is how often it stands there times log((1 + texts) / (1 + texts that have it)) + 1; a word
    that none of the texts has counts for nothing. Equally near texts keep their order.
    """

    def __init__(self, texts: Sequence[str]) -> None:
        counts = [_words(text) for text in texts]
        found = Counter(word for count in counts for word in count)
        self._weights = {word: math.log((1 + len(texts)) / (1 + n)) + 1 for word, n in found.items()}
        self._postings: dict[str, list[tuple[int, float]]] = {}
        for place, count in enumerate(counts):
            for word, weight in self._vector(count).items():
                self._postings.setdefault(word, []).append((place, weight))
        self._size = len(texts)

    def order(self, text: str) -> list[int]:
        """Return the places of all texts, the nearest first."""
        near = [0.0] * self._size
        for word, weight in self._vector(_words(text)).items():
            for place, other in self._postings[word]:
                near[place] += weight * other
        return sorted(range(self._size), key=lambda place: (-near[place], place))

    def _vector(self, count: Counter[str]) -> dict[str, float]:
        raw = {word: n * self._weights[word] for word, n in count.items() if word in self._weights}
        length = math.sqrt(math.fsum(weight * weight for weight in raw.values())) or 1.0
        return {word: weight / length for word, weight in raw.items()}


def leading_ids(reader: PreTrainedTokenizerBase) -> list[int]:
    """Return what a tokenizer puts before a text."""
    plain: list[int] = reader("a", add_special_tokens=False)["input_ids"]
    full: list[int] = reader("a")["input_ids"]
    return full[: next((n for n in range(len(full)) if full[n : n + len(plain)] == plain), 0)]


def _words(text: str) -> Counter[str]:
    return Counter(_WORD.findall(text.casefold()))
