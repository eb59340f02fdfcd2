"""Metrics of tagging: entities as seqeval and conlleval find them in IOB2 tags, and tokens.

An entity is right if its type, first and last token are. ``f1``, ``precision`` and ``recall`` count entities of all
types together (micro); without any entity they are 0. An I- tag that continues nothing begins an entity, as in
conlleval (Tjong Kim Sang and De Meulder 2003) and in seqeval's default mode.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from peftcli.metrics.classes import ClassRow, table_row
from peftcli.metrics.scored import Scored, ratio, summed

Tags = Sequence[Sequence[str]]
Entity = tuple[str, int, int]
OUTSIDE = "O"
# Each is (a hits) / (b actual + c predicted), for these a, b, c.
FROM_COUNTS = {"f1": (2, 1, 1), "precision": (1, 0, 1), "recall": (1, 1, 0)}


def scored(name: str, tags: Tags, predictions: Tags) -> Scored:
    """Return a metric on the tags of sentences; both have the same lengths."""
    if name == "accuracy":
        hits = (
            (sum(tag == guess for tag, guess in zip(sentence, guesses, strict=True)), len(sentence))
            for sentence, guesses in zip(tags, predictions, strict=True)
        )
        return summed(hits, lambda sums: ratio(*sums))
    of_hits, of_actual, of_predicted = FROM_COUNTS[name]
    pairs = ((entities(sentence), entities(guesses)) for sentence, guesses in zip(tags, predictions, strict=True))
    counts = ((len(actual & predicted), len(actual), len(predicted)) for actual, predicted in pairs)
    return summed(counts, lambda sums: ratio(of_hits * sums[0], of_actual * sums[1] + of_predicted * sums[2]))


def entities(tags: Sequence[str]) -> set[Entity]:
    """Return the type, first and last token of every entity of a sentence."""
    found = set()
    start, kind = 0, None
    for place, tag in enumerate([*tags, OUTSIDE]):
        prefix, _, tagged = tag.partition("-")
        continues = prefix not in (OUTSIDE, "B") and tagged == kind
        if kind is not None and not continues:
            found.add((kind, start, place - 1))
            kind = None
        if prefix != OUTSIDE and not continues:
            start, kind = place, tagged
    return found


def entity_table(tags: Tags, predictions: Tags) -> list[ClassRow]:
    """Return precision, recall and F1 of every type of entity that occurs or is predicted, by name."""
    hits: Counter[str] = Counter()
    actual: Counter[str] = Counter()
    predicted: Counter[str] = Counter()
    for sentence, guesses in zip(tags, predictions, strict=True):
        both = entities(sentence), entities(guesses)
        for counter, found in zip((actual, predicted, hits), (*both, both[0] & both[1]), strict=True):
            counter.update(kind for kind, _, _ in found)
    return [table_row(kind, hits[kind], actual[kind], predicted[kind]) for kind in sorted(actual | predicted)]
