"""Conversations: OpenAI messages, ShareGPT, UltraMedical, Gemini's contents, and what other chats call their turns."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from diq.base.sample import Message
from diq.base.text import short
from diq.formats.layouts.layout import (
    REASONING,
    THINK,
    Values,
    is_off,
    join_system,
    layout,
    paragraphs,
    structured,
)

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
# OpenRouter's list of typed parts is the last of them
_REASONING = (*REASONING, "reasoning_details")
# what says that an assistant's turn is not to be learnt: OpenAI and Mistral, LLaMA-Factory, axolotl, XTuner
_MASKS = frozenset(["weight", "loss", "train", "training", "output_with_loss", "train_detail"])
_MARKS = _MASKS.union(_REASONING)
_TEXT_PARTS, _THOUGHT_PARTS = ("text", "input_text", "output_text"), ("thinking", "reasoning")


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
        if isinstance(one, dict) and "role" not in one and "from" not in one and (pair := _exchange(one, number)):
            found += pair
        else:
            found += turns_of(one, number)
    return found


def _exchange(value: dict[str, Any], number: int) -> list[Message]:
    """The turns of an object that holds a question and its answer under the names of their roles."""
    if any(value.get(key) is not None for key in (*_ROLE_KEYS, *_CONTENT_KEYS)):
        return []
    found = {ROLES[key.lower()]: one for key, one in value.items() if key.lower() in ROLES and isinstance(one, str)}
    if "user" not in found and "assistant" not in found:
        return []
    made: list[Message] = [
        {"role": role, "content": found[role]}
        for role in ("system", "user", "assistant")
        if found.get(role, "").strip()
    ]
    if made and made[-1]["role"] == "assistant" and not _MARKS.isdisjoint(value):
        _mark(made[-1], value, number)
    return made


def dialogue(value: Any) -> list[Any] | None:
    """The value if it is a list of turns (or the text of one), else None: a prompt may well begin with a bracket."""
    if isinstance(value, str):
        value = structured(value)
        named = isinstance(value, list) and all(isinstance(one, dict) and {"role", "from"} & set(one) for one in value)
        return value if named and value else None
    return list(value) if isinstance(value, (list, tuple)) else None


def turns_of(value: Any, number: int) -> list[Message]:
    """One turn as messages: itself, before it what tools gave where that stands in parts of it."""
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
    results: list[Message] = []
    if role == "function_call":
        made = _spoken_call(given, number)
    elif isinstance(given, str):
        made["content"] = given
    elif given is not None:
        results = _read_content(made, given, number)
    if made["role"] == "assistant":
        if calls := value.get("tool_calls") or value.get("function_call"):
            made["tool_calls"] = _calls(calls, number)
        if not _MARKS.isdisjoint(value):
            _mark(made, value, number)
    if value.get("tools"):
        # as `diq select` writes them
        made["tools"] = structured(value["tools"])
    if made["role"] == "tool":
        for key in ("name", "tool_call_id"):
            if isinstance(value.get(key), str):
                made[key] = value[key]
    if not results:
        return [made]
    return [*results, made] if made["content"].strip() or "tool_calls" in made else results


def _mark(made: Message, value: Mapping[str, Any], number: int) -> None:
    """Give an assistant's message the reasoning of its turn, and the mark that it is not to be learnt."""
    texts = [made.get("reasoning_content", ""), *(_thought(value[key]) for key in _REASONING if key in value)]
    if reasoning := _merged(texts):
        made["reasoning_content"] = reasoning
    # axolotl's pieces of the text
    for one in structured(value.get("train_detail")) or ():
        if isinstance(one, Mapping) and is_off(one.get("train")):
            raise ValueError(f"message {number} is to be learnt in part (train_detail), which diq does not do")
    if any(is_off(value[key]) for key in _MASKS if key in value):
        made["train"] = False


def _thought(value: Any) -> str:
    """The text of a reasoning, which may be a list of typed parts."""
    if isinstance(value, str):
        return value
    if not isinstance(value, (list, tuple)):
        return ""
    parts = [one if isinstance(one, Mapping) else {"text": one} for one in value]
    texts = [next((one[key] for key in ("text", "summary", "thinking") if one.get(key)), "") for one in parts]
    return "\n".join(one for one in texts if isinstance(one, str) and one)


def _merged(texts: Iterable[str]) -> str:
    """Texts below each other, each once: a turn may say the same reasoning under two names."""
    kept: list[str] = []
    for said in texts:
        if said.strip() and not any(said.strip() in one for one in kept):
            kept = [*(one for one in kept if one.strip() not in said), said]
    return "\n\n".join(kept)


def _spoken_call(given: Any, number: int) -> Message:
    """LLaMA-Factory's turn whose text is the call, behind what was thought."""
    thought = THINK.match(given) if isinstance(given, str) else None
    calls = structured(given[thought.end() :] if thought else given)
    if not isinstance(calls, (list, tuple, Mapping)):
        raise ValueError(f"message {number} is a call of a tool that is no JSON")
    content = thought[0].rstrip() if thought else ""
    return {"role": "assistant", "content": content, "tool_calls": _calls(calls, number)}


def _read_content(made: Message, value: Any, number: int) -> list[Message]:
    """Put the text of a content, or of its typed parts, into a message; returns what tools gave, as turns."""
    if value is None or isinstance(value, str):
        made["content"] = value or ""
        return []
    if made["role"] == "tool" and isinstance(value, dict):
        made["content"] = json.dumps(value, ensure_ascii=False)
        return []
    if not isinstance(value, (list, tuple)):
        raise ValueError(f"the content of message {number} is no text")
    texts: list[str] = []
    thoughts: list[str] = []
    calls: list[dict[str, Any]] = []
    results: list[Message] = []
    for one in value:
        part = one if isinstance(one, Mapping) else {"text": one}
        kind, content = part.get("type") or "text", part.get("text")
        if kind == "text" and content is None and (found := next((key for key in _GEMINI if part.get(key)), None)):
            call = part[found]
            if not isinstance(call, Mapping) or not isinstance(call.get("name"), str):
                raise ValueError(f"message {number} has a {found} without a name")
            if _GEMINI[found] == "call":
                calls.append({"name": call["name"], "arguments": call.get("args") or {}, "id": call.get("id")})
            else:
                results.append({"role": "tool", "content": "", "name": call["name"]})
                _read_content(results[-1], call.get("response"), number)
        elif kind in _THOUGHT_PARTS and isinstance(thought := part.get(kind, content), (str, list, tuple)):
            thoughts.append(_thought(thought))
        elif kind in _TEXT_PARTS and isinstance(content, str):
            (thoughts if part.get("thought") is True else texts).append(content)
        elif kind == "tool_use":
            calls.append({"name": part.get("name"), "arguments": part.get("input") or {}, "id": part.get("id")})
        elif kind == "tool_result":
            # Anthropic's user turn that holds what tools gave
            results.append({"role": "tool", "content": "", "tool_call_id": str(part.get("tool_use_id") or "")})
            _read_content(results[-1], part.get("content"), number)
        else:
            other = next((key for key in part if key != "text" and part[key]), kind) if "type" not in part else kind
            raise ValueError(f"message {number} has a part of type {short(other)}; only text can be used")
    made["content"] = "\n".join(texts)
    if any(thoughts):
        made["reasoning_content"] = "\n".join(filter(None, thoughts))
    if calls:
        made["tool_calls"] = _calls(calls, number)
    return results


# keys of Gemini's parts, which have no type
_GEMINI = {"functionCall": "call", "function_call": "call", "functionResponse": "result", "function_response": "result"}


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
    system = paragraphs(row.get("system"))
    return join_system(system, turns) if isinstance(system, str) and system.strip() else turns


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
        found = [*turns_of({"role": "system", "content": said["parts"]}, 0), *found]
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
