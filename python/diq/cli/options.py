"""Options that several commands share."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from diq import config

Command = TypeVar("Command", bound=Callable[..., Any])


def store_option(command: Command) -> Command:
    """``--store PATH``, passed on as a ``Path`` named ``store``."""
    return click.option(
        "--store",
        envvar=config.STORE_VARIABLE,
        default=config.DEFAULT_STORE,
        show_default=True,
        show_envvar=True,
        type=click.Path(dir_okay=False, path_type=Path),
        help="The DuckDB file that holds everything.",
    )(command)


def output_options(command: Command) -> Command:
    """``--json`` (``as_json``): one JSON object on stdout; ``--quiet``: no progress."""
    command = click.option("--quiet", "-q", is_flag=True, help="No progress, only the result.")(command)
    return click.option("--json", "as_json", is_flag=True, help="One JSON object on stdout; logs on stderr.")(command)


def device_options(command: Command) -> Command:
    """``--device`` and ``--dtype``."""
    command = click.option(
        "--dtype",
        type=click.Choice(["auto", "float32", "bfloat16", "float64"]),
        default="auto",
        show_default=True,
        help="Precision of the model; auto is float32 on a CPU and bfloat16 on a GPU.",
    )(command)
    return click.option(
        "--device",
        default="auto",
        show_default=True,
        help="auto, cpu, cuda, cuda:1, ...; auto takes a GPU if there is one.",
    )(command)


def pairs(values: tuple[str, ...], option: str) -> dict[str, str]:
    """``a=b`` texts (repeated, or separated by commas) as a dict.

    Raises:
        click.BadParameter: a text without ``=``.
    """
    found = {}
    for value in values:
        for part in value.split(","):
            key, equals, name = part.partition("=")
            if not equals or not key.strip() or not name.strip():
                raise click.BadParameter(f"`{part}` is not of the form NAME=COLUMN", param_hint=option)
            found[key.strip()] = name.strip()
    return found
