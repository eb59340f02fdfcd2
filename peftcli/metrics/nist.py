"""NIST: how much information the n-grams carry that a text shares with its references (Doddington 2002).

As mteval-v13a counts for E2E NLG: 13a tokens in lower case, n-grams up to 5, a match is clipped at the largest count
in any one reference, information log2(count of the first n - 1 words / count of all n) over all references, the length
against the mean length of the references. nltk's NIST differs from the script in the last three. When examples have
different numbers of references, each mean is over those it has.

The information weights are those of the whole set, also when a part of it is scored again.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from peftcli.metrics.ngrams import NGram, ngrams
from peftcli.metrics.scored import Scored, ratio, summed
from peftcli.metrics.tokens import mteval_words

if TYPE_CHECKING:
    import numpy as np

LONGEST = 5
# The penalty is a half for texts two thirds as long as their references.
PENALTY = math.log(0.5) / math.log(1.5) ** 2


def scored(predictions: Sequence[str], references: Sequence[Sequence[str]]) -> Scored:
    """Return NIST on texts, at least 0 and mostly below 15."""
    texts = [mteval_words(text) for text in predictions]
    known = [[mteval_words(text) for text in group] for group in references]
    weigh = _information(known)
    return summed((_statistics(*pair, weigh) for pair in zip(texts, known, strict=True)), _nist)


def _information(references: Sequence[Sequence[Sequence[str]]]) -> Callable[[NGram], float]:
    """Return the function from an n-gram to its bits."""
    counts: Counter[NGram] = Counter()
    for words in (words for group in references for words in group):
        counts[()] += len(words)
        for n in range(1, LONGEST + 1):
            counts.update(ngrams(words, n))
    return lambda ngram: math.log2(counts[ngram[:-1]] / counts[ngram])


def _statistics(
    words: Sequence[str], references: Sequence[Sequence[str]], weigh: Callable[[NGram], float]
) -> list[float]:
    """Return the information of the matches and the number of n-grams for every n, and the mean reference length."""
    information, totals = [], []
    for n in range(1, LONGEST + 1):
        own, most = ngrams(words, n), Counter[NGram]()
        for reference in references:
            most |= ngrams(reference, n)
        information.append(sum(weigh(ngram) * count for ngram, count in (own & most).items()))
        totals.append(float(own.total()))
    return [*information, *totals, sum(map(len, references)) / len(references)]


def _nist(sums: np.ndarray) -> float:
    information, totals, reference_length = sums[:LONGEST], sums[LONGEST:-1], sums[-1]
    length = min(ratio(totals[0], reference_length), 1.0)
    penalty = math.exp(PENALTY * math.log(length) ** 2) if length else 0.0
    return penalty * sum(ratio(*pair) for pair in zip(information, totals, strict=True))
