"""What a layout is, and the pieces that layouts are made of."""

from __future__ import annotations

import ast
import json
import math
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from diq.base.sample import Message, Sample
from diq.formats.layouts.media import media_column, media_place

Values = Mapping[str, Any]
Conversion = Callable[[Values], "list[Message] | tuple[list[Message], list[Message]]"]

ATTRIBUTE_LENGTH = 256  # characters; longer strings are text, not attributes


@dataclass(frozen=True, slots=True)
class Layout:
    """A way in which a row holds a sample.

    Attributes:
        name: for ``--format`` and the store.
        columns: what a row must have; of each tuple one.
        convert: row to messages, or to (messages, refused answer); a ``ValueError`` is the reason of a reject.
        text: columns whose text is in the messages, so that they are no attributes.
        holds: a further condition on the first rows of the source, for layouts that differ only in their values.
    """

    name: str
    columns: tuple[tuple[str, ...], ...]
    convert: Conversion
    text: frozenset[str] = frozenset()
    holds: Callable[[Sequence[Values]], bool] | None = None

    def missing(self, row: Values) -> str:
        """The first column that the row lacks; empty when it has all."""
        for wanted in self.columns:
            if not any(name in row for name in wanted):
                return " or ".join(f"`{name}`" for name in wanted)
        return ""

    def sample(self, row: Values) -> Sample:
        """The row as a sample.

        Raises:
            ValueError: the row is none; the text says why.
        """
        missing = self.missing(row)
        if missing:
            raise ValueError(f"no column {missing} (layout {self.name})")
        if (column := media_column(row)) is not None:
            raise ValueError(f"the row has an image, video or sound (column {column}); only text can be used")
        converted = self.convert(row)
        messages, rejected = converted if isinstance(converted, tuple) else (converted, None)
        check(messages)
        if (place := media_place(messages)) is not None:
            raise ValueError(f"message {place[0]} has a place for an image (`{place[1]}`); only text can be used")
        return Sample(messages, rejected, attributes(row, self.text))


def layout(
    name: str,
    columns: str,
    convert: Conversion,
    *,
    text: str = "",
    holds: Callable[[Sequence[Values]], bool] | None = None,
) -> Layout:
    """A `Layout` from names separated by spaces; ``a|b`` in ``columns`` means one of the two."""
    wanted = tuple(tuple(one.split("|")) for one in columns.split())
    return Layout(name, wanted, convert, frozenset(text.split()), holds)


def check(messages: Sequence[Message]) -> None:
    """Raise a ValueError unless the messages are a sample: a prompt, an answer at the end, nothing empty."""
    if not any(message["role"] == "assistant" for message in messages):
        raise ValueError("no assistant turn")
    if messages[-1]["role"] != "assistant":
        raise ValueError("the last message is not the assistant's")
    if not any(message["role"] == "user" for message in messages):
        raise ValueError("no prompt: no user turn")
    for number, message in enumerate(messages, start=1):
        # an empty system message is kept: chat templates treat it otherwise than none
        if not message["content"].strip() and message["role"] != "system":
            if number == len(messages):
                raise ValueError("the answer is empty")
            raise ValueError("the prompt is empty" if number == len(messages) - 1 else f"message {number} is empty")


def turn(prompt: str, answer: str, *, reasoning: str = "", system: str = "") -> list[Message]:
    """One question and its answer."""
    messages = [{"role": "system", "content": system}] if system.strip() else []
    messages.append({"role": "user", "content": prompt})
    messages.append(answer_message(answer, reasoning))
    return messages


def answer_message(answer: str, reasoning: str = "") -> Message:
    """The assistant's message; the reasoning only when there is one."""
    message = {"role": "assistant", "content": answer}
    if reasoning.strip():
        message["reasoning_content"] = reasoning
    return message


def text(row: Values, *names: str) -> str:
    """The text of the first of these columns that is not empty; the empty string when all are.

    Numbers count as their text, so that ``42`` is the same answer in CSV and in JSON.

    Raises:
        ValueError: the column holds something else.
    """
    for name in names:
        value = row.get(name)
        if isinstance(value, str):
            if value.strip():
                return value
        elif isinstance(value, bool) or not (value is None or isinstance(value, (int, float))):
            raise ValueError(f"column {name} holds no text but {type(value).__name__}")
        elif value is not None and value == value:
            return str(value)
    return ""


def structured(value: Any) -> Any:
    """Lists and objects that a CSV or a string column carries as text (JSON, or what Python prints), as themselves."""
    if not isinstance(value, str) or value.lstrip()[:1] not in ("[", "{"):
        return value
    try:
        return json.loads(value)
    except ValueError:
        pass
    try:
        return ast.literal_eval(value.strip())
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return value


def attributes(row: Values, text_columns: Collection[str]) -> dict[str, Any]:
    """The row's other columns that are numbers, booleans or short strings; a list of one (``["B"]``) counts as it."""
    kept: dict[str, Any] = {}
    for name, value in row.items():
        if name in text_columns or not name:
            continue
        if type(value) is list and len(value) == 1:
            value = value[0]
        if isinstance(value, str):
            if 0 < len(value) <= ATTRIBUTE_LENGTH:
                kept[name] = value
        elif isinstance(value, (bool, int)) or (isinstance(value, float) and math.isfinite(value)):
            kept[name] = value
    return kept


_THINK = re.compile(r"\A\s*<think>.*?</think>\s*", re.DOTALL)


def without_reasoning(sample: Sample) -> Sample:
    """The question-and-answer variant: no ``reasoning_content``, no leading ``<think>...</think>``.

    Raises:
        ValueError: nothing is left of the answer.
    """
    messages = [_plain(message) for message in sample.messages]
    check(messages)
    rejected = None if sample.rejected is None else [_plain(message) for message in sample.rejected]
    return Sample(messages, rejected, sample.attributes)


def _plain(message: Message) -> Message:
    if message["role"] != "assistant":
        return message
    return {"role": "assistant", "content": _THINK.sub("", message["content"])}
