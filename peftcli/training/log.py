"""The log of a run: one line of JSON for each step and each evaluation, and nothing that two equal runs differ in."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

from peftcli import files
from peftcli.errors import ArtifactError


class Log:
    """What happened so far, in memory and, where this process writes, in a file.

    Attributes:
        lines: What was logged; a number that is not finite is null.
    """

    def __init__(self, path: Path, *, writes: bool) -> None:
        self.path = path
        self.lines: list[dict[str, Any]] = []
        self._writes = writes

    def begin(self, content: bytes = b"") -> None:
        """Let the log be ``content``, whatever the file held: a resumed run takes up the log of its checkpoint.

        Raises:
            ArtifactError: It is not a log.
        """
        try:
            self.lines = [json.loads(line) for line in content.splitlines()]
        except ValueError:
            raise ArtifactError("not a log: its lines are not JSON", where=str(self.path)) from None
        if self._writes:
            files.write_bytes(self.path, content)

    def append(self, line: dict[str, Any]) -> None:
        """Log one line."""
        self.lines.append(line)
        if self._writes:
            files.append_line(self.path, _text(line))

    def content(self) -> bytes:
        """Return the whole log as it stands in the file."""
        return "".join(f"{_text(line)}\n" for line in self.lines).encode()

    def series(self, key: str) -> list[tuple[int, float]]:
        """Return a number of every step that has it, with the step."""
        return [(line["step"], line[key]) for line in self.lines if line.get(key) is not None]

    def evaluations(self) -> list[tuple[int, dict[str, float]]]:
        """Return the metrics of every evaluation, with its step."""
        return [(line["step"], from_json(line["evaluation"])) for line in self.lines if "evaluation" in line]


def to_json(metrics: dict[str, float]) -> dict[str, float | None]:
    """Return ``metrics`` for JSON, which knows neither NaN nor infinity."""
    return {name: finite(value) for name, value in metrics.items()}


def from_json(metrics: dict[str, float | None]) -> dict[str, float]:
    """Return the metrics that ``to_json`` wrote; what was not finite is NaN."""
    return {name: math.nan if value is None else value for name, value in metrics.items()}


def finite(value: float) -> float | None:
    """Return ``value``, or None where it is not finite."""
    return value if math.isfinite(value) else None


def _text(line: dict[str, Any]) -> str:
    return json.dumps(line, ensure_ascii=False, allow_nan=False)
