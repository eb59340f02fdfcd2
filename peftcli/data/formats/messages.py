"""``messages``: a list of objects with ``role`` and ``content``, as chat templates read them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from peftcli.data.chat_template import Message
from peftcli.data.complaints import did_you_mean, listed
from peftcli.data.formats.chat import ASSISTANT, SYSTEM, USER, Chat

if TYPE_CHECKING:
    from peftcli.data.tables import Row

ROLES = (*SYSTEM, USER, ASSISTANT, "tool")
CALLS = "tool_calls"


@dataclass(frozen=True, kw_only=True)
class Messages(Chat):
    """Messages go to the template as they stand, with what else they hold; it decides whether it knows tools."""

    alternatives: ClassVar[tuple[Mapping[str, str], ...]] = ({"messages": "messages"},)
    required: ClassVar[tuple[str, ...]] = ("messages",)
    texts: ClassVar[tuple[str, ...]] = ()
    asks: ClassVar[tuple[str, ...]] = ("messages",)

    def messages(self, row: Row) -> list[Message]:
        found: list[Message] = row.values[self.columns["messages"]]
        return found

    def asking(self, text: str) -> dict[str, Any]:
        return {self.columns["messages"]: [{"role": USER, "content": text}]}

    def mistake(self, value: Any) -> str | None:  # noqa: ANN401
        if not isinstance(value, list) or not value:
            return "not a list of messages"
        return next((what for n, one in enumerate(value, 1) if (what := _mistake(one, n))), None)


def _mistake(message: Any, number: int) -> str | None:  # noqa: ANN401
    if not isinstance(message, dict):
        return f"message {number} is not an object with role and content"
    role, content = message.get("role"), message.get("content")
    if role not in ROLES:
        guess = did_you_mean(role, ROLES) if isinstance(role, str) else ""
        return f"message {number} has the role {role!r} ({guess}known are {listed(ROLES)})"
    if content is None and message.get(CALLS):
        return None
    if not isinstance(content, str):
        return f"the content of message {number} is not text"
    blank = role == ASSISTANT and not content.strip() and not message.get(CALLS)
    return f"message {number}, the {ASSISTANT}'s, is blank" if blank else None
