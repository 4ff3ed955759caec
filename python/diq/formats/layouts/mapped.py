"""Layouts that the user describes: ``--map prompt=frage,answer=antwort``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from diq.base.errors import UsageError
from diq.base.sample import Message
from diq.base.text import did_you_mean
from diq.formats.layouts.chat import messages, with_system
from diq.formats.layouts.choices import multiple_choice, options, prompt
from diq.formats.layouts.layout import Layout, Values, text, turn
from diq.formats.layouts.preference import pair, prompt_messages

ROLES = ("system", "prompt", "reasoning", "answer", "messages", "chosen", "rejected", "options", "label")
_NEEDED = ({"messages"}, {"chosen", "rejected"}, {"prompt", "answer"}, {"prompt", "options", "label"})
_OPTIONAL = ("system", "reasoning", "options", "label")


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

    def convert(row: Values) -> list[Message] | tuple[list[Message], list[Message]]:
        roles: dict[str, Any] = {role: row.get(column) for role, column in columns.items()}
        if "messages" in roles:
            return with_system(roles, messages(roles["messages"]))
        if "chosen" in roles:
            before = prompt_messages(roles.get("prompt"))
            return pair(with_system(roles, before) if before else before, roles["chosen"], roles["rejected"])
        system, reasoning = text(roles, "system"), text(roles, "reasoning")
        if "label" not in roles:
            asked = text(roles, "prompt")
            if roles.get("options") is not None:
                asked = prompt(asked, options(roles["options"]))
            return turn(asked, text(roles, "answer"), reasoning=reasoning, system=system)
        choices = options(roles["options"])
        made = multiple_choice(
            roles, question="prompt", choices=choices, right=roles["label"], reasoning=("reasoning",)
        )
        return [{"role": "system", "content": system}, *made] if system else made

    # an optional role may be missing in a row; the others make it a reject
    needed = tuple((column,) for role, column in columns.items() if role not in _OPTIONAL)
    return Layout("map", needed, convert, frozenset(columns.values()))
