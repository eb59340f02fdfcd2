"""METEOR: an F-mean of matched words, less a penalty for broken order (Lavie and Agarwal 2007), by nltk.

Words match exactly, by Porter's stem, and, where nltk's WordNet corpus is installed, by synonym (``nltk.download
("wordnet")``); the signature says which. Treebank words without punctuation, the best reference for each example, mean
over examples, 0 to 1.

This is not METEOR 1.5 (meteor_java.py), whose values papers on E2E NLG report: that one adds paraphrases, weighs
function words less and punishes order harder, so that its values are lower (0.45 for 0.76 on the sets of
tests/metrics/golden.json).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

from peftcli.metrics.scored import Scored, averaged
from peftcli.metrics.tokens import treebank_words


class NoSynonyms:
    """Stands where nltk expects WordNet and knows no word."""

    def synsets(self, word: str) -> list[Any]:
        """Return no senses."""
        return []


class RememberedStems:
    """Porter's stemmer, each word once."""

    def __init__(self) -> None:
        from nltk.stem.porter import PorterStemmer

        self.stem: Callable[[str], str] = cache(PorterStemmer().stem)


def has_synonyms() -> bool:
    """Return whether nltk's WordNet corpus is installed."""
    from nltk.corpus import wordnet

    try:
        wordnet.ensure_loaded()
    except LookupError:
        return False
    return True


def scored(predictions: Sequence[str], references: Sequence[Sequence[str]]) -> Scored:
    """Return METEOR on texts."""
    from nltk.corpus import wordnet
    from nltk.translate.meteor_score import meteor_score

    options = {"stemmer": RememberedStems(), "wordnet": wordnet if has_synonyms() else NoSynonyms()}
    return averaged(
        meteor_score([treebank_words(one) for one in group], treebank_words(text), **options)
        for text, group in zip(predictions, references, strict=True)
    )
