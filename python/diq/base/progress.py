"""How a stage tells how far it is."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

Progress = Callable[[str, int, int], None]
"""Called with what is being done, how much of it is done, and how much there is (0: unknown)."""


class NotedProgress(Protocol):
    """A progress that also takes a note to show beside, such as tokens and their cost."""

    def __call__(self, what: str, done: int, total: int, note: str = "", /) -> None:
        """Show how far it is."""
