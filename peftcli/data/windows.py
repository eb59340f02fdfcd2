"""A question and a text -> windows of ids that fit, and where each of their tokens stands in the text."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from peftcli.errors import DataError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_CHUNK = 256

Offsets = list[tuple[int, int]]


@dataclass(frozen=True, slots=True)
class WindowIds:
    """A question and a stretch of the text.

    Attributes:
        ids: ``input_ids`` and, where the tokenizer gives them, ``token_type_ids``.
        first: The place of the first token of the text; all others of the text follow.
        nowhere: The place of the token that stands for the whole: the tokenizer's ``[CLS]``, or else the first.
        offsets: For each token of the text, the characters that it covers: the first, and the one after the last.
    """

    ids: dict[str, list[int]]
    first: int
    nowhere: int
    offsets: Offsets


@dataclass(frozen=True, slots=True)
class Windows:
    """The windows of a question in the order of the text, and whether the question itself was cut."""

    items: list[WindowIds]
    cut: bool


def windows_of(
    tokenizer: PreTrainedTokenizerBase, pairs: Sequence[tuple[str, str]], max_length: int, shared: int
) -> Iterator[Windows]:
    """Yield the windows of every question.

    Args:
        tokenizer: A fast one.
        pairs: Questions and their texts.
        max_length: Most tokens of a window. A question may take half of it, and is cut at the right beyond that.
        shared: How many tokens of the text neighbouring windows have in common; half a window's where that is less.

    Raises:
        DataError: ``max_length`` leaves no room.
    """
    around = tokenizer.num_special_tokens_to_add(pair=True)
    if max_length - around < 2:
        what = f"data.max_length is {max_length}, of which the tokenizer's special tokens take {around}"
        raise DataError(what, hint="Write at least 8.")
    for start in range(0, len(pairs), _CHUNK):
        chunk = pairs[start : start + _CHUNK]
        questions = _shortened(tokenizer, [question.strip() for question, _ in chunk], (max_length - around) // 2)
        found: list[list[WindowIds]] = [[] for _ in chunk]
        # The tokenizer takes one overlap a call, and dies of one that a long question leaves no room for.
        overlaps: dict[int, list[int]] = {}
        for at, (_, length) in enumerate(questions):
            overlaps.setdefault(min(shared, (max_length - around - length) // 2), []).append(at)
        for overlap, members in overlaps.items():
            texts = [questions[at][0] for at in members], [chunk[at][1] for at in members]
            for member, window in _cut(tokenizer, texts, max_length, overlap):
                found[members[member]].append(window)
        for (question, _), (text, _), items in zip(chunk, questions, found, strict=True):
            yield Windows(items, question.strip() != text)


def span_in(offsets: Offsets, begin: int, end: int) -> tuple[int, int] | None:
    """Return the first and the last token that cover the characters from ``begin`` to ``end``; None if not all are in.

    Args:
        offsets: Of the tokens of a window.
        begin: The first character.
        end: The one after the last.
    """
    if not offsets or begin < offsets[0][0] or end > offsets[-1][1]:
        return None
    first = next(place for place, (_, after) in enumerate(offsets) if after > begin)
    last = next(place for place in reversed(range(len(offsets))) if offsets[place][0] < end)
    return (first, last) if first <= last else None


def _shortened(tokenizer: PreTrainedTokenizerBase, questions: list[str], most: int) -> list[tuple[str, int]]:
    """Return every question with at most ``most`` tokens, and how many it has."""
    encoding = tokenizer(questions, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
    found = []
    for question, ids, offsets in zip(questions, encoding["input_ids"], encoding["offset_mapping"], strict=True):
        if len(ids) > most:
            question, ids = question[: offsets[most - 1][1]], ids[:most]
        found.append((question, len(ids)))
    return found


def _cut(
    tokenizer: PreTrainedTokenizerBase, texts: tuple[list[str], list[str]], max_length: int, overlap: int
) -> Iterator[tuple[int, WindowIds]]:
    """Yield the windows of pairs, each with the number of its pair."""
    encoding: Any = tokenizer(
        *texts,
        truncation="only_second",
        max_length=max_length,
        stride=overlap,
        return_overflowing_tokens=True,
        return_offsets_mapping=True,
        return_attention_mask=False,
    )
    for number, member in enumerate(encoding["overflow_to_sample_mapping"]):
        ids = {key: encoding[key][number] for key in ("input_ids", "token_type_ids") if key in encoding}
        places = [place for place, side in enumerate(encoding.sequence_ids(number)) if side == 1]
        first = places[0] if places else len(ids["input_ids"])
        assert places == list(range(first, first + len(places))), "the tokens of a text stand together"
        offsets = [encoding["offset_mapping"][number][place] for place in places]
        marks = ids["input_ids"]
        nowhere = marks.index(tokenizer.cls_token_id) if tokenizer.cls_token_id in marks else 0
        yield member, WindowIds(ids, first, nowhere, offsets)
