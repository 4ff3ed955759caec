"""Errors that a user can cause, each with a hint; only ``cli/`` prints them.

Exit codes follow the command-line contract: 1 a run failed, 2 wrong use.
"""

from __future__ import annotations

import re

# an option as the command spells it, and what is its value beyond doubt; a word after it may be one, or go on
_FLAG = re.compile(r"(?<![\w-])--([a-z][a-z-]*)(?: (?=[A-Z]+\b|-?(?:\d|nan\b|inf\b)))?")


class DiqError(Exception):
    """Base of all errors that a user can meet: one line that says what was asked and found, and a hint.

    Both call options as the command does (``--epochs 0``); ``str`` calls them as Python and recipes do (``epochs=0``).

    Args:
        message: what was asked and what was found, one line.
        hint: what to do about it, one line; empty when the message says it all.
    """

    exit_code = 1

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    @property
    def told(self) -> str:
        """Message and hint on one line, as they are told among others."""
        return f"{self.message}: {self.hint}" if self.hint else self.message

    def __str__(self) -> str:
        return as_keywords(f"{self.message}\nhint: {self.hint}" if self.hint else self.message)


class UsageError(DiqError):
    """The request itself is wrong: an unknown name, a ratio of 1.5, a missing file. Exit code 2."""

    exit_code = 2


class InputError(UsageError):
    """An input file cannot be read or recognised as a whole (a bad row is a reject, not an error)."""


class StoreError(DiqError):
    """The store cannot be opened, locked, migrated or written."""


class ModelError(UsageError):
    """A model folder or hub id cannot be used as asked."""


class MissingScoresError(UsageError):
    """A selection was asked for, but the scores that it needs are not in the store."""


class RunFailedError(DiqError):
    """A run started and could not be finished; what was finished is kept."""


def as_keywords(text: str) -> str:
    """A message of a command with its options as keywords: ``--few-shot 0`` is ``few_shot=0``.

    What stands between backticks is a command line or a user's own, and stays.
    """
    parts = text.split("`")
    # every other part is between two of them
    parts[::2] = [_FLAG.sub(_keyword, part) for part in parts[::2]]
    return "`".join(parts)


def _keyword(match: re.Match[str]) -> str:
    return match[1].replace("-", "_") + ("=" if match[0].endswith(" ") else "")
