"""What a layout is, and the pieces that layouts are made of."""

from __future__ import annotations

import ast
import json
import math
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from diq.base.sample import Message, Sample
from diq.base.text import amount
from diq.formats.layouts.media import media_column, media_place

Values = Mapping[str, Any]
Conversion = Callable[[Values], "list[Message] | tuple[list[Message], list[Message]]"]
Note = Callable[[Sequence[Values]], str]

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
        note: what the user is to know of the first rows, such as what else a column might mean; may give nothing.
        flags: columns whose 0, "false" or "no" marks a bad answer; ``fitted`` finds them.
        own: columns that the layout reads itself.
        marks: columns in which false marks a bad answer.
    """

    name: str
    columns: tuple[tuple[str, ...], ...]
    convert: Conversion
    text: frozenset[str] = frozenset()
    holds: Callable[[Sequence[Values]], bool] | None = None
    note: Note | None = None
    flags: frozenset[str] = frozenset(["kto_tag"])
    own: frozenset[str] = field(init=False)
    _beside: frozenset[str] = field(init=False)
    marks: tuple[str, ...] = field(init=False)

    def __post_init__(self) -> None:
        # what the layout reads itself means what the layout says, and a label beside options is one of them
        own = self.text.union(*self.columns)
        marks = [name for name in _BAD_ANSWER if name not in own and own.isdisjoint(_OPTIONS)]
        object.__setattr__(self, "own", own)
        object.__setattr__(self, "_beside", frozenset(BESIDE) - own)
        object.__setattr__(self, "marks", tuple(marks))

    def fitted(self, rows: Sequence[Values]) -> Layout:
        """The layout as the first rows of a source want it: whether a label that is text or number marks answers."""
        values = _said(rows, "label")
        # TRL's KTO has these columns; elsewhere a number may be a class
        if "label" not in self.marks or not values <= (_YES_NO if self.name == "prompt_completion" else _WORDS):
            return self
        return replace(self, flags=self.flags | {"label"})

    def notes(self, rows: Sequence[Values]) -> list[str]:
        """What the user is to know of the first rows."""
        found = [self.note(rows)] if self.note else []
        values = _said(rows, "label")
        unsure = "label" in self.marks and "label" not in self.flags and "rejected" not in self.own
        if unsure and len(values) > 1 and values <= _YES_NO:
            found.append(
                "`label` is 0 in some rows and 1 in others, which is kept as an attribute; if 0 marks a bad answer, "
                "--map with label=label leaves those rows out"
            )
        return [one for one in found if one]

    def missing(self, row: Values) -> str:
        """The first column that the row lacks; empty when it has all."""
        for wanted in self.columns:
            if not any(name in row for name in wanted):
                shown = " or ".join(f"`{name}`" for name in wanted[:4])
                return f"{shown} or another of its names" if len(wanted) > 4 else shown
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
        for name in self.marks:
            mark = row.get(name)
            if mark is not None and (mark is False or (name in self.flags and is_off(mark))):
                said = str(mark).strip().lower()
                raise ValueError(f"the answer is marked as a bad one ({name} is {said}), which is nothing to learn")
        converted = self.convert(row)
        messages, rejected = converted if isinstance(converted, tuple) else (converted, None)
        text = self.text
        if beside := self._beside.intersection(row):
            messages = with_beside(row, beside, messages)
            text = text | beside
        check(messages)
        if (place := media_place(messages)) is not None:
            raise ValueError(f"message {place[0]} has a place for an image (`{place[1]}`); only text can be used")
        return Sample(messages, rejected, attributes(row, text))


def layout(
    name: str,
    columns: str,
    convert: Conversion,
    *,
    text: str = "",
    holds: Callable[[Sequence[Values]], bool] | None = None,
    note: Note | None = None,
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
    "instruction": "instruction",
    "input": "input",
    **dict.fromkeys(("reasoning", "reasoning_content", "thinking", "thought", "chain_of_thought", "cot"), "reasoning"),
}
_TOOLS = tuple(name for name, meaning in BESIDE.items() if meaning == "tools")
REASONING = tuple(name for name, meaning in BESIDE.items() if meaning == "reasoning")
_BAD_ANSWER = ("label", "kto_tag")
_OPTIONS = frozenset(["options", "choices"])
_OFF, _ON = frozenset(["0", "0.0", "false", "no"]), frozenset(["1", "1.0", "true", "yes"])
_WORDS = frozenset(["true", "false"])
_YES_NO = _WORDS | {"0", "0.0", "1", "1.0"}
_SHORT = 40  # characters; a shorter text may stand in another one by chance


def is_off(value: Any) -> bool:
    """Whether a mark says no: false, 0 or no, also as the text that CSV makes of them."""
    return str(value).strip().lower() in _OFF


def is_on(value: Any) -> bool:
    """Whether a mark says yes."""
    return str(value).strip().lower() in _ON


def _said(rows: Sequence[Values], name: str) -> frozenset[str]:
    """The values of a column that are not empty, in small letters."""
    found = (str(row[name]).strip().lower() for row in rows if row.get(name) is not None)
    return frozenset(one for one in found if one)


def with_beside(row: Values, names: Collection[str], messages: list[Message], *, strict: bool = False) -> list[Message]:
    """The messages with what stands beside them: system prompt, earlier turns, context, instruction, input, reasoning,
    tools.

    A text that the question, what comes before it or (reasoning alone) the answer holds already stays there alone.
    Beside several turns a context belongs to the first question and earlier turns stand before it; an instruction or an
    input, which only one question can have, is left. Lists of texts are paragraphs; reasoning for each of several
    answers goes to its own.

    Raises:
        ValueError: the earlier turns are none, or with ``strict`` something that is there cannot be used.
    """
    found: dict[str, Any] = {}
    for name in sorted(names):
        meaning = BESIDE[name]
        if meaning == "tools" or meaning in found:
            continue
        value = _beside_value(meaning, row[name], messages)
        if value is None:
            continue
        if value is UNUSABLE:
            if strict:
                raise ValueError(f"the {meaning} cannot be used: it is {_kind(row[name])}")
            continue
        if isinstance(value, str) and _is_there(meaning, value, messages):
            continue
        found[meaning] = value
    made = list(messages)
    asked = [place for place, one in enumerate(made) if one["role"] == "user"]
    if asked:
        question = made[asked[0]]["content"]
        if len(asked) == 1:
            question = "\n".join(filter(None, (found.get("instruction", "").strip(), question)))
            question = "\n".join(filter(None, (question, found.get("input", "").strip())))
        elif strict and "input" in found:
            raise ValueError(f"an input beside {amount(len(asked), 'question')}, of which one must have it")
        if context := found.get("context", "").strip():
            question = f"{context}\n\n{question}"
        made[asked[0]] = made[asked[0]] | {"content": question}
        if "history" in found:
            earlier = earlier_turns(found["history"])
            if not _holds(messages, earlier):
                made[asked[0] : asked[0]] = earlier
    if "system" in found:
        made = join_system(found["system"], made)
    if "reasoning" in found:
        made = _with_reasoning(found["reasoning"], made, strict=strict)
    # last, for they go with whatever is the first message then
    return _with_tools(row, made, strict=strict)


UNUSABLE = object()


def _beside_value(meaning: str, value: Any, messages: Sequence[Message]) -> Any:
    """What stands beside the messages in the form that its meaning has; None for nothing, ``UNUSABLE`` for another."""
    if value is None or value != value or (isinstance(value, str) and not value.strip()):
        return None
    if isinstance(value, (list, tuple)) and all(one is None for one in value):
        return None
    if meaning == "history":
        value = structured(value)
        return (value or None) if isinstance(value, (list, tuple)) else UNUSABLE
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return str(value)
    if meaning == "reasoning" and isinstance(turns := structured(value), (list, tuple)):
        answers = sum(one["role"] == "assistant" for one in messages)
        if answers > 1:
            return turns if len(turns) == answers and _are_texts(turns) else UNUSABLE
    value = paragraphs(value)
    return (value if value.strip() else None) if isinstance(value, str) else (UNUSABLE if value else None)


def _are_texts(values: Sequence[Any]) -> bool:
    return all(one is None or isinstance(one, str) for one in values)


def _kind(value: Any) -> str:
    return "a text" if isinstance(value, str) else f"a {type(value).__name__}"


def paragraphs(value: Any) -> Any:
    """A list of texts, also one that CSV carries as text, as its paragraphs; anything else as it is."""
    found = structured(value) if isinstance(value, str) and value.lstrip()[:1] == "[" else value
    if isinstance(found, (list, tuple)) and found and _are_texts(found):
        return "\n\n".join(one for one in found if one and one.strip())
    return value


def _is_there(meaning: str, value: str, messages: Sequence[Message]) -> bool:
    """Whether the messages hold a text already, where the model reads it; an answer may well quote its question."""
    if meaning == "reasoning":
        return _stands(value.strip(), messages[-1]["content"])
    before = messages[:-1] if messages[-1]["role"] == "assistant" else messages
    return any(_stands(value.strip(), one["content"]) for one in before)


def _stands(value: str, content: str) -> bool:
    """Whether a content has a text: anywhere for a long one; a short one as lines, or a sentence at the beginning."""
    if value not in content:
        return False
    if len(value) >= _SHORT or value == content.strip():
        return True
    if content.lstrip().startswith(value) and not value[-1].isalnum():
        return True
    return re.search(rf"(?:\A|\n)[ \t]*{re.escape(value)}[ \t]*(?:\n|\Z)", content) is not None


def _with_reasoning(reasoning: str | Sequence[str | None], messages: list[Message], *, strict: bool) -> list[Message]:
    answers = [place for place, one in enumerate(messages) if one["role"] == "assistant"]
    texts = [reasoning] if isinstance(reasoning, str) else list(reasoning)
    made = list(messages)
    if not answers:
        return made
    # a single one belongs to the answer that is learnt
    for place, text in zip(answers[-len(texts) :], texts, strict=True):
        there = made[place].get("reasoning_content")
        if text and text.strip() and there is None:
            made[place] = made[place] | {"reasoning_content": text}
        elif strict and text and there is not None and text.strip() not in there:
            raise ValueError("the answer has another reasoning already")
    return made


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
    if _stands(system.strip(), first["content"]):
        return messages
    return [first | {"content": f"{system}\n\n{first['content']}".rstrip()}, *messages[1:]]


def _with_tools(row: Values, turns: list[Message], *, strict: bool = False) -> list[Message]:
    """The messages with the tools that stand beside them, which go with the first of them."""
    given = next((row[name] for name in _TOOLS if row.get(name)), None)
    tools = structured(given)
    if isinstance(tools, Mapping):
        tools = [tools]
    if not isinstance(tools, (list, tuple)) or not _all_objects(tools):
        if strict and given is not None:
            raise ValueError(f"the tools cannot be used: they are {_kind(given)} and no list of objects")
        return turns
    if not tools:
        return turns
    # Gemini's are lists of functions
    flat = [
        one for tool in tools for one in tool.get("functionDeclarations") or tool.get("function_declarations") or [tool]
    ]
    wrapped = [one if "function" in one else {"type": "function", "function": _as_function(one)} for one in flat]
    return [turns[0] | {"tools": wrapped}, *turns[1:]]


def _all_objects(values: Sequence[Any]) -> bool:
    return all(isinstance(one, Mapping) for one in values)


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


def text(row: Values, *names: str, lists: bool = False) -> str:
    """The text of the first of these columns that is not empty; the empty string when all are.

    Numbers count as their text, so that ``42`` is the same answer in CSV and in JSON; with ``lists`` a list of texts
    counts as its paragraphs.

    Raises:
        ValueError: the column holds something else.
    """
    for name in names:
        value = row.get(name)
        if lists and value is not None:
            value = paragraphs(value)
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


THINK = re.compile(r"\A\s*<think>.*?</think>\s*", re.DOTALL)


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
    return kept | {"content": THINK.sub("", message["content"])}
