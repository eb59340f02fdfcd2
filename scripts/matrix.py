"""Prints, as Markdown, which method attaches to which family, and why where it does not.

    python scripts/matrix.py

The cells are those of the contract, tests/test_every_method.py, so a new method or family is in here by being there.
Exit code 1: some cell fails with anything else than a refusal.
"""

from __future__ import annotations

import re
import sys
from collections import Counter, defaultdict
from collections.abc import Iterable
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]
ATTACHED, REFUSED, FAILED = "yes", "-", "FAILED"
Cell = tuple[str, str]


def judged(cells: Iterable[Cell]) -> tuple[dict[Cell, str], dict[str, list[Cell]]]:
    """Return what became of every cell, and the cells of every distinct reason why not."""
    from test_every_method import refusal

    marks: dict[Cell, str] = {}
    reasons: dict[str, list[Cell]] = defaultdict(list)
    for cell in cells:
        try:
            reason, mark = refusal(*cell), REFUSED
        except Exception as error:  # noqa: BLE001  # whatever it is, the table shows it
            reason, mark = f"{type(error).__name__}: {error}", FAILED
        marks[cell] = mark if reason else ATTACHED
        if reason:
            reasons[general(reason, cell[1])].append(cell)
    return marks, reasons


def general(reason: str, family: str) -> str:
    """Return a reason on one line, without the name of the family."""
    from tiny import FAMILIES

    what, _, hint = reason.partition("\n  hint: ")
    what = re.sub(rf"\b{FAMILIES[family]['model_type']}\b", "FAMILY", what)
    return f"{what} ({hint})" if hint else what


def show_marks(marks: dict[Cell, str]) -> None:
    """Print the table."""
    families = list(dict.fromkeys(f for _, f in marks))
    print(f"| method | {' | '.join(families)} |")
    print("|---" * (len(families) + 1) + "|")
    for name in dict.fromkeys(m for m, _ in marks):
        print(f"| `{name}` | {' | '.join(marks[name, f] for f in families)} |")


def show_reasons(reasons: dict[str, list[Cell]]) -> None:
    """Print every reason, the most frequent first, and where it is given."""
    print("| cells | reason | methods | families |")
    print("|---:|---|---|---|")
    for reason, cells in sorted(reasons.items(), key=lambda item: -len(item[1])):
        methods, families = ({c[i]: None for c in cells} for i in (0, 1))
        print(f"| {len(cells)} | {reason} | {', '.join(methods)} | {', '.join(families)} |")


def main() -> int:
    """Attach every method to every family, and print."""
    from test_every_method import CELLS
    from transformers.utils import logging

    logging.set_verbosity_error()
    marks, reasons = judged(CELLS)
    counts = Counter(marks.values())
    print(f"{len(marks)} cells: {counts[ATTACHED]} attached, {counts[REFUSED]} refused, {counts[FAILED]} failed\n")
    show_marks(marks)
    print()
    show_reasons(reasons)
    return 1 if counts[FAILED] else 0


if __name__ == "__main__":
    sys.exit(main())
