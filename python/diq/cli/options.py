"""Options that several commands share."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar, get_args

import click
from click.core import ParameterSource

from diq.base import config
from diq.base.errors import UsageError
from diq.base.options import Field, fields_of

Command = TypeVar("Command", bound=Callable[..., Any])


def options_of(
    record: type, *, without: Collection[str] = (), optional: Collection[str] = ()
) -> Callable[[Command], Command]:
    """The arguments and options of a command from the fields of its verb's record, in their order.

    The command gets them as keywords by the fields' names; ``keywords`` makes the record's arguments of them, where a
    field is a record itself (its fields are options beside the others).

    Args:
        record: such as ``SelectOptions``.
        without: fields that the command does not offer.
        optional: fields that it can do without, though the record cannot.
    """

    def decorate(command: Command) -> Command:
        for field in reversed(list(_offered(record, without))):
            command = _parameter(replace(field, required=False) if field.name in optional else field)(command)
        return command

    return decorate


def keywords(record: type, given: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments of a record from what a command was given; what was left out is left to the record's defaults."""
    ctx = click.get_current_context()
    found = {}
    for name, field in fields_of(record).items():
        if field.kind == "record" and field.record is not None:
            inner = keywords(field.record, given)
            if inner:
                found[name] = field.record(**inner)
        elif name in given and not (given[name] == field.default and _is_left_out(ctx, name)):
            found[name] = given[name]
    return found


def _is_left_out(ctx: click.Context, name: str) -> bool:
    return ctx.get_parameter_source(name) is ParameterSource.DEFAULT


def refuse(names: Collection[str], beside: str, hint: str = "") -> None:
    """Refuse options of the current command that have no effect here; what a record's own options need, it tells.

    Args:
        names: of the parameters.
        beside: what they have no effect with or without.
        hint: what to do; by default to leave one of the two out, or to give what is missing.

    Raises:
        UsageError: one of them was given.
    """
    ctx = click.get_current_context()
    for parameter in ctx.command.params:
        if parameter.name in names and not _is_left_out(ctx, str(parameter.name)):
            name = parameter.opts[-1] if isinstance(parameter, click.Option) else str(parameter.name).upper()
            needed = "leave out one of the two" if beside.startswith("with ") else f"leave it out, or {beside}"
            raise UsageError(f"{name} has no effect {beside}", hint or needed.replace("without", "give"))


def _offered(record: type, without: Collection[str] = ()) -> Iterator[Field]:
    for name, field in fields_of(record).items():
        if name in without or field.kind == "other":
            continue
        if field.kind == "record" and field.record is not None:
            yield from _offered(field.record)
        else:
            yield field


def _parameter(field: Field) -> Callable[[Command], Command]:
    """The click parameter of a field."""
    option = field.option
    if option.positional:
        many = field.kind in ("texts", "paths")
        metavar = option.metavar or None
        return click.argument(field.name, nargs=-1 if many else 1, required=field.required, metavar=metavar)
    names = [*([f"-{option.short}"] if option.short else []), field.flag, field.name]
    default = option.default or ("" if field.default is None or field.default == () else None)
    told = option.about + (f"  [default: {option.default}]" if option.default else "")
    shared: dict[str, Any] = {"help": told, "required": field.required, "metavar": option.metavar or None}
    if field.kind == "flag":
        if field.default is False:
            return click.option(*names, is_flag=True, help=told)
        switch = f"{field.flag}/--no-{field.flag.removeprefix('--')}"
        shown = field.default is not None
        return click.option(switch, field.name, default=field.default, show_default=shown, help=told)
    if field.kind == "mapping":
        return click.option(*names, multiple=True, callback=_pairs, **shared)
    if not field.required:
        # to click 8.3 and above a default of None is a value, so a required option would count as given
        shared |= {"default": field.default, "show_default": default is None}
    if field.kind in ("texts", "paths"):
        kind = click.Choice(option.choices) if option.choices else click.STRING
        return click.option(*names, multiple=True, type=kind, **shared)
    if field.kind == "numbers":
        shared["nargs"] = len(get_args(field.type))
    elif option.choices:
        shared["type"] = click.Choice(option.choices)
    else:
        shared["type"] = _types(field)[field.kind]
    if field.name == "store":
        shared["callback"] = _store
    return click.option(*names, **shared)


def _store(ctx: click.Context, _parameter: click.Parameter, value: Path | None) -> Path | None:
    """The command's ``--store``, else the one before the command (``diq --store FILE status``)."""
    return value if value is not None else ctx.find_root().params.get("store")


def _types(field: Field) -> dict[str, Any]:
    number: Any = float
    if field.option.none:
        # a word for None, which leaving the option out is not
        def number(value: str | float) -> float | None:
            return None if value == field.option.none else float(value)

    return {"int": int, "float": number, "text": str, "name": str, "path": click.Path(path_type=Path)}


def _pairs(_ctx: click.Context, parameter: click.Parameter, values: tuple[str, ...]) -> dict[str, str] | None:
    return pairs(values, parameter.opts[-1]) or None


def store_option(command: Command) -> Command:
    """``--store PATH``, passed on as a ``Path`` named ``store``; for commands without a record of options."""

    def settle(ctx: click.Context, parameter: click.Parameter, value: Path | None) -> Path:
        return config.store_path(_store(ctx, parameter, value))

    return click.option(
        "--store",
        metavar="FILE",
        callback=settle,
        type=click.Path(path_type=Path),
        help="The DuckDB file that holds everything.  "
        f"[default: ${config.STORE_VARIABLE}, else {config.DEFAULT_STORE}]",
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
