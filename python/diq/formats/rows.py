"""What a container gives: rows, rows that cannot be read, and how far the reading has come."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any, NamedTuple

EXCERPT = 2000  # characters of a bad row that are kept


class Row(NamedTuple):
    """A row: ``line`` is the 1-based line of a text file, or the 1-based row of any other container."""

    line: int
    values: dict[str, Any]


class BadRow(NamedTuple):
    """A row that cannot be used, with the reason and the start of its text."""

    line: int
    reason: str
    content: str


@dataclass(slots=True)
class Meter:
    """How much of a source is read, in the container's own unit (bytes of the file, or rows).

    Attributes:
        done: how much of it.
        total: how much there is.
        notes: what the user is to know of it beside its rows, each once.
    """

    done: int = 0
    total: int = 0
    notes: dict[str, None] = field(default_factory=dict)


def excerpt(value: Any) -> str:
    """The start of a row as text, for people who look at the rejects."""
    if isinstance(value, bytes):
        return value[: 4 * EXCERPT].decode("utf-8", errors="replace")[:EXCERPT]
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
    # lone surrogates cannot be stored
    return text[:EXCERPT].encode("utf-8", errors="replace").decode("utf-8")
