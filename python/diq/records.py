"""Shared records: what a sample is, its canonical text, and small value types that several layers pass around."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import Any, Protocol

from diq.errors import UsageError

Message = dict[str, str]
"""``{"role": "system" | "user" | "assistant", "content": str}``; an assistant may carry ``reasoning_content``."""


Progress = Callable[[str, int, int], None]
"""Called with what is being done, how much of it is done, and how much there is (0: unknown)."""


class NotedProgress(Protocol):
    """A progress that also takes a note to show beside, such as tokens and their cost."""

    def __call__(self, what: str, done: int, total: int, note: str = "", /) -> None:
        """Show how far it is."""


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

        A list of messages, or ``{"messages": ..., "rejected": ...}`` for a preference pair, so that two pairs that
        share the chosen answer stay two samples.
        """
        if self.rejected is None:
            return canonical_json(self.messages)
        return canonical_json({"messages": self.messages, "rejected": self.rejected})


def flush(path: Path) -> None:
    """Wait until a file, or the names in a folder, are on the disk: what is renamed survives a crash only then."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def canonical_json(value: Any) -> str:
    """JSON with sorted keys, no spaces and no escapes beyond what JSON needs; equal values give equal text."""
    return json.dumps(value, ensure_ascii=False, sort_keys=True, separators=(",", ":"), allow_nan=False)


def run_fingerprint(kind: str, method: str, model_id: str | None, settings: Mapping[str, Any]) -> str:
    """Identity of a run: the same configuration gives the same 32 hexadecimal digits."""
    text = canonical_json({"kind": kind, "method": method, "model_id": model_id, "settings": settings})
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


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
    return {"role": message["role"], "content": content}


@dataclass(frozen=True, slots=True)
class Ratio:
    """A ratio as the decimal that was typed: ``floor(100 * 0.57)`` is 57, not the 56 of binary floating point."""

    text: str
    numerator: int
    denominator: int

    @classmethod
    def parse(cls, value: str | float | Decimal) -> Ratio:
        """Read ``0.1``, ``1e-3``, ``10%`` or a number.

        Raises:
            UsageError: not a number, or not in (0, 1].
        """
        text = str(value).strip()
        hint = "give a number in (0, 1], such as 0.1, or a percentage, such as 10%"
        try:
            number = Decimal(text[:-1]) / 100 if text.endswith("%") else Decimal(text)
        except InvalidOperation:
            raise UsageError(f"the ratio `{text}` is not a number", hint) from None
        if not number.is_finite() or not 0 < number <= 1:
            raise UsageError(f"the ratio {text} is outside (0, 1]", hint)
        numerator, denominator = number.as_integer_ratio()
        return cls(format(number.normalize(), "f"), numerator, denominator)

    def of(self, n: int) -> int:
        """floor(n * ratio), exactly."""
        return n * self.numerator // self.denominator


def short(value: Any, *, width: int = 60) -> str:
    """A value on one line of at most ``width`` characters, for messages."""
    text = " ".join(str(value).split())
    return text if len(text) <= width else text[: width - 1] + "…"


def first_line(error: BaseException) -> str:
    """The first line of an error's text, or its type where it has none."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def check_choice(option: str, value: str | None, known: Sequence[str]) -> None:
    """Refuse a value that an option does not know; None is no value.

    Raises:
        UsageError: the value is unknown (the hint names the nearest known one).
    """
    if value is not None and value not in known:
        raise UsageError(f"{option} `{value}` is not known", did_you_mean(value, known))


def did_you_mean(name: str, known: Sequence[str] | Mapping[str, Any]) -> str:
    """``did you mean `x`?`` or the list of known names; empty when nothing is known."""
    # imported here: difflib costs start-up time and only errors need it
    import difflib

    names = sorted(known)
    close = difflib.get_close_matches(name, names, n=1)
    if close:
        return f"did you mean `{close[0]}`?"
    return f"known: {', '.join(f'`{one}`' for one in names)}" if names else ""
