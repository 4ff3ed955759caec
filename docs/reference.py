"""Writes docs/cli.md and docs/python.md from the commands and the records of options: ``make docs``.

A test keeps the pages equal to what this writes, so they cannot say anything that the code does not.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any, get_args

import click

import diq
from diq.base.options import Field, Options, fields_of
from diq.cli import COMMANDS
from diq.cli import diq as root

HERE = Path(__file__).parent
_NOTE = "<!-- written by docs/reference.py (`make docs`) from the code; edit the records of options, not this page -->"


def cli_page() -> str:
    """Every command with its arguments and options."""
    parts = [
        "# The command line",
        _NOTE,
        "Commands in the order of use. Data goes to stdout, progress and logs to stderr; exit code 0 is done, 1 a run "
        "that failed, 2 wrong use, 130 stopped by Ctrl-C. `--store FILE` and `--debug` may stand before the command. "
        "An option is called the same in [Python](python.md) and in [recipes](recipes.md), with `_` for `-`. One that "
        "is given and has no effect beside the others is refused. `~` at the start of a path is the home folder, also "
        "in quotes.",
        "\n".join(f"- [`diq {name}`](#{_anchor(name)}): {text}" for name, text in COMMANDS.items()),
    ]
    for name in COMMANDS:
        command = root.get_command(click.Context(root), name)
        assert command is not None
        parts += _command(f"diq {name}", command)
    return "\n\n".join(parts) + "\n"


def _anchor(name: str) -> str:
    return f"diq-{name}".replace(" ", "-")


def _command(path: str, command: click.Command) -> Iterator[str]:
    yield f"## `{path}`"
    if isinstance(command, click.Group):
        yield _paragraphs(command.help or "")
        for name, inner in command.commands.items():
            yield from _command(f"{path} {name}", inner)
        return
    arguments = [one for one in command.params if isinstance(one, click.Argument)]
    words = [one.make_metavar(click.Context(command)) for one in arguments]
    yield f"`{' '.join([path, '[OPTIONS]', *words])}`"
    yield _paragraphs(command.help or "")
    rows = [_option(one) for one in command.params if isinstance(one, click.Option)]
    yield "\n".join(["| option | is |", "| --- | --- |", *rows])


def _option(one: click.Option) -> str:
    names = ", ".join(f"`{name}`" for name in sorted([*one.opts, *one.secondary_opts], key=len))
    value = "" if one.is_flag else f" `{one.make_metavar(click.Context(click.Command('x')))}`"
    told = one.help or ""
    if one.required:
        told += " Required."
    elif one.show_default and one.default not in (None, (), False):
        shown = " ".join(map(str, one.default)) if isinstance(one.default, tuple) else one.default
        if one.is_flag:
            shown = "on"
        told += f"  [default: {shown}]"
    return f"| {names}{_cell(value)} | {_cell(told)} |"


def _cell(text: str) -> str:
    return re.sub(r"\s+", " ", text).replace("|", "\\|").rstrip()


def _paragraphs(text: str) -> str:
    """A docstring of click as Markdown: a verbatim block stays one."""
    made = []
    for part in inspect.cleandoc(text).split("\n\n"):
        if part.startswith("\b"):
            head, *lines = part.lstrip("\b\n").splitlines()
            made.append("\n".join([head, "```", *(line.strip() for line in lines), "```"]))
        else:
            made.append(" ".join(part.split()))
    return "\n\n".join(made)


def python_page() -> str:
    """Every name of the package: verbs with their options, and the classes."""
    parts = [
        "# Python",
        _NOTE,
        "`import diq` loads no model library; a verb loads what it needs when it is first used. `store` is "
        "`$DIQ_STORE`, else `diq.duckdb`; paths are texts or `os.PathLike`; where a list is meant, a single text will "
        "do. A value that an option does not take, or an option that is given and has no effect beside the others, is "
        "a `diq.DiqError` of one line with a `hint`; its text calls options as here, `message` and `hint` as the "
        "command line does. Results have a short repr and `to_dict()`, and show themselves as a table in notebooks, "
        "where verbs also show how far they are. [Charts](plots.md) and `diq.Store` are for looking.",
    ]
    for name in sorted(one for one in diq.__all__ if not one[0].isupper()):
        parts += _function(name, getattr(diq, name))
    for name in sorted(one for one in diq.__all__ if one[0].isupper()):
        parts += _class(name, getattr(diq, name))
    parts += ["## `diq.plot`", _plain(inspect.getdoc(diq.plot) or "")]
    for name in diq.plot.__all__:
        parts += _function(f"plot.{name}", getattr(diq.plot, name))
    return "\n\n".join(parts) + "\n"


def _function(name: str, function: Any) -> Iterator[str]:
    record = getattr(function, "record", None)
    signature = inspect.signature(function)
    positional = [key for key, one in signature.parameters.items() if one.kind is one.POSITIONAL_OR_KEYWORD]
    yield f"## `diq.{name}({', '.join([*positional, '...'])})`"
    doc = inspect.getdoc(function) or ""
    if record is None:
        yield f"```text\n{name}{signature}\n\n{doc}\n```"
        return
    head, rest = _around_args(doc)
    yield _plain(head)
    yield _fields(record)
    if rest:
        yield _sections(rest)


def _around_args(doc: str) -> tuple[str, str]:
    head, _, tail = doc.partition("\nArgs:\n")
    found = re.search(r"^(Returns|Raises):$", tail, re.MULTILINE)
    return head.strip(), tail[found.start() :].strip() if found else ""


def _sections(text: str) -> str:
    """``Returns`` and ``Raises`` as lists."""
    lines = []
    for line in text.splitlines():
        if re.fullmatch(r"(Returns|Raises):", line):
            lines += ["", f"{line}", ""]
        elif line.startswith("    ") and not line.startswith("     "):
            lines.append(f"- {_plain(line.strip())}")
        elif line.strip():
            lines[-1] += f" {_plain(line.strip())}"
    return "\n".join(lines).strip()


def _plain(text: str) -> str:
    return text.replace("``", "`")


def _fields(record: type) -> str:
    rows = (
        f"| `{one.name}` | `{_cell(_type(one))}` | {_cell(_default(one))} | {_cell(_about(one))} |"
        for one in fields_of(record).values()
    )
    return "\n".join(["| option | type | default | is |", "| --- | --- | --- | --- |", *rows])


def _type(one: Field) -> str:
    if one.record is not None:
        return f"{one.record.__name__}{' | None' if one.optional else ''}"
    kinds = {
        "flag": "bool",
        "int": "int",
        "float": "float",
        "text": "str",
        "name": "str or path",
        "path": "path",
        "texts": "str or list",
        "paths": "path or list",
        "mapping": "dict",
        "numbers": "tuple",
        "other": "callable",
    }
    if one.option.choices:
        kind = " | ".join(f'"{choice}"' for choice in one.option.choices)
        kind = f"list of {kind}" if one.kind == "texts" else kind
    else:
        kind = "str | float" if one.kind == "text" and float in get_args(one.type) else kinds[one.kind]
    return f"{kind} | None" if one.optional else kind


def _default(one: Field) -> str:
    if one.required:
        return "required"
    return one.option.default or f"`{one.default!r}`"


def _about(one: Field) -> str:
    return f"{one.option.about}{f' Range: {one.option.range}.' if one.option.range else ''}"


def _class(name: str, kind: type) -> Iterator[str]:
    yield f"## `diq.{name}`"
    if issubclass(kind, Options):
        yield _plain(inspect.getdoc(kind) or "")
        yield _fields(kind)
    else:
        yield f"```text\n{inspect.getdoc(kind) or ''}\n```"
        methods = [one for one in vars(kind) if not one.startswith("_") and callable(getattr(kind, one))]
        told = {one: (inspect.getdoc(getattr(kind, one)) or "").partition("\n")[0] for one in methods}
        yield "\n".join(f"- `.{one}{_call(getattr(kind, one))}`: {_plain(text)}" for one, text in told.items() if text)


def _call(function: Any) -> str:
    """The names of the arguments that a method takes."""
    names = [key for key in inspect.signature(function).parameters if key != "self"]
    return f"({', '.join(names)})"


PAGES = {"cli.md": cli_page, "python.md": python_page}

if __name__ == "__main__":
    import_module("diq.cli")
    for page, make in PAGES.items():
        (HERE / page).write_text(make(), encoding="utf-8")
        print(f"wrote docs/{page}")
