"""A conversation, before the base model's template makes one text of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ramole.core.bounds import check_count
from ramole.core.errors import InvalidInput

ROLES = ("system", "developer", "user", "assistant")


@dataclass(frozen=True, slots=True)
class Message:
    """One turn: who speaks, one of `ROLES`, and what."""

    role: str
    content: str


def check_messages(messages: Sequence[Message]) -> str:
    """The last message of the user: what a conversation asks for.

    Raises:
        InvalidInput: too many messages, an unknown role, a blank message, or none of the user.
    """
    check_count("messages", len(messages))
    for index, message in enumerate(messages):
        if message.role not in ROLES:
            raise InvalidInput(
                f"unknown role {message.role[:80]!r}",
                field=f"messages[{index}].role",
                remedy=f"use one of {', '.join(ROLES)}",
            )
        if not message.content.strip():
            raise InvalidInput("the message is empty", field=f"messages[{index}].content", remedy="send some text")
    asked = next((message.content for message in reversed(messages) if message.role == "user"), None)
    if asked is None:
        raise InvalidInput("no message of the user", field="messages", remedy="end with one")
    return asked
