"""Examples as people read them: what the network is given, with what is learned of it told apart."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import TYPE_CHECKING, Any

from peftcli.data.examples import IGNORED

if TYPE_CHECKING:
    from peftcli.data.examples import Example, Label


@dataclass(frozen=True, slots=True)
class Stretch:
    """Neighbouring tokens that are all learned, or all not: their text, special tokens and all."""

    text: str
    supervised: bool


@dataclass(frozen=True, slots=True)
class Shown:
    """An example: its tokens in stretches, and the label of a row that has one."""

    stretches: tuple[Stretch, ...]
    label: str | None


def stretches(example: Example, tokenizer: Any) -> tuple[Stretch, ...]:  # noqa: ANN401
    """Return the tokens of ``example`` as text; a target of its own follows what is read."""
    ids = example.ids.get("input_ids", [])
    marks = example.ids.get("labels") or example.ids.get("tags") or [IGNORED] * len(ids)
    found = _spelled(tokenizer, ids, [mark != IGNORED for mark in marks])
    target = example.target or []
    return (*found, *_spelled(tokenizer, target, [True] * len(target)))


def label_text(label: Label | None, names: Mapping[int, str]) -> str | None:
    """Return a row's label, or labels, by name."""
    if label is None:
        return None
    if isinstance(label, tuple):
        return ", ".join(names.get(one, str(one)) for one in label)
    return names.get(label, str(label)) if isinstance(label, int) else f"{label:g}"


def _spelled(tokenizer: Any, ids: Sequence[int], learned: Sequence[bool]) -> list[Stretch]:  # noqa: ANN401
    """Return what each stretch adds to the text before it: alone, some tokenizers would drop a space of it."""
    found: list[Stretch] = []
    end, before = 0, ""
    for supervised, group in groupby(learned):
        start, end = end, end + len(list(group))
        whole = _text(tokenizer, ids[:end])
        added = whole[len(before) :] if whole.startswith(before) else _text(tokenizer, ids[start:end])
        found.append(Stretch(added, supervised))
        before = whole
    return found


def _text(tokenizer: Any, ids: Sequence[int]) -> str:  # noqa: ANN401
    text: str = tokenizer.decode(list(ids), skip_special_tokens=False, clean_up_tokenization_spaces=False)
    return text
