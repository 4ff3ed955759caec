"""Layouts that the user describes: ``--map prompt=frage,answer=antwort``, also by a path (``data.turns.user``)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from diq.base.errors import UsageError
from diq.base.sample import Message
from diq.base.text import amount, did_you_mean, short
from diq.formats.layouts.chat import messages
from diq.formats.layouts.choices import multiple_choice, options, prompt
from diq.formats.layouts.layout import Layout, Values, is_off, is_on, structured, text, turn, with_beside
from diq.formats.layouts.preference import pair, prompt_messages

ROLES = (
    "system", "prompt", "reasoning", "answer", "messages", "chosen", "rejected", "options", "label", "input", "context",
    "history", "tools",
)  # fmt: skip
# what makes a sample, with what else has a use there; the first that fits counts
_HEADS: tuple[tuple[frozenset[str], frozenset[str]], ...] = tuple(
    (frozenset(needed.split()), frozenset(more.split()))
    for needed, more in (
        ("messages chosen rejected", ""),
        ("messages rejected", ""),
        ("messages", "answer label"),
        ("chosen rejected", "prompt"),
        ("prompt answer rejected", ""),
        ("prompt options label", ""),
        ("prompt answer", "options label"),
    )
)
_BESIDE = ("system", "reasoning", "input", "context", "history", "tools")
_OPTIONAL = ("options", "label", *_BESIDE)


def mapped(columns: Mapping[str, str]) -> Layout:
    """The layout in which each role is read from the named column.

    Raises:
        UsageError: a role is unknown, the roles do not make a sample, or one of them has no use beside the others.
    """
    for role in columns:
        if role not in ROLES:
            raise UsageError(f"unknown role `{role}` in --map", did_you_mean(role, ROLES))
    head = next(((needed, more) for needed, more in _HEADS if needed <= columns.keys()), None)
    if head is None:
        raise UsageError(
            f"--map with only {', '.join(columns) or 'nothing'} does not make a sample",
            "give prompt and answer; prompt, options and label; chosen and rejected; or messages",
        )
    if left := [role for role in columns if role not in head[0] | head[1] | set(_BESIDE)]:
        raise UsageError(
            f"--map: {', '.join(left)} has no use beside {', '.join(role for role in ROLES if role in head[0])}",
            "leave out the one or the other",
        )
    for column, n in Counter(columns.values()).items():
        if n > 1:
            raise UsageError(f"--map reads column `{column}` twice", "give each role a column of its own")

    def convert(row: Values) -> list[Message] | tuple[list[Message], list[Message]]:
        roles: dict[str, Any] = {role: value_at(row, column) for role, column in columns.items()}
        made = _converted(roles)
        turns, refused = made if isinstance(made, tuple) else (made, None)
        turns = with_beside(roles, roles.keys() & set(_BESIDE), turns, strict=True)
        return turns if refused is None else (turns, refused)

    # an optional role may be missing in a row; the others make it a reject
    optional = {role: column for role, column in columns.items() if role not in head[0] or role in _OPTIONAL}
    needed = tuple(_heads(column) for role, column in columns.items() if role not in optional)
    return Layout(
        "map",
        needed,
        convert,
        frozenset(name for column in columns.values() for name in _heads(column)),
        note=lambda rows: _never_there(optional, rows),
    )


def _never_there(columns: Mapping[str, str], rows: Sequence[Values]) -> str:
    """The optional roles whose columns no row has."""
    gone = [
        f"{role}={column}"
        for role, column in columns.items()
        if all(column not in row and value_at(row, column) is None for row in rows)
    ]
    if not gone:
        return ""
    names = list(dict.fromkeys(name for row in rows for name in row))
    close = did_you_mean(gone[0].partition("=")[2], names)
    return f"--map {','.join(gone)} finds nothing in the first {amount(len(rows), 'row')}; {close}"


def _converted(roles: dict[str, Any]) -> list[Message] | tuple[list[Message], list[Message]]:
    if "options" not in roles and "label" in roles:
        _refuse_bad(roles["label"])
    if "chosen" in roles:
        before = messages(roles["messages"]) if "messages" in roles else prompt_messages(roles.get("prompt"))
        return pair(before, roles["chosen"], roles["rejected"])
    if "messages" in roles:
        return _of_messages(messages(roles["messages"]), roles)
    if isinstance(roles["prompt"], list) and isinstance(roles.get("answer"), list):
        if "rejected" in roles:
            raise ValueError("several answers have no refused one")
        return _pairs(roles)
    if "rejected" in roles:
        return pair(prompt_messages(roles["prompt"]), roles["answer"], roles["rejected"])
    roles["prompt"] = spoken(roles["prompt"])
    system, reasoning = text(roles, "system", lists=True), text(roles, "reasoning", lists=True)
    if "answer" in roles:
        asked = text(roles, "prompt")
        if roles.get("options") is not None:
            asked = prompt(asked, options(roles["options"]))
        return turn(asked, text(roles, "answer"), reasoning=reasoning, system=system)
    choices = options(roles["options"])
    roles["reasoning"] = reasoning
    made = multiple_choice(roles, question="prompt", choices=choices, right=roles["label"], reasoning=("reasoning",))
    return [{"role": "system", "content": system}, *made] if system else made


def _of_messages(turns: list[Message], roles: Values) -> list[Message] | tuple[list[Message], list[Message]]:
    if "rejected" in roles:
        return pair(turns[:-1], turns[-1]["content"], roles["rejected"])
    answer = text(roles, "answer")
    if not answer or (turns[-1]["role"] == "assistant" and turns[-1]["content"].strip() == answer.strip()):
        return turns
    if turns[-1]["role"] == "assistant":
        raise ValueError("the messages end with another answer already")
    return [*turns, {"role": "assistant", "content": answer}]


def _refuse_bad(mark: Any) -> None:
    """A label that is no option's says whether the answer is a good one, as in TRL's KTO."""
    if mark is None or str(mark).strip() == "" or is_on(mark):
        return
    if is_off(mark):
        raise ValueError(f"the answer is marked as a bad one (label is {str(mark).strip().lower()})")
    raise ValueError(f"the label `{short(mark)}` is neither yes nor no; with options it would be the right one")


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
        raise ValueError(f"{amount(len(asked), 'prompt')}, but {amount(len(answered), 'answer')}")
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
