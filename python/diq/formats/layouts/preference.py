"""Preference pairs: prompt, chosen, rejected, as strings, message lists or whole dialogues."""

from __future__ import annotations

import re
from typing import Any

from diq.base.sample import Message
from diq.formats.layouts.chat import dialogue, messages, with_system
from diq.formats.layouts.layout import Values, check, layout, text

_PROMPT = ("prompt", "question", "instruction", "conversations", "messages")


def pair(prompt: list[Message], chosen: Any, rejected: Any) -> tuple[list[Message], list[Message]]:
    """The chosen dialogue, and what the refused one has in its place.

    Args:
        prompt: messages before the answers; empty when the dialogues carry them.
        chosen, rejected: a string, the answer's messages, or a whole dialogue that begins with the prompt.

    Raises:
        ValueError: the two have no common prompt, or are the same.
    """
    one, other = _dialogue(prompt, chosen), _dialogue(prompt, rejected)
    check(one)
    check(other)
    shared = 0
    while shared < min(len(one), len(other)) and one[shared] == other[shared]:
        shared += 1
    if one == other:
        raise ValueError("chosen and rejected are the same")
    if not any(message["role"] == "user" for message in one[:shared]):
        raise ValueError("chosen and rejected have no prompt in common")
    return one, other[shared:]


def _dialogue(prompt: list[Message], value: Any) -> list[Message]:
    found = dialogue([value] if isinstance(value, dict) else value) or (None if prompt else _spoken_turns(value))
    if found is not None:
        turns = messages(found)
        repeated = bool(prompt) and prompt[-1] in turns[:-1]
        return turns if repeated else [*prompt, *turns]
    if value is not None and not isinstance(value, str):
        raise ValueError(f"chosen or rejected holds no text but {type(value).__name__}")
    return [*prompt, {"role": "assistant", "content": value or ""}]


# Anthropic's HH-RLHF writes a dialogue as one text
_SPOKEN = re.compile(r"(?:\A|\n\n)\s*(Human|Assistant):")


def _spoken_turns(value: Any) -> list[dict[str, str]] | None:
    """The turns of a text that begins with ``Human:`` and goes on with ``Assistant:``; None for any other."""
    parts = _SPOKEN.split(value) if isinstance(value, str) else []
    if len(parts) < 5 or parts[0].strip() or parts[1] != "Human":
        return None
    return [
        {"role": "user" if name == "Human" else "assistant", "content": said.strip()}
        for name, said in zip(parts[1::2], parts[2::2], strict=True)
    ]


def prompt_messages(value: Any) -> list[Message]:
    """The prompt column as messages: a string is one user turn, nothing is none."""
    found = dialogue(value)
    if found is not None:
        return messages(found)
    content = text({"prompt": value}, "prompt")
    return [{"role": "user", "content": content}] if content else []


def _preference(row: Values) -> tuple[list[Message], list[Message]]:
    name = next((name for name in _PROMPT if row.get(name) is not None), "prompt")
    prompt = prompt_messages(row.get(name))
    if name == "messages" and prompt and prompt[-1]["role"] == "assistant":
        # some sets carry the chosen dialogue a second time under this name
        prompt = prompt[:-1]
    return pair(with_system(row, prompt) if prompt else prompt, row["chosen"], row["rejected"])


def _selected(row: Values) -> list[Message] | tuple[list[Message], list[Message]]:
    """A row that `diq select` wrote: the chosen dialogue, and what the refused one has in place of its end."""
    chosen = messages(row["messages"])
    # CSV has no null
    if row["rejected"] in (None, ""):
        return chosen
    refused = messages(row["rejected"])
    if refused[-1]["role"] != "assistant":
        raise ValueError("the refused dialogue does not end with the assistant")
    return chosen, refused


def _refused_text(row: Values) -> tuple[list[Message], list[Message]]:
    """ms-swift: the chosen dialogue, and the refused answer as a text."""
    chosen = with_system(row, messages(row["messages"]))
    return pair(chosen[:-1], chosen[-1]["content"], text(row, "rejected_response"))


LAYOUTS = (
    layout("refused_text", "messages rejected_response", _refused_text, text="messages rejected_response system"),
    layout("selected_pairs", "messages rejected sample_id", _selected, text="messages rejected"),
    layout("preference", "chosen rejected", _preference, text=" ".join((*_PROMPT, "chosen", "rejected", "system"))),
)
