"""Errors that a user can cause, each with a hint; only ``cli/`` prints them.

Exit codes follow the command-line contract: 1 a run failed, 2 wrong use.
"""

from __future__ import annotations


class DiqError(Exception):
    """Base of all errors that a user can meet: one line that says what was asked and found, and a hint.

    Args:
        message: what was asked and what was found, one line.
        hint: what to do about it, one line; empty when the message says it all.
    """

    exit_code = 1

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message}\nhint: {self.hint}" if self.hint else self.message


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
