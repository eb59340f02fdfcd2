"""Counting runs of words."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

NGram = tuple[str, ...]


def ngrams(words: Sequence[str], n: int) -> Counter[NGram]:
    """Return how often every run of ``n`` words occurs."""
    return Counter(tuple(words[start : start + n]) for start in range(len(words) - n + 1))
