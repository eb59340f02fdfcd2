"""The report of a run as Markdown: the page's facts without its pictures."""

from __future__ import annotations

import re

from peftcli.report.outline import Section, headline, outline
from peftcli.report.record import Report
from peftcli.report.tables import markdown_text, plain


def to_markdown(report: Report) -> str:
    """Return report.md; the same report always gives the same text."""
    parts = [f"# {markdown_text(plain(report.name))}", markdown_text(headline(report))]
    for section in outline(report):
        parts += _section(section)
    return "\n\n".join(parts) + "\n"


def _section(section: Section) -> list[str]:
    parts = [f"## {section.title}"]
    if section.note:
        parts.append(markdown_text(section.note))
    parts += [
        table.to_markdown().rstrip("\n")
        for table in (*section.tables, *(table for _, table in section.details))
        if table.rows
    ]
    if section.code:
        parts.append(_fenced(section.code, section.language))
    return parts


def _fenced(code: str, language: str) -> str:
    """Return a code block whose fence is longer than any run of backticks inside."""
    longest = max((len(run) for run in re.findall("`+", code)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}{language}\n{code.rstrip()}\n{fence}"
