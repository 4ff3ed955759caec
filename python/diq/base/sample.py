"""Shared records: what a sample is, its canonical text, and small value types that several layers pass around."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from diq.base.fingerprint import canonical_json

Message = dict[str, Any]
"""``{"role": "system" | "user" | "assistant" | "tool", "content": str}``.

An assistant may carry ``reasoning_content``, ``tool_calls`` (OpenAI's shape, arguments as an object) and ``train``:
False, which says that the turn is not to be learnt; a tool its ``name`` and ``tool_call_id``; the first message the
``tools`` that there are.
"""


@dataclass(frozen=True, slots=True)
class Sample:
    """One supervised sample: messages that end with the assistant's answer.

    Attributes:
        messages: the conversation; the last message is the answer, with its reasoning (if any) in
            ``reasoning_content``.
        rejected: for a preference pair, the refused answer as a message list; else None.
        attributes: the row's other short columns (strings of at most 256 characters, numbers, booleans).
    """

    messages: list[Message]
    rejected: list[Message] | None = None
    attributes: dict[str, Any] = field(default_factory=dict)

    def canonical(self) -> str:
        """The text whose hash is the sample's id: JSON, UTF-8, sorted keys, no spaces.

        For the hash alone: what a model reads keeps the order of the keys of tools and of their calls.

        A list of messages, or ``{"messages": ..., "rejected": ...}`` for a preference pair, so that two pairs that
        share the chosen answer stay two samples.
        """
        if self.rejected is None:
            return canonical_json(self.messages)
        return canonical_json({"messages": self.messages, "rejected": self.rejected})


def split_prompt(messages: Sequence[Message]) -> tuple[list[Message], Message]:
    """Messages before the answer, and the answer (the last message).

    Raises:
        ValueError: the last message is not the assistant's.
    """
    if not messages or messages[-1]["role"] != "assistant":
        raise ValueError("the last message is not the assistant's")
    return list(messages[:-1]), messages[-1]


def prompt_text(messages: Sequence[Message]) -> str:
    """The question as plain text: every message before the answer, a blank line between two."""
    return "\n\n".join(message["content"] for message in messages[:-1])


def inline_reasoning(message: Message) -> Message:
    """The message with its reasoning written into the content, as ``<think>...</think>`` before the answer."""
    reasoning = message.get("reasoning_content", "")
    content = f"<think>\n{reasoning}\n</think>\n\n{message['content']}" if reasoning else message["content"]
    return {key: value for key, value in message.items() if key != "reasoning_content"} | {"content": content}
