"""What commands print: data to stdout, progress and logs to stderr."""

from __future__ import annotations

import contextlib
import errno
import io
import json
import logging
import os
import sys
from collections.abc import Iterator, Sequence
from typing import Any

import click

from diq.base.bar import bar
from diq.base.errors import RunFailedError
from diq.base.progress import NotedProgress
from diq.base.sample import Message
from diq.base.text import cell, short, visible


def forgiving_streams() -> None:
    """What stdout or stderr has no letter for is printed as its code: a name of a file, or any text on ASCII."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


@contextlib.contextmanager
def printed() -> Iterator[None]:
    """For a block that prints: stdout that takes no more is one line with a hint.

    Raises:
        RunFailedError: the disk behind stdout is full or broken.
    """
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EFBIG):
            raise
        # what waits in the buffer has no place either, and Python would try at its end
        with contextlib.suppress(OSError, ValueError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise RunFailedError(
            f"standard output cannot be written: {os.strerror(error.errno)}", "send it to a place with space"
        ) from error


def say(text: str = "", *, err: bool = False, bold: bool = False) -> None:
    """Lines for people; control characters in names and texts of the data are shown as codes, not sent."""
    with printed():
        click.echo(click.style(visible(text), bold=True) if bold else visible(text), err=err)


def write(text: str) -> None:
    """A document on stdout, as it is."""
    with printed():
        click.echo(text, nl=False)


def print_json(value: Any) -> None:
    """One JSON object on one line on stdout; what is not a number (NaN) is null."""
    # another encoding than UTF-8 may lack a letter, and its code must be one of JSON's
    is_utf8 = (sys.stdout.encoding or "utf-8").lower().replace("-", "") == "utf8"
    write(json.dumps(_finite(value), ensure_ascii=not is_utf8, default=str) + "\n")


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

    grid = Table(title=Text(visible(title)), title_justify="left", header_style="bold")
    for i, column in enumerate(columns):
        numeric = all(isinstance(row[i], int | float) or row[i] in (None, "") for row in rows) and bool(rows)
        grid.add_column(Text(visible(column)), justify="right" if numeric else "left", overflow="fold")
    for row in rows:
        grid.add_row(*(Text(visible(cell(value))) for value in row))
    # a pipe has no width of its own; a table that is cut off there would lose data
    with printed():
        Console(width=None if sys.stdout.isatty() else 160, soft_wrap=False).print(grid)


class _Stderr(logging.Handler):
    """Writes to whatever stderr is at that moment."""

    def emit(self, record: logging.LogRecord) -> None:
        """One line."""
        say(self.format(record), err=True)


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
