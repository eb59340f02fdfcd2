"""The nested JSON in which SQuAD is published: articles of paragraphs of questions -> one row per question."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, TypeGuard

from peftcli.data.complaints import Complaints
from peftcli.data.tables import Row


def is_squad(content: object) -> TypeGuard[dict[str, Any]]:
    """Return whether a JSON file is of this form: an object whose ``data`` is a list of what has ``paragraphs``."""
    articles = content.get("data") if isinstance(content, dict) else None
    return isinstance(articles, list) and any(isinstance(one, dict) and "paragraphs" in one for one in articles)


def squad_rows(content: dict[str, Any], name: str) -> list[Row]:
    """Return one row per question, with the ``context`` of its paragraph and the ``title`` of its article.

    A row's place is its path in the file, such as ``data[0].paragraphs[2].qas[1]``.

    Raises:
        DataError: Something is not where the form has it.
    """
    complaints = Complaints(name)
    rows: list[Row] = []
    for article, place in _objects(content, "data", "", complaints):
        title = {"title": article["title"]} if "title" in article else {}
        for paragraph, inner in _objects(article, "paragraphs", f"{place}.", complaints):
            if not isinstance(paragraph.get("context"), str):
                complaints.add("the paragraph has no text called 'context'", inner)
                continue
            shared = {**title, "context": paragraph["context"]}
            questions = _objects(paragraph, "qas", f"{inner}.", complaints)
            rows += [Row({**shared, **question}, f"{name}:{where}") for question, where in questions]
    complaints.raise_if_any()
    return rows


def _objects(
    parent: dict[str, Any], key: str, place: str, complaints: Complaints
) -> Iterator[tuple[dict[str, Any], str]]:
    """Yield the objects of a list with their places, and note what is none."""
    items = parent.get(key)
    if not isinstance(items, list):
        complaints.add(f"there is no list called {key!r}", place.removesuffix("."))
        return
    for number, item in enumerate(items):
        where = f"{place}{key}[{number}]"
        if isinstance(item, dict):
            yield item, where
        else:
            complaints.add(f"not an object but {str(item)[:30]!r}", where)
