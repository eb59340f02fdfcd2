"""CIDEr-D: how alike a text and its references are in the n-grams that are rare in the set (Vedantam et al. 2015).

1411.5726, as coco-caption computes it: Treebank words, n-grams up to 4 weighted by tf-idf, cosine similarity with the
text's counts clipped at the reference's, a Gaussian penalty for another length (sigma 6), the mean over n and
references, times 10. Few examples make little of rarity: of a single one CIDEr is 0.

The document frequencies are those of the whole set's references, also when a part of it is scored again.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from peftcli.metrics.ngrams import NGram, ngrams
from peftcli.metrics.scored import Scored, averaged
from peftcli.metrics.tokens import treebank_words

LONGEST = 4
SIGMA = 6.0
SCALE = 10.0


@dataclass(frozen=True)
class Weighed:
    """A text as one tf-idf vector per n.

    Attributes:
        vectors: The weight of every n-gram, for n from 1.
        norms: Of the vectors.
        length: Number of bigrams, which is what coco-caption's penalty compares.
    """

    vectors: list[dict[NGram, float]]
    norms: list[float]
    length: int


def scored(predictions: Sequence[str], references: Sequence[Sequence[str]]) -> Scored:
    """Return CIDEr-D on texts, from 0 to 10."""
    texts = [_counts(text) for text in predictions]
    known = [[_counts(text) for text in group] for group in references]
    documents: Counter[NGram] = Counter()
    for group in known:
        documents.update({ngram for counts in group for of_n in counts for ngram in of_n})
    size = len(known)
    return averaged(
        sum(_similarity(_weighed(text, documents, size), _weighed(one, documents, size)) for one in group) / len(group)
        for text, group in zip(texts, known, strict=True)
    )


def _counts(text: str) -> list[Counter[NGram]]:
    words = treebank_words(text)
    return [ngrams(words, n) for n in range(1, LONGEST + 1)]


def _weighed(counts: list[Counter[NGram]], documents: Counter[NGram], size: int) -> Weighed:
    vectors = [
        {ngram: count * math.log(size / max(documents[ngram], 1)) for ngram, count in of_n.items()} for of_n in counts
    ]
    norms = [math.sqrt(sum(weight**2 for weight in vector.values())) for vector in vectors]
    return Weighed(vectors, norms, counts[1].total())


def _similarity(text: Weighed, reference: Weighed) -> float:
    total = 0.0
    for n in range(LONGEST):
        norm = text.norms[n] * reference.norms[n]
        if norm:
            own, other = text.vectors[n], reference.vectors[n]
            total += sum(min(own[ngram], other[ngram]) * other[ngram] for ngram in own.keys() & other.keys()) / norm
    return SCALE / LONGEST * total * math.exp(-((text.length - reference.length) ** 2) / (2 * SIGMA**2))
