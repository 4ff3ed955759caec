"""A command line that does what options say, as words and as it is typed in a shell."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from typing import Any

from diq.base.options import Field


def option_words(known: Mapping[str, Field], options: Mapping[str, Any]) -> list[str]:
    """Words behind the name of a command: what goes without a name first, unless it looks like an option.

    Args:
        known: the options of the command, by keyword; what is not among them is left out.
        options: keyword to value.
    """
    first: list[str] = []
    rest: list[str] = []
    for key, value in options.items():
        if key in known and known[key].option.positional:
            first += _texts(value)
        elif key in known:
            rest += _words(known[key], value)
    return [*rest, "--", *first] if any(one.startswith("-") for one in first) else [*first, *rest]


def _words(one: Field, value: Any) -> Sequence[str]:
    if value is None:
        return [one.flag, one.option.none] if one.option.none else []
    if one.kind == "flag":
        # a switch that is off by default has no word for off
        off = [] if one.default is False else [f"--no-{one.flag.removeprefix('--')}"]
        return [one.flag] if value else off
    if one.kind == "mapping":
        return [word for key, each in value.items() for word in (one.flag, f"{key}={each}")]
    if one.kind == "numbers":
        return [one.flag, *map(str, value)]
    # a value that begins with a hyphen would be taken for an option
    pairs = ([f"{one.flag}={each}"] if each.startswith("-") else [one.flag, each] for each in _texts(value))
    return [word for pair in pairs for word in pair]


def _texts(value: Any) -> list[str]:
    return [str(one) for one in (value if isinstance(value, (list, tuple)) else [value])]


def shell(words: Sequence[str]) -> str:
    """Words as they are typed in a shell."""
    return " ".join(map(quoted, words))


def quoted(word: str) -> str:
    """A word as it is typed in a shell."""
    # a query is full of single quotes
    return f'"{word}"' if "'" in word and not set(word) & set('"$`\\!') else shlex.quote(word)
