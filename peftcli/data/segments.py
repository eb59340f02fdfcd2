"""Segments of text -> ids and labels: what is learned decodes to exactly the text that is to be learned."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

from peftcli.data.examples import IGNORED

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from peftcli.data.formats import Format, Rendering, Segment

_BEFORE = ("\n", "a", ".")  # what a continuation is written after, so that no token reaches back over its start


@dataclass(frozen=True, slots=True)
class Fitted:
    """A row that fits.

    Attributes:
        ids: Of its tokens.
        labels: Of the same; those that nothing is learned of are IGNORED.
        prompt: How many tokens stand before the last answer.
        cut: Whether something was cut off.
    """

    ids: list[int]
    labels: list[int]
    prompt: int
    cut: bool


@dataclass(frozen=True, slots=True)
class Frame:
    """What a tokenizer puts around a text, the room inside, and whether prompts are learned as well."""

    start: list[int]
    lone_start: list[int]
    end: list[int]
    max_length: int
    everything: bool = False

    @classmethod
    def of(cls, tokenizer: PreTrainedTokenizerBase, max_length: int, form: Format) -> Self:
        """Return the frame: the start that the tokenizer itself adds, and one for rows without a prompt.

        A chat template writes the start itself.
        """
        everything = form.train_on == "all"
        end = [] if tokenizer.eos_token_id is None else [tokenizer.eos_token_id]
        if form.templated:
            return cls([], [], end, max_length, everything)
        plain: list[int] = tokenizer("a", add_special_tokens=False)["input_ids"]
        full: list[int] = tokenizer("a")["input_ids"]
        at = next((i for i in range(len(full)) if full[i : i + len(plain)] == plain), 0)
        # Without anything before it the first token could not be predicted: a text starts where another ended.
        lone = [] if tokenizer.bos_token_id is None else [tokenizer.bos_token_id]
        return cls(full[:at], full[:at] or lone or end, end, max_length, everything)

    def fit(self, rendering: Rendering, tokens: Sequence[list[int]]) -> Fitted | None:
        """Return ids and labels, cut where a segment may lose an end; None where they do not fit.

        Args:
            rendering: The row.
            tokens: Of each of its segments.
        """
        segments = rendering.segments
        if not any(ids for s, ids in zip(segments, tokens, strict=True) if s.answer):
            return None
        start = self.start if sum(map(bool, tokens)) > 1 else self.lone_start
        end = [] if rendering.closed else self.end
        excess = len(start) + sum(map(len, tokens)) + len(end) - self.max_length
        shortened = excess > 0
        if shortened and segments[-1].loses == "end":
            excess, end = excess - len(end), []  # a text that was cut is not over
        if excess > 0:
            cut = _cut(segments, tokens, excess, keep=not start)
            if cut is None:
                return None
            tokens = cut
        ids, labels = list(start), [IGNORED] * len(start)
        prompt = 0
        for segment, found in zip(segments, tokens, strict=True):
            prompt = len(ids) if segment.answer else prompt
            ids += found
            labels += found if segment.answer or self.everything else [IGNORED] * len(found)
        ids, labels = ids + end, labels + end
        labels[0] = IGNORED  # nothing stands before it that it could be predicted from
        return None if labels.count(IGNORED) == len(labels) else Fitted(ids, labels, max(1, prompt), shortened)


def _cut(
    segments: Sequence[Segment], tokens: Sequence[list[int]], excess: int, *, keep: bool
) -> list[list[int]] | None:
    """Return the tokens without ``excess`` of them; ``keep``: one token has to stay before what is learned."""
    index = next((i for i, s in enumerate(segments) if s.loses), None)
    if index is None:
        return None
    found, at_end = tokens[index], segments[index].loses == "end"
    if excess > len(found) or (keep and excess == len(found)):
        return None
    kept = found[: len(found) - excess] if at_end else found[excess:]
    return [*tokens[:index], kept, *tokens[index + 1 :]]


def apart(tokenizer: PreTrainedTokenizerBase, renderings: Sequence[Rendering]) -> list[list[list[int]]]:
    """Return the tokens of every segment, each made into tokens alone, as generation is given its prompt."""
    found = iter(_tokens(tokenizer, [s.text for r in renderings for s in r.segments]))
    return [[next(found) for _ in r.segments] for r in renderings]


def joined(tokenizer: PreTrainedTokenizerBase, renderings: Sequence[Rendering]) -> list[list[list[int]]]:
    """Return the tokens of every segment as they are in the whole text.

    The tokens of all that precedes a segment are those that this text has alone: what generation would be given.
    Where a token of the whole would reach over the boundary of two segments, it is parted there.
    """
    beginnings = [_beginnings([s.text for s in r.segments]) for r in renderings]
    found = iter(_tokens(tokenizer, [text for texts in beginnings for text in texts]))
    result = []
    for rendering, texts in zip(renderings, beginnings, strict=True):
        grown = [next(found) for _ in texts]
        known = [[], *grown[:-1]]
        if all(more[: len(ids)] == ids for ids, more in zip(known, grown, strict=True)):
            result.append([more[len(ids) :] for ids, more in zip(known, grown, strict=True)])
        else:
            result.append(_one_by_one(tokenizer, [s.text for s in rendering.segments]))
    return result


def _beginnings(texts: Sequence[str]) -> list[str]:
    return ["".join(texts[: n + 1]) for n in range(len(texts))]


def _one_by_one(tokenizer: PreTrainedTokenizerBase, texts: Sequence[str]) -> list[list[int]]:
    """Return the tokens of segments, begun anew wherever a token would reach over a boundary."""
    result: list[list[int]] = []
    origin, fresh = "", True
    known: list[int] = []
    for text in texts:
        grown = _tokens(tokenizer, [origin + text])[0] if fresh else _continued(tokenizer, origin + text)
        if grown[: len(known)] != known:
            origin, known, fresh = "", [], False
            grown = _continued(tokenizer, text)
        result.append(grown[len(known) :])
        origin, known = origin + text, grown
    return result


def _continued(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    """Return the tokens of a text that others precede: without the space that some tokenizers put before a text."""
    for before in _BEFORE:
        alone, whole = _tokens(tokenizer, [before, before + text])
        if whole[: len(alone)] == alone:
            return whole[len(alone) :]
    return _tokens(tokenizer, [text])[0]


def _tokens(tokenizer: PreTrainedTokenizerBase, texts: list[str]) -> list[list[int]]:
    # verbose=False: a text longer than the model is cut later, and needs no warning.
    encoding = tokenizer(texts, add_special_tokens=False, return_attention_mask=False, truncation=False, verbose=False)
    ids: list[list[int]] = encoding["input_ids"]
    return ids
