"""Prints, as Markdown, every parameter count that a paper of the field prints beside what our closed form gives.

    python scripts/published_counts.py

The rows are those that tests/methods/test_published_counts.py holds us to.
"""

from __future__ import annotations

import sys
from pathlib import Path

TESTS = Path(__file__).parents[1] / "tests"


def main() -> int:
    """Print the rows as Markdown."""
    sys.path.insert(0, str(TESTS))
    from methods.published_counts import ROWS

    print("| printed | where | base | method | computed | verdict | why |")
    print("|---:|---|---|---|---:|---|---|")
    for row in ROWS:
        printed = f"{row.printed} {row.unit}".strip()
        print(f"| {printed} | {row.where} | {row.base} | {row.settings()} | {row.count():,} | {row.judged()} |", end="")
        print(f" {row.reason} |")
    return 0


if __name__ == "__main__":
    sys.exit(main())
