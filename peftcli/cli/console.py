"""The only file that prints: data on stdout, everything else on stderr, and only from the first process of a run."""

from __future__ import annotations

import contextlib
import json
import math
import os
import shlex
import sys
from collections.abc import Iterable
from typing import TYPE_CHECKING

from peftcli.cli.environment import rank

if TYPE_CHECKING:
    from peftcli.cli.terminal import Terminal
    from peftcli.errors import PeftcliError
    from peftcli.report.tables import Table

# Control characters in what a file or a model name says must not steer the terminal.
_CONTROLS = {c: f"\\x{c:02x}" for c in (*range(32), *range(127, 160)) if chr(c) not in "\n\t"}

_BRACKETS = ("⟦", "⟧")
_UNDERLINED = ("\x1b[4;32m", "\x1b[0m")


def data(text: str) -> None:
    """Write a result to stdout."""
    if rank() == 0:
        sys.stdout.write(text if text.endswith("\n") else text + "\n")
        sys.stdout.flush()  # a closed pipe shows here, inside the error boundary


def data_json(value: object) -> None:
    """Write a result to stdout as one JSON document."""
    data(json.dumps(_finite(value), indent=2, ensure_ascii=False, allow_nan=False, default=str))


def table(content: Table) -> None:
    """Write a table to stdout, in aligned columns."""
    data(content.to_text().translate(_CONTROLS))


def marked(stretches: Iterable[tuple[str, bool]]) -> str:
    """Return text of which stretches are marked: underlined in colour on a terminal, in brackets elsewhere."""
    plain = not sys.stdout.isatty() or "NO_COLOR" in os.environ
    start, end = _BRACKETS if plain else _UNDERLINED
    shown = ((text.translate(_CONTROLS), is_marked) for text, is_marked in stretches)
    return "".join(f"{start}{text}{end}" if is_marked else text for text, is_marked in shown)


def note(text: str) -> None:
    """Say something beside the result, on stderr."""
    if rank() == 0:
        _say(text)


def next_command(*words: object) -> None:
    """End a command with what a person would type next."""
    note(f"next: {shlex.join(str(word) for word in words)}")


def error(mistake: PeftcliError) -> None:
    """Show every problem; outside the first process, say whose it is."""
    for problem in mistake.problems:
        _say(f"error: {f'rank {rank()}: ' if rank() else ''}{problem}", style="red")


def traceback(text: str) -> None:
    """Show a traceback; only --debug asks for it."""
    _say(text.rstrip())


def stderr() -> Terminal:
    """Return the console on which progress is shown."""
    from peftcli.cli.terminal import Terminal

    return Terminal()


def _finite(value: object) -> object:
    """Return ``value`` with null for infinities and not-a-number, which JSON does not have."""
    if isinstance(value, dict):
        return {key: _finite(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _say(text: str, style: str | None = None) -> None:
    """Write to stderr; what stands before the first colon is coloured with ``style`` on a terminal."""
    from rich.text import Text

    message = Text(text.translate(_CONTROLS))
    if style:
        message.stylize(style, 0, text.index(":") + 1)
    with contextlib.suppress(OSError):  # nobody reads stderr any more: no reason to stop training
        stderr().print(message, soft_wrap=True)
