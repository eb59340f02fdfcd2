"""Reading and writing the report of a run."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

from peftcli import files
from peftcli.report.markdown import to_markdown
from peftcli.report.page import to_html
from peftcli.report.record import NAME, Report, parse, read_report

__all__ = ["Report", "read_report", "write_report"]


def write_report(folder: Path, report: dict[str, Any]) -> None:
    """Write ``report`` into ``folder`` as report.json, and its views report.md and report.html.

    The views are made from what report.json will hold, so that the same file always gives the same views; it is
    written last: where it stands, the views do too. A number that is not finite, which JSON does not know, is null.
    """
    document = _finite(report)
    parsed = parse(json.dumps(document), str(folder / NAME))
    page, markdown = to_html(parsed), to_markdown(parsed)
    files.write_text(folder / "report.html", page)
    files.write_text(folder / "report.md", markdown)
    files.write_json(folder / NAME, document)


def _finite(value: Any) -> Any:  # noqa: ANN401  # any JSON
    if isinstance(value, dict):
        return {str(k): _finite(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(v) for v in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
