"""Text that a language model knew before it was adapted, in windows that it reads whole."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from peftcli.data.complaints import raise_all
from peftcli.data.examples import IGNORED, Example, Examples, check_ids
from peftcli.data.rows import read_rows
from peftcli.data.sources import find_files
from peftcli.data.tasks.columns import absent, text_problems
from peftcli.data.tasks.prompts import leading_ids
from peftcli.data.text import decode
from peftcli.errors import DataError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_PLAIN = ".txt"
_COLUMN = "text"


@dataclass(frozen=True)
class SourceText:
    """Texts and the files that they are from.

    Attributes:
        texts: Each with the place where it stands.
        files: Path and sha256 of every file, for JSON.
    """

    texts: list[tuple[str, str]]
    files: list[dict[str, Any]]


def read_source(sources: str | Sequence[str]) -> SourceText:
    """Return the texts that ``sources`` names: a ``.txt`` file is one text, of any other kind every row's ``text``.

    Raises:
        DataError: A file cannot be read, or has no texts.
    """
    texts: list[tuple[str, str]] = []
    known: list[dict[str, Any]] = []
    for file in find_files(sources):
        if file.path.suffix.lower() != _PLAIN:
            table = read_rows(str(file.path))
            raise_all(absent(table, {_COLUMN: _COLUMN}) or text_problems(table, _COLUMN))
            texts += [(row.values[_COLUMN], row.where) for row in table.rows]
            known += [{"path": one.path, "sha256": one.sha256} for one in table.files]
            continue
        stored = _bytes(file.path, file.name)
        texts.append((decode(stored, file.name), file.name))
        known.append({"path": file.label, "sha256": hashlib.sha256(stored).hexdigest()})
    return SourceText(texts, known)


def windows(
    source: SourceText, reader: PreTrainedTokenizerBase, length: int, vocabulary: int | None = None
) -> Examples:
    """Return the texts cut into pieces of at most ``length`` tokens, every token but a piece's first with a label.

    Each piece begins with what the tokenizer puts before a text.

    Raises:
        DataError: The tokenizer belongs to another model, or nothing is left to predict.
    """
    start = leading_ids(reader)
    examples: list[Example] = []
    for number, (text, where) in enumerate(source.texts):
        ids = reader(text, add_special_tokens=False, verbose=False)["input_ids"]
        step = length - len(start)
        for place in range(0, len(ids), step):
            piece = [*start, *ids[place : place + step]]
            if len(piece) > 1:
                labels = [IGNORED] * max(1, len(start)) + piece[max(1, len(start)) :]
                examples.append(Example({"input_ids": piece, "labels": labels}, len(piece), number, where))
    if not examples:
        raise DataError("the source text has no token to predict", where=source.files[0]["path"])
    check_ids(examples, vocabulary)
    tokens = sum(example.length for example in examples)
    return Examples(examples, {"rows": len(examples), "tokens": tokens, "longest": max(e.length for e in examples)})


def _bytes(path: Path, name: str) -> bytes:
    try:
        stored: bytes = path.read_bytes()
    except OSError as error:
        raise DataError(f"the file cannot be read: {error.strerror}", where=name) from None
    if not stored.strip():
        raise DataError("the file is empty", where=name)
    return stored
