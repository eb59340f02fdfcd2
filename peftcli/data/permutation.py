"""Seeded orders that stay the same on every version of Python."""

from __future__ import annotations

from random import Random


def permutation(count: int, key: str) -> list[int]:
    """Return the numbers below ``count`` in an order that ``key`` alone decides."""
    # Random.random is the one generator whose sequence Python promises to keep; shuffle and sample are not.
    draw = Random(key).random
    return sorted(range(count), key=[draw() for _ in range(count)].__getitem__)
