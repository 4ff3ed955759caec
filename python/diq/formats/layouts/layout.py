"""What a layout is, and the pieces that layouts are made of."""

from __future__ import annotations

import ast
import json
import math
import re
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
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
        note: what else the columns might mean, and how that is asked for.
    """

    name: str
    columns: tuple[tuple[str, ...], ...]
    convert: Conversion
    text: frozenset[str] = frozenset()
    holds: Callable[[Sequence[Values]], bool] | None = None
    note: str = ""
    _beside: frozenset[str] = field(init=False)
    _marks: tuple[str, ...] = field(init=False)

    def __post_init__(self) -> None:
        # what the layout reads itself means what the layout says
        own = self.text.union(*self.columns)
        object.__setattr__(self, "_beside", frozenset(BESIDE) - own)
        object.__setattr__(self, "_marks", tuple(name for name in _BAD_ANSWER if name not in own))

    def missing(self, row: Values) -> str:
        """The first column that the row lacks; empty when it has all."""
        for wanted in self.columns:
            if not any(name in row for name in wanted):
                shown = " or ".join(f"`{name}`" for name in wanted[:4])
                return f"{shown} or another of its names" if len(wanted) > 4 else shown
        return ""

    def sample(self, row: Values, dropped: Counter[str] | None = None) -> Sample:
        """The row as a sample.

        Args:
            row: column to value.
            dropped: counts long texts by their column that become neither message nor attribute.

        Raises:
            ValueError: the row is none; the text says why.
        """
        missing = self.missing(row)
        if missing:
            raise ValueError(f"no column {missing} (layout {self.name})")
        if (column := media_column(row)) is not None:
            raise ValueError(f"the row has an image, video or sound (column {column}); only text can be used")
        for name in self._marks:
            if row.get(name) is False:
                raise ValueError(f"the answer is marked as a bad one ({name} is false), which is nothing to learn")
        converted = self.convert(row)
        messages, rejected = converted if isinstance(converted, tuple) else (converted, None)
        text = self.text
        if beside := self._beside.intersection(row):
            messages = with_beside(row, beside, messages)
            text = text | beside
        check(messages)
        if (place := media_place(messages)) is not None:
            raise ValueError(f"message {place[0]} has a place for an image (`{place[1]}`); only text can be used")
        return Sample(messages, rejected, attributes(row, text, dropped))


def layout(
    name: str,
    columns: str,
    convert: Conversion,
    *,
    text: str = "",
    holds: Callable[[Sequence[Values]], bool] | None = None,
    note: str = "",
) -> Layout:
    """A `Layout` from names separated by spaces; ``a|b`` in ``columns`` means one of the two."""
    wanted = tuple(tuple(one.split("|")) for one in columns.split())
    return Layout(name, wanted, convert, frozenset(text.split()), holds, note)


def check(messages: Sequence[Message]) -> None:
    """Raise a ValueError unless the messages are a sample: a prompt, an answer at the end, nothing empty."""
    if not any(message["role"] == "assistant" for message in messages):
        raise ValueError("no assistant turn")
    if messages[-1]["role"] != "assistant":
        raise ValueError("the last message is not the assistant's")
    if not any(message["role"] == "user" for message in messages):
        raise ValueError("no prompt: no user turn")
    for number, message in enumerate(messages, start=1):
        # an empty system message is kept: chat templates treat it otherwise than none; a tool may give nothing
        if not message["content"].strip() and message["role"] in ("user", "assistant") and "tool_calls" not in message:
            if number == len(messages):
                raise ValueError("the answer is empty")
            raise ValueError("the prompt is empty" if number == len(messages) - 1 else f"message {number} is empty")
    if messages[-1].get("train") is False:
        raise ValueError("the answer is marked as one that is not to be learnt (weight 0, loss or train false)")


# columns that mean the same beside every layout that does not read them itself
BESIDE: dict[str, str] = {
    **dict.fromkeys(("system", "system_prompt", "system_message"), "system"),
    **dict.fromkeys(("tools", "functions"), "tools"),
    "history": "history",
    "context": "context",
    "input": "input",
    **dict.fromkeys(("reasoning", "reasoning_content", "thinking", "thought", "chain_of_thought", "cot"), "reasoning"),
}
_TOOLS = tuple(name for name, meaning in BESIDE.items() if meaning == "tools")
_BAD_ANSWER = ("label", "kto_tag")


def with_beside(row: Values, names: Collection[str], messages: list[Message]) -> list[Message]:
    """The messages with what stands beside them: system prompt, earlier turns, context, input, reasoning, tools.

    A text that is in the messages already stays there alone. Beside several turns a context belongs to the first
    question and earlier turns stand before it; an input, which only one question can have, is left. Raises as ``text``
    does.
    """
    found: dict[str, Any] = {}
    for name in sorted(names):
        if BESIDE[name] == "tools":
            continue
        value = structured(row[name]) if BESIDE[name] == "history" else row[name]
        if isinstance(value, str) and any(value.strip() in message["content"] for message in messages):
            continue
        if (
            value
            and BESIDE[name] not in found
            and isinstance(value, (list, tuple) if BESIDE[name] == "history" else str)
        ):
            found[BESIDE[name]] = value
    made = list(messages)
    asked = [place for place, one in enumerate(made) if one["role"] == "user"]
    if asked:
        question = made[asked[0]]["content"]
        if context := found.get("context", "").strip():
            question = f"{context}\n\n{question}"
        if len(asked) == 1 and (given := found.get("input", "").strip()):
            question = f"{question}\n{given}"
        made[asked[0]] = made[asked[0]] | {"content": question}
        if "history" in found:
            earlier = earlier_turns(found["history"])
            if not _holds(messages, earlier):
                made[asked[0] : asked[0]] = earlier
    if found.get("system", "").strip():
        made = join_system(found["system"], made)
    if found.get("reasoning", "").strip() and made[-1]["role"] == "assistant" and "reasoning_content" not in made[-1]:
        made[-1] = made[-1] | {"reasoning_content": found["reasoning"]}
    # last, for they go with whatever is the first message then
    return _with_tools(row, made)


def _holds(messages: Sequence[Message], turns: Sequence[Message]) -> bool:
    """Whether some turns are among the messages already, one behind the other."""
    said = [(one["role"], one["content"].strip()) for one in messages]
    wanted = [(one["role"], one["content"].strip()) for one in turns]
    return any(said[place : place + len(wanted)] == wanted for place in range(len(said)))


def join_system(system: str, messages: list[Message]) -> list[Message]:
    """The messages with a system prompt in front, before a system turn that says something else."""
    first = messages[0]
    if first["role"] != "system":
        return [{"role": "system", "content": system}, *messages]
    if system.strip() in first["content"]:
        return messages
    return [first | {"content": f"{system}\n\n{first['content']}".rstrip()}, *messages[1:]]


def _with_tools(row: Values, turns: list[Message]) -> list[Message]:
    """The messages with the tools that stand beside them, which go with the first of them."""
    tools = structured(next((row[name] for name in _TOOLS if row.get(name)), None))
    if not isinstance(tools, Sequence) or isinstance(tools, str) or not all(isinstance(one, Mapping) for one in tools):
        return turns
    wrapped = [one if "function" in one else {"type": "function", "function": _as_function(one)} for one in tools]
    return [turns[0] | {"tools": wrapped}, *turns[1:]]


def _as_function(tool: Mapping[str, Any]) -> dict[str, Any]:
    # Anthropic calls the parameters otherwise
    return {"parameters" if key == "input_schema" else key: value for key, value in tool.items()}


def earlier_turns(history: Any) -> list[Message]:
    """Earlier turns as messages: pairs of question and answer, objects of one, messages, or texts in turn.

    Raises:
        ValueError: they are none.
    """
    if all(isinstance(one, Mapping) and one.get("role") in ("user", "assistant") for one in history):
        return [{"role": one["role"], "content": str(one.get("content") or "")} for one in history]
    if all(isinstance(one, str) for one in history) and len(history) % 2 == 0:
        history = list(zip(history[::2], history[1::2], strict=True))
    found: list[Message] = []
    for one in history:
        pair = [one.get("question"), one.get("answer")] if isinstance(one, Mapping) else one
        if not isinstance(pair, (list, tuple)) or len(pair) != 2 or None in pair:
            raise ValueError("the history is no list of question and answer")
        found += turn(str(pair[0]), str(pair[1]))
    return found


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


def has_words(text: str) -> bool:
    """Whether a text could be taught: a URL, a path or a digest is one ASCII word, and nobody misses it."""
    return not text.isascii() or len(text.split(None, 1)) > 1


def attributes(row: Values, text_columns: Collection[str], dropped: Counter[str] | None = None) -> dict[str, Any]:
    """The row's other columns that are numbers, booleans or short strings; a list of one (``["B"]``) counts as it.

    Longer strings are counted by their column.
    """
    kept: dict[str, Any] = {}
    for name, value in row.items():
        if name in text_columns or not name:
            continue
        if type(value) is list and len(value) == 1:
            value = value[0]
        if isinstance(value, str):
            if 0 < len(value) <= ATTRIBUTE_LENGTH:
                kept[name] = value
            elif value and dropped is not None and has_words(value):
                dropped[name] += 1
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
    kept = {key: value for key, value in message.items() if key != "reasoning_content"}
    return kept | {"content": _THINK.sub("", message["content"])}
