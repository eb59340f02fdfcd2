"""Metrics of question answering, as SQuAD 1.1 and 2.0 measure them (Rajpurkar et al. 2016, 2018), from 0 to 1.

Answers are compared in lower case, without punctuation, articles and extra spaces, with the reference that fits best.
No answer is the empty text: a prediction then scores 1 if it is empty too.
"""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Sequence

from peftcli.metrics.scored import Scored, averaged

ARTICLES = re.compile(r"\b(a|an|the)\b")
WITHOUT_PUNCTUATION = str.maketrans("", "", string.punctuation)


def scored(name: str, predictions: Sequence[str], references: Sequence[Sequence[str]]) -> Scored:
    """Return a metric on answers; a question without references, or with empty ones alone, has no answer."""
    score = SCORES[name]
    pairs = zip(predictions, references, strict=True)
    return averaged(max(score(_words(guess), answer) for answer in _answers(known)) for guess, known in pairs)


def _words(text: str) -> list[str]:
    return ARTICLES.sub(" ", text.lower().translate(WITHOUT_PUNCTUATION)).split()


def _answers(references: Sequence[str]) -> list[list[str]]:
    """Return the references' words; what normalises to nothing counts only if nothing else is left."""
    return [words for words in map(_words, references) if words] or [[]]


def _exact_match(prediction: list[str], reference: list[str]) -> float:
    return float(prediction == reference)


def _f1(prediction: list[str], reference: list[str]) -> float:
    if not prediction or not reference:
        return float(prediction == reference)
    shared = sum((Counter(prediction) & Counter(reference)).values())
    return 2 * shared / (len(prediction) + len(reference))


SCORES = {"exact_match": _exact_match, "f1": _f1}
