"""Options that several commands share."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from diq.base import config

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


def _temperature(value: str | float) -> float | None:
    """A number, or None for ``default``: then none is sent."""
    return None if value == "default" else float(value)


def server_options(command: Command) -> Command:
    """The model to ask, its server, and how: the fields of ``diq.Server``."""
    options = (
        click.option("--model", required=True, metavar="NAME", help="Name of the model, as its server knows it."),
        click.option(
            "--base-url",
            metavar="URL",
            help="Address of an OpenAI-compatible server, such as http://localhost:8000/v1; "
            "default $OPENAI_BASE_URL, else OpenAI's.",
        ),
        click.option(
            "--api-key-variable",
            metavar="NAME",
            default="OPENAI_API_KEY",
            show_default=True,
            help="Environment variable that holds the key, if the server wants one; the key is never stored or shown.",
        ),
        click.option(
            "--temperature",
            type=_temperature,
            metavar="NUMBER",
            default=0.0,
            show_default=True,
            help="Of the sampling; `default` sends none, for models that take only their own. Part of the run.",
        ),
        click.option(
            "--max-tokens",
            type=int,
            default=2048,
            show_default=True,
            help="Tokens of a reply, thinking included.",
        ),
        click.option("--concurrency", type=int, default=8, show_default=True, help="Requests that are open at once."),
        click.option(
            "--timeout",
            "timeout_s",
            type=float,
            default=120.0,
            show_default=True,
            help="Seconds without a sign of the server after which a request has failed.",
        ),
        click.option(
            "--retries",
            type=int,
            default=6,
            show_default=True,
            help="How often a request is repeated after 429, 5xx, a time-out or a broken connection, waiting longer "
            "each time.",
        ),
        click.option("--price-prompt", type=float, help="Price of a million prompt tokens, to show what it costs."),
        click.option("--price-completion", type=float, help="Price of a million tokens of replies."),
    )
    for option in reversed(options):
        command = option(command)
    return command


def pairs(values: tuple[str, ...], option: str) -> dict[str, str]:
    """``a=b`` texts (repeated, or separated by commas) as a dict; what follows a comma without ``=`` is still the name.

    Raises:
        click.BadParameter: a text without ``=``, or nothing on one side of it.
    """
    found: dict[str, str] = {}
    for value in values:
        key = ""
        for part in value.split(","):
            left, equals, right = part.partition("=")
            if key and not equals:
                found[key] += f",{part}"
                continue
            key = left.strip()
            if not equals or not key or not right.strip():
                raise click.BadParameter(f"`{part}` is not of the form NAME=COLUMN", param_hint=option)
            found[key] = right
    return {key: name.strip() for key, name in found.items()}
