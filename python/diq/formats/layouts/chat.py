"""Conversations: OpenAI messages, ShareGPT, UltraMedical."""

from __future__ import annotations

from typing import Any

from diq.base.sample import Message
from diq.base.text import short
from diq.formats.layouts.layout import Values, layout, structured, text

ROLES = {
    "system": "system",
    "developer": "system",
    "user": "user",
    "human": "user",
    "assistant": "assistant",
    "gpt": "assistant",
    "bot": "assistant",
    "model": "assistant",
    "chatgpt": "assistant",
}
_REASONING = ("reasoning_content", "reasoning", "thinking")


def messages(value: Any) -> list[Message]:
    """A list of turns, in OpenAI's keys (role, content) or ShareGPT's (from, value).

    Raises:
        ValueError: it is no such list, a role is unknown, or a part is no text.
    """
    turns = structured(value)
    if not isinstance(turns, (list, tuple)):
        raise ValueError(f"the messages are no list but {type(turns).__name__}")
    if not turns:
        raise ValueError("no messages")
    return [message(one, number) for number, one in enumerate(turns, start=1)]


def dialogue(value: Any) -> list[Any] | None:
    """The value if it is a list of turns (or the text of one), else None: a prompt may well begin with a bracket."""
    if isinstance(value, str):
        value = structured(value)
        named = isinstance(value, list) and all(isinstance(one, dict) and {"role", "from"} & set(one) for one in value)
        return value if named and value else None
    return list(value) if isinstance(value, (list, tuple)) else None


def message(value: Any, number: int) -> Message:
    """One turn."""
    if not isinstance(value, dict):
        raise ValueError(f"message {number} is no object")
    name = value.get("role") or value.get("from")
    if name is None:
        raise ValueError(f"message {number} has no role")
    role = ROLES.get(name.strip().lower()) if isinstance(name, str) else None
    if role is None:
        raise ValueError(f"unknown role `{short(name)}` in message {number}")
    content = value.get("content")
    made = {"role": role, "content": _content(value.get("value") if content is None else content, number)}
    if role == "assistant":
        reasoning = next((one for one in map(value.get, _REASONING) if isinstance(one, str) and one.strip()), "")
        if reasoning:
            made["reasoning_content"] = reasoning
    return made


def _content(value: Any, number: int) -> str:
    if value is None:
        return ""
    if isinstance(value, str):
        return value
    if not isinstance(value, (list, tuple)):
        raise ValueError(f"the content of message {number} is no text")
    parts = []
    for part in value:
        kind = part.get("type", "text") if isinstance(part, dict) else "text"
        content = part.get("text") if isinstance(part, dict) else part
        if kind != "text" or not isinstance(content, str):
            raise ValueError(f"message {number} has a part of type {short(kind)}; only text can be used")
        parts.append(content)
    return "\n".join(parts)


def with_system(row: Values, turns: list[Message]) -> list[Message]:
    """A system prompt that stands beside the conversation goes before it."""
    system = text(row, "system") if isinstance(row.get("system"), str) else ""
    if system and turns[0]["role"] != "system":
        return [{"role": "system", "content": system}, *turns]
    return turns


def _openai(row: Values) -> list[Message]:
    return with_system(row, messages(row["messages"]))


def _sharegpt(row: Values) -> list[Message]:
    return with_system(row, messages(row["conversations" if "conversations" in row else "conversation"]))


LAYOUTS = (
    layout("messages", "messages", _openai, text="system"),
    layout("ultramedical", "conversations type answer score", _sharegpt),
    layout("sharegpt", "conversations|conversation", _sharegpt, text="system"),
)
