"""Fused projections: which rows of one module are W_q, W_k, W_v (or W_gate, W_up)."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from peftcli.base.sites import Heads, Rows

Layout = Callable[[Mapping[str, int], Heads], dict[str, Rows]]


def concat(widths: Mapping[str, int], _: Heads) -> dict[str, Rows]:
    """Lay the parts one after the other."""
    rows: dict[str, Rows] = {}
    start = 0
    for name, width in widths.items():
        rows[name] = ((start, start + width),)
        start += width
    return rows


def head_interleaved(widths: Mapping[str, int], heads: Heads) -> dict[str, Rows]:
    """For every head lay its part of each, one after the other."""
    w, parts = heads.width, len(widths)
    return {
        name: tuple(((parts * h + p) * w, (parts * h + p + 1) * w) for h in range(heads.query))
        for p, name in enumerate(widths)
    }


def group_interleaved(widths: Mapping[str, int], heads: Heads) -> dict[str, Rows]:
    """For every key/value head lay the query heads that share it, then its key, then its value."""
    query, key, value = widths
    w, shared = heads.width, heads.query // heads.key_value
    starts = [g * (shared + 2) * w for g in range(heads.key_value)]
    return {
        query: tuple((s, s + shared * w) for s in starts),
        key: tuple((s + shared * w, s + (shared + 1) * w) for s in starts),
        value: tuple((s + (shared + 1) * w, s + (shared + 2) * w) for s in starts),
    }


LAYOUTS: dict[str, Layout] = {
    "concat": concat,
    "head_interleaved": head_interleaved,
    "group_interleaved": group_interleaved,
}
