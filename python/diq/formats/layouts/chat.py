"""Conversations: OpenAI messages, ShareGPT, UltraMedical, Gemini's contents, and what other chats call their turns."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from diq.base.sample import Message
from diq.base.text import short
from diq.formats.layouts.layout import Values, join_system, layout, structured, text

ROLES = {
    **dict.fromkeys(("system", "developer"), "system"),
    **dict.fromkeys(("user", "human", "prompter", "patient", "instruction", "question", "input"), "user"),
    **dict.fromkeys(
        ("assistant", "gpt", "bot", "model", "chatgpt", "ai", "claude", "doctor", "answer", "response", "output"),
        "assistant",
    ),
    **dict.fromkeys(("tool", "observation", "function", "ipython"), "tool"),
    # its text is the call
    "function_call": "function_call",
}
_ROLE_KEYS, _CONTENT_KEYS = ("role", "from", "speaker"), ("content", "value", "text")
_REASONING = ("reasoning_content", "reasoning", "thinking")
# what says that an assistant's turn is not to be learnt: OpenAI and Mistral, LLaMA-Factory, axolotl
_MASKS = frozenset(["weight", "loss", "train"])
_TEXT_PARTS = ("text", "input_text", "output_text")


def messages(value: Any) -> list[Message]:
    """A list of turns: OpenAI's keys (role, content), ShareGPT's (from, value), objects of a question and its answer
    (input, output), or texts of which every other one is the user's.

    Raises:
        ValueError: it is no such list, a role is unknown, or a part is no text.
    """
    turns = structured(value)
    if not isinstance(turns, (list, tuple)):
        raise ValueError(f"the messages are no list but {type(turns).__name__}")
    if not turns:
        raise ValueError("no messages")
    if isinstance(turns[0], str) and all(isinstance(one, str) for one in turns):
        return [{"role": "assistant" if place % 2 else "user", "content": str(one)} for place, one in enumerate(turns)]
    found: list[Message] = []
    for number, one in enumerate(turns, start=1):
        if isinstance(one, dict) and "role" not in one and "from" not in one and (pair := _exchange(one)):
            found += pair
        else:
            found.append(message(one, number))
    return found


def _exchange(value: dict[str, Any]) -> list[Message]:
    """The turns of an object that holds a question and its answer under the names of their roles."""
    if any(value.get(key) is not None for key in (*_ROLE_KEYS, *_CONTENT_KEYS)):
        return []
    found = {ROLES[key.lower()]: one for key, one in value.items() if key.lower() in ROLES and isinstance(one, str)}
    if "user" not in found and "assistant" not in found:
        return []
    return [
        {"role": role, "content": found[role]}
        for role in ("system", "user", "assistant")
        if found.get(role, "").strip()
    ]


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
    name = value.get("role") or value.get("from") or value.get("speaker")
    if not name:
        raise ValueError(f"message {number} has no role")
    role = ROLES.get(name.strip().lower()) if isinstance(name, str) else None
    if role is None:
        raise ValueError(f"unknown role `{short(name)}` in message {number}")
    given = value.get("content")
    if given is None:
        given = value.get("value")
    if given is None:
        given = value.get("text")
    made: Message = {"role": role, "content": ""}
    if role == "function_call":
        made = {"role": "assistant", "content": "", "tool_calls": _calls(given, number)}
    elif isinstance(given, str):
        made["content"] = given
    elif given is not None:
        _read_content(made, given, number)
    if role == "assistant":
        for key in _REASONING:
            reasoning = value.get(key)
            if isinstance(reasoning, str) and reasoning.strip():
                made["reasoning_content"] = reasoning
                break
        if calls := value.get("tool_calls") or value.get("function_call"):
            made["tool_calls"] = _calls(calls, number)
    if not _MASKS.isdisjoint(value) and made["role"] == "assistant" and any(_is_off(value.get(key)) for key in _MASKS):
        made["train"] = False
    if value.get("tools"):
        # as `diq select` writes them
        made["tools"] = structured(value["tools"])
    if made["role"] == "tool":
        for key in ("name", "tool_call_id"):
            if isinstance(value.get(key), str):
                made[key] = value[key]
    return made


def _is_off(value: Any) -> bool:
    return value is not None and str(value).strip().lower() in ("0", "0.0", "false")


def _read_content(made: Message, value: Any, number: int) -> None:
    """Put the text of a content, or of its typed parts, into a message."""
    if value is None or isinstance(value, str):
        made["content"] = value or ""
        return
    if made["role"] == "tool" and isinstance(value, dict):
        made["content"] = json.dumps(value, ensure_ascii=False)
        return
    if not isinstance(value, (list, tuple)):
        raise ValueError(f"the content of message {number} is no text")
    texts, thoughts, calls = [], [], []
    for part in value:
        kind = part.get("type", "text") if isinstance(part, dict) else "text"
        content = part.get("text") if isinstance(part, dict) else part
        if kind in _TEXT_PARTS and isinstance(content, str):
            texts.append(content)
        elif kind == "thinking" and isinstance(thought := part.get("thinking", content), str):
            thoughts.append(thought)
        elif kind == "tool_use":
            calls.append({"name": part.get("name"), "arguments": part.get("input") or {}, "id": part.get("id")})
        elif kind == "tool_result" and len(value) == 1:
            # Anthropic's user turn that holds what a tool gave
            made |= {"role": "tool", "tool_call_id": str(part.get("tool_use_id") or "")}
            _read_content(made, part.get("content"), number)
            return
        else:
            raise ValueError(f"message {number} has a part of type {short(kind)}; only text can be used")
    made["content"] = "\n".join(texts)
    if thoughts:
        made["reasoning_content"] = "\n".join(thoughts)
    if calls:
        made["tool_calls"] = _calls(calls, number)


def _calls(value: Any, number: int) -> list[dict[str, Any]]:
    """Calls of tools in OpenAI's shape, with arguments as an object, which is what chat templates expect."""
    given = structured(value)
    found = []
    for one in given if isinstance(given, (list, tuple)) else [given]:
        call = one.get("function", one) if isinstance(one, Mapping) else None
        if not isinstance(call, Mapping) or not isinstance(call.get("name"), str):
            raise ValueError(f"message {number} calls a tool without a name")
        made: dict[str, Any] = {
            "type": "function",
            "function": {
                "name": call["name"],
                "arguments": structured(call.get("arguments", call.get("parameters"))) or {},
            },
        }
        if isinstance(one.get("id"), str):
            made["id"] = one["id"]
        found.append(made)
    return found


def with_system(row: Values, turns: list[Message]) -> list[Message]:
    """A system prompt that stands beside the conversation goes before it."""
    system = text(row, "system") if isinstance(row.get("system"), str) else ""
    return join_system(system, turns) if system else turns


def _openai(row: Values) -> list[Message]:
    return with_system(row, messages(row["messages"]))


def _sharegpt(row: Values) -> list[Message]:
    found = messages(row["conversations" if "conversations" in row else "conversation"])
    return with_system(row, found)


def _gemini(row: Values) -> list[Message]:
    turns = [
        {"role": one.get("role", "user"), "content": one.get("parts")} if isinstance(one, dict) else one
        for one in structured(row["contents"])
    ]
    found = messages(turns)
    said = structured(row.get("systemInstruction") or row.get("system_instruction"))
    if isinstance(said, dict) and said.get("parts"):
        found = [message({"role": "system", "content": said["parts"]}, 0), *found]
    return found


def _texts(rows: Sequence[Values]) -> bool:
    turns = [structured(row.get("data")) for row in rows]
    return all(isinstance(one, list) and all(isinstance(text, str) for text in one) for one in turns)


LAYOUTS = (
    layout("messages", "messages", _openai, text="system"),
    layout("ultramedical", "conversations type answer score", _sharegpt),
    layout("sharegpt", "conversations|conversation", _sharegpt, text="system"),
    layout("gemini", "contents", _gemini, text="systemInstruction system_instruction"),
    layout("ultrachat", "data", lambda row: messages(row["data"]), holds=_texts),
)
