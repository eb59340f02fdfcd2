"""Rows of words -> ids, and where each word begins."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from peftcli.errors import DataError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_CHUNK = 1024


@dataclass(frozen=True, slots=True)
class WordIds:
    """A row of words as ids.

    Attributes:
        ids: ``input_ids`` and, where the tokenizer gives them, ``token_type_ids``.
        starts: The place of the first sub-token of every word, as far as the row was not cut.
    """

    ids: dict[str, list[int]]
    starts: list[int]


def word_ids(
    tokenizer: PreTrainedTokenizerBase, rows: Sequence[Sequence[str]], places: Sequence[str], max_length: int
) -> Iterator[WordIds]:
    """Yield the ids of every row of words, cut at the right.

    Every word that is not cut has a first sub-token: where the tokenizer makes nothing of a word, such as a mark
    without width, its token for what is unknown stands there.

    Args:
        tokenizer: A fast one.
        rows: The words, none of them empty.
        places: The ``file:line`` of each row.
        max_length: Most tokens, special ones included.

    Raises:
        DataError: The tokenizer makes nothing of a word, and has no token for what is unknown.
    """
    space = " " if _wants_spaces(tokenizer) else ""
    for start in range(0, len(rows), _CHUNK):
        # A word begins as it would in running text: behind a space, where the tokenizer sees one.
        chunk = [[word if at == 0 else space + word for at, word in enumerate(row)] for row in rows[start:][:_CHUNK]]
        encoding = _encoded(tokenizer, chunk, max_length)
        for at, row in enumerate(chunk):
            found = _found(encoding, at, len(row))
            if found is None:
                again = _encoded(tokenizer, [_readable(tokenizer, row, encoding, at, places[start + at])], max_length)
                found = _found(again, 0, len(row))
            assert found is not None, f"{places[start + at]} has a word without a token"
            yield found


def _encoded(tokenizer: PreTrainedTokenizerBase, rows: list[list[str]], max_length: int) -> Any:  # noqa: ANN401
    return tokenizer(
        rows, is_split_into_words=True, truncation=True, max_length=max_length, return_attention_mask=False
    )


def _words_of(encoding: Any, at: int) -> set[int | None]:  # noqa: ANN401  # transformers is not imported for a type
    """Return the words that have a token, those that were cut among them."""
    whole = encoding.encodings[at]
    return {word for piece in (whole, *whole.overflowing) for word in piece.word_ids}


def _found(encoding: Any, at: int, words: int) -> WordIds | None:  # noqa: ANN401
    """Return row ``at`` of an encoding; None where a word has no token."""
    if not _words_of(encoding, at).issuperset(range(words)):
        return None
    starts: dict[int, int] = {}
    for place, word in enumerate(encoding.encodings[at].word_ids):
        if word is not None:
            starts.setdefault(word, place)
    ids = {key: encoding[key][at] for key in ("input_ids", "token_type_ids") if key in encoding}
    return WordIds(ids, [starts[word] for word in sorted(starts)])


def _readable(tokenizer: PreTrainedTokenizerBase, row: list[str], encoding: Any, at: int, where: str) -> list[str]:  # noqa: ANN401
    """Return the words of a row with the token for what is unknown in place of those that have none."""
    seen = _words_of(encoding, at)
    if tokenizer.unk_token is None:
        lost = next(word for number, word in enumerate(row) if number not in seen)
        raise DataError(f"the tokenizer makes no token of the word {lost!r}", where=where)
    return [word if number in seen else str(tokenizer.unk_token) for number, word in enumerate(row)]


def _wants_spaces(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Return whether a word of running text has the space before it in its own tokens, but a word alone has none."""

    def tokens(text: str | list[str]) -> list[int]:
        split = isinstance(text, list)
        found: list[int] = tokenizer(text, is_split_into_words=split, add_special_tokens=False)["input_ids"]
        return found

    running = tokens("a a")
    return tokens(["a", "a"]) != running == tokens(["a", " a"])
