"""What is reported of a run's data, and the one line of it that people are told."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from peftcli.data.datasets import Splits
    from peftcli.data.examples import Examples

_LISTED = 6  # labels that are told one by one


def data_facts(splits: Splits, examples: Mapping[str, Examples]) -> dict[str, Any]:
    """Return what a report says of the data, for JSON."""
    return {
        **splits.summary,
        "encoded": {split: found.counts for split, found in examples.items()},
        "lengths": {split: found.lengths() for split, found in examples.items() if len(found)},
    }


def data_line(facts: Mapping[str, Any], told: str) -> str:
    """Return the facts in one line: rows, lengths, the balance of the labels, and what is odd.

    Args:
        facts: What :func:`data_facts` returned.
        told: What the task says of the examples.
    """
    rows = ", ".join(_rows(facts, split) for split in facts["encoded"])
    counts = facts["encoded"].values()
    odd = {
        "truncated": sum(found.get("truncated", 0) for found in counts),
        "dropped": sum(found.get("dropped", 0) for found in counts),
        "duplicates in train": facts["duplicates"]["train"],
        "also in train": sum(facts["overlap"].values()),
    }
    tail = "".join(f", {name} {number:,}" for name, number in odd.items() if number)
    return f"{rows}; {told}{_balance(facts['labels'].get('train') or {})}{tail}"


def _rows(facts: Mapping[str, Any], split: str) -> str:
    count = facts["encoded"][split]["rows"]
    if split in facts.get("streamed", ()):
        return f"{split} streamed (described by its first {count:,})"
    return f"{split} {count:,}"


def _balance(labels: Mapping[str, int]) -> str:
    if not labels:
        return ""
    whole = sum(labels.values())
    if len(labels) > _LISTED:
        return f"; {len(labels)} labels of {min(labels.values()):,} to {max(labels.values()):,} rows"
    return "; " + ", ".join(f"{label} {100 * count / whole:.3g} %" for label, count in labels.items())
