"""A progress bar with rate and time left, the same for commands and in notebooks."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from typing import Any

from diq.base.progress import NotedProgress
from diq.base.text import visible


def in_notebook() -> bool:
    """Whether this is a kernel of Jupyter, VS Code or Colab; of marimo, which shows what is printed, it is not."""
    # who has not imported IPython is in none of them, and need not wait for it
    shell = sys.modules.get("IPython")
    running = shell.get_ipython() if shell is not None else None
    return running is not None and type(running).__name__ in ("ZMQInteractiveShell", "Shell")


@contextlib.contextmanager
def bar() -> Iterator[NotedProgress]:
    """Show a bar for each thing that is told of, on stderr or in the cell of a notebook."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
    from rich.progress import Progress as Bar

    shown = Bar(
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]}"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}", markup=False),
        console=Console(stderr=True),
    )
    tasks: dict[str, Any] = {}
    with shown:

        def report(what: str, done: int, total: int, note: str = "", /) -> None:
            if what not in tasks:
                tasks[what] = shown.add_task(visible(what), total=total, rate="", note="")
            speed = shown.tasks[tasks[what]].finished_speed or shown.tasks[tasks[what]].speed
            shown.update(tasks[what], completed=done, total=total, rate=_rate(speed), note=visible(note))

        yield report


def _rate(speed: float | None) -> str:
    """Steps a second; a slow one with its first decimal."""
    return f"{speed:,.{0 if speed >= 10 else 1}f}/s" if speed else ""
