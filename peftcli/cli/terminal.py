"""The stream that people read, on a terminal or in a log. Imported only when there is something to say."""

from __future__ import annotations

import sys

from rich.console import Console


class Terminal(Console):
    """Standard error."""

    def __init__(self) -> None:
        super().__init__(file=sys.stderr, highlight=False, markup=False, emoji=False)

    def on_broken_pipe(self) -> None:
        """Fall silent: that nobody reads any more is no reason to stop training (rich would end the program)."""
        self.quiet = True
