"""What commands print: data to stdout, progress and logs to stderr."""

from __future__ import annotations

import contextlib
import json
import logging
import sys
from collections.abc import Iterator, Sequence
from typing import Any

import click

from diq.base.bar import bar
from diq.base.progress import NotedProgress
from diq.base.sample import Message
from diq.base.text import cell, short


def print_json(value: Any) -> None:
    """One JSON object on one line on stdout; what is not a number (NaN) is null."""
    click.echo(json.dumps(_finite(value), ensure_ascii=False, default=str))


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if value == value and abs(value) != float("inf") else None
    if isinstance(value, dict):
        return {key: _finite(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(one) for one in value]
    return value


def table(title: str, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    """A table on stdout; numbers are right-aligned."""
    # rich costs start-up time, so only commands that print tables pay for it
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    grid = Table(title=title, title_justify="left", header_style="bold")
    for i, column in enumerate(columns):
        numeric = all(isinstance(row[i], int | float) or row[i] in (None, "") for row in rows) and bool(rows)
        grid.add_column(column, justify="right" if numeric else "left", overflow="fold")
    for row in rows:
        grid.add_row(*(Text(cell(value)) for value in row))
    # a pipe has no width of its own; a table that is cut off there would lose data
    Console(width=None if sys.stdout.isatty() else 160, soft_wrap=False).print(grid)


class _Stderr(logging.Handler):
    """Writes to whatever stderr is at that moment."""

    def emit(self, record: logging.LogRecord) -> None:
        """One line."""
        click.echo(self.format(record), err=True)


def conversation_lines(messages: Sequence[Message], *, width: int | None = 200) -> list[str]:
    """Turns and their parts, a line each, or whole where ``width`` is None."""
    found = []
    for one in messages:
        parts = [
            (one["role"], one["content"]),
            *(("call", json.dumps(call, ensure_ascii=False)) for call in one.get("tool_calls", ())),
            *((("tools", json.dumps(one["tools"], ensure_ascii=False)),) if "tools" in one else ()),
        ]
        if "reasoning_content" in one:
            parts.insert(0, ("reasoning", one["reasoning_content"]))
        for name, text in parts:
            if text or name not in ("assistant", "tool"):
                found.append(f"{name:<10} {text if width is None else short(text, width=width)}")
    return found


def start_logging() -> None:
    """Send diq's own log lines to stderr."""
    handler = _Stderr()
    handler.setFormatter(logging.Formatter("%(levelname)s: %(message)s"))
    logger = logging.getLogger("diq")
    logger.handlers = [handler]
    logger.setLevel(logging.INFO)
    logger.propagate = False


@contextlib.contextmanager
def progress(*, quiet: bool) -> Iterator[NotedProgress | None]:
    """A progress bar on stderr with rate and time left; None when quiet or when stderr is no terminal."""
    start_logging()
    if quiet or not sys.stderr.isatty():
        yield None
        return
    with bar() as report:
        yield report
