"""Layouts that the user describes: ``--map prompt=frage,answer=antwort``, also by a path (``data.turns.user``)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

from diq.base.errors import UsageError
from diq.base.sample import Message
from diq.base.text import did_you_mean
from diq.formats.layouts.chat import messages, with_system
from diq.formats.layouts.choices import multiple_choice, options, prompt
from diq.formats.layouts.layout import Layout, Values, structured, text, turn, with_beside
from diq.formats.layouts.preference import pair, prompt_messages

ROLES = (
    "system", "prompt", "reasoning", "answer", "messages", "chosen", "rejected", "options", "label", "input", "context",
    "history", "tools",
)  # fmt: skip
_NEEDED = ({"messages"}, {"chosen", "rejected"}, {"prompt", "answer"}, {"prompt", "options", "label"})
_BESIDE = ("input", "context", "history", "tools")
_OPTIONAL = ("system", "reasoning", "options", "label", *_BESIDE)


def mapped(columns: Mapping[str, str]) -> Layout:
    """The layout in which each role is read from the named column.

    Raises:
        UsageError: a role is unknown, or the roles do not make a sample.
    """
    for role in columns:
        if role not in ROLES:
            raise UsageError(f"unknown role `{role}` in --map", did_you_mean(role, ROLES))
    if not any(needed <= set(columns) for needed in _NEEDED):
        raise UsageError(
            f"--map with only {', '.join(columns) or 'nothing'} does not make a sample",
            "give prompt and answer; prompt, options and label; chosen and rejected; or messages",
        )

    for column, n in Counter(columns.values()).items():
        if n > 1:
            raise UsageError(f"--map reads column `{column}` twice", "give each role a column of its own")

    def convert(row: Values) -> list[Message] | tuple[list[Message], list[Message]]:
        roles: dict[str, Any] = {role: value_at(row, column) for role, column in columns.items()}
        made = _converted(roles)
        turns, refused = made if isinstance(made, tuple) else (made, None)
        turns = with_beside(roles, roles.keys() & set(_BESIDE), turns)
        return turns if refused is None else (turns, refused)

    # an optional role may be missing in a row; the others make it a reject
    needed = tuple(_heads(column) for role, column in columns.items() if role not in _OPTIONAL)
    return Layout("map", needed, convert, frozenset(name for column in columns.values() for name in _heads(column)))


def _converted(roles: dict[str, Any]) -> list[Message] | tuple[list[Message], list[Message]]:
    if "messages" in roles:
        return with_system(roles, messages(roles["messages"]))
    if "chosen" in roles:
        before = prompt_messages(roles.get("prompt"))
        return pair(with_system(roles, before) if before else before, roles["chosen"], roles["rejected"])
    system = text(roles, "system")
    if isinstance(roles["prompt"], list) and isinstance(roles.get("answer"), list):
        turns = _pairs(roles)
        return [{"role": "system", "content": system}, *turns] if system else turns
    roles["prompt"] = spoken(roles["prompt"])
    reasoning = text(roles, "reasoning")
    if "label" not in roles:
        asked = text(roles, "prompt")
        if roles.get("options") is not None:
            asked = prompt(asked, options(roles["options"]))
        return turn(asked, text(roles, "answer"), reasoning=reasoning, system=system)
    choices = options(roles["options"])
    made = multiple_choice(roles, question="prompt", choices=choices, right=roles["label"], reasoning=("reasoning",))
    return [{"role": "system", "content": system}, *made] if system else made


def _heads(column: str) -> tuple[str, ...]:
    """The columns that a name may mean: itself, or the first step of a path."""
    head = column.partition(".")[0]
    return (column, head) if head and head != column else (column,)


def value_at(row: Values, column: str) -> Any:
    """The value of a column, or at a path into nested objects (``data.turns.user``); a list on the way gives a list."""
    if column in row or "." not in column:
        return row.get(column)
    value: Any = row
    for step in column.split("."):
        value = structured(value)
        if isinstance(value, (list, tuple)):
            value = [structured(one).get(step) for one in value if isinstance(structured(one), Mapping)]
        elif isinstance(value, Mapping):
            value = value.get(step)
        else:
            return None
    return value


def _pairs(roles: Mapping[str, Any]) -> list[Message]:
    """Questions and answers that a path gave as lists, as the turns of one conversation."""
    asked, answered = roles["prompt"], roles["answer"]
    if len(asked) != len(answered):
        raise ValueError(f"{len(asked)} prompts, but {len(answered)} answers")
    turns = zip(asked, answered, strict=True)
    return [one for pair in turns for one in turn(*(text({"turn": part}, "turn") for part in pair))]


def spoken(value: Any) -> Any:
    """A dialogue of named speakers as one text, a line a turn; anything else as it is."""
    turns = structured(value)
    if not isinstance(turns, (list, tuple)) or not turns or not all(isinstance(one, Mapping) for one in turns):
        return value
    lines = []
    for one in turns:
        name = next((one[key] for key in ("speaker", "name", "role", "from") if one.get(key)), None)
        said = next((one[key] for key in ("text", "content", "value", "utterance") if one.get(key) is not None), None)
        if not isinstance(name, str) or not isinstance(said, str):
            return value
        lines.append(f"{name}: {said}")
    return "\n".join(lines)
