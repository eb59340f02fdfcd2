"""``conversations``: a list of objects with ``from`` and ``value``, as ShareGPT wrote them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from peftcli.data.chat_template import Message
from peftcli.data.complaints import did_you_mean, listed
from peftcli.data.formats.chat import ASSISTANT, USER, Chat

if TYPE_CHECKING:
    from peftcli.data.tables import Row

ROLES = {
    "human": USER,
    "user": USER,
    "gpt": ASSISTANT,
    "assistant": ASSISTANT,
    "chatgpt": ASSISTANT,
    "model": ASSISTANT,
    "system": "system",
    "tool": "tool",
}
"""Who speaks -> what a chat template calls them."""


@dataclass(frozen=True, kw_only=True)
class ShareGpt(Chat):
    """Turns by who said them."""

    alternatives: ClassVar[tuple[Mapping[str, str], ...]] = ({"conversations": "conversations"},)
    required: ClassVar[tuple[str, ...]] = ("conversations",)
    texts: ClassVar[tuple[str, ...]] = ()
    asks: ClassVar[tuple[str, ...]] = ("conversations",)

    def messages(self, row: Row) -> list[Message]:
        turns = row.values[self.columns["conversations"]]
        return [{"role": ROLES[turn["from"]], "content": turn["value"]} for turn in turns]

    def asking(self, text: str) -> dict[str, Any]:
        return {self.columns["conversations"]: [{"from": "human", "value": text}]}

    def mistake(self, value: Any) -> str | None:  # noqa: ANN401
        if not isinstance(value, list) or not value:
            return "not a list of turns"
        return next((what for n, one in enumerate(value, 1) if (what := _mistake(one, n))), None)


def _mistake(turn: Any, number: int) -> str | None:  # noqa: ANN401
    if not isinstance(turn, dict):
        return f"turn {number} is not an object with from and value"
    speaker, value = turn.get("from"), turn.get("value")
    if not isinstance(speaker, str) or speaker not in ROLES:
        guess = did_you_mean(speaker, ROLES) if isinstance(speaker, str) else ""
        return f"turn {number} is from {speaker!r} ({guess}known are {listed(ROLES)})"
    if not isinstance(value, str):
        return f"the value of turn {number} is not text"
    blank = ROLES[speaker] == ASSISTANT and not value.strip()
    return f"turn {number}, the {ASSISTANT}'s, is blank" if blank else None
