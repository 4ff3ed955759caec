"""Options as data: what a verb takes, said once, for Python, the command line, recipes and the reference pages.

Each verb has one frozen dataclass, in ``options.py`` of its room. A field is an option: its name is the keyword in
Python and recipes and, with hyphens, the option of the command; type, default and ``Option`` (in ``Annotated``) say the
rest. ``verb`` makes a stage, which takes the record, into the function that users call, which takes the fields.
"""

from __future__ import annotations

import functools
import inspect
import math
import numbers
import os
import re
import textwrap
import types
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import MISSING, dataclass, fields, is_dataclass, replace
from decimal import Decimal
from pathlib import Path
from typing import (
    TYPE_CHECKING,
    Annotated,
    Any,
    Literal,
    ParamSpec,
    TypeVar,
    Union,
    get_args,
    get_origin,
    get_type_hints,
)

from diq.base.bar import bar, in_notebook
from diq.base.config import MAX_LENGTH, STORE_VARIABLE, expanded, store_path
from diq.base.errors import UsageError
from diq.base.extras import missing_package
from diq.base.progress import NotedProgress, Progress
from diq.base.text import did_you_mean, short

Parameters = ParamSpec("Parameters")
Record = TypeVar("Record")
Result = TypeVar("Result")

Kind = Literal[
    "flag", "int", "float", "text", "name", "path", "texts", "paths", "mapping", "numbers", "record", "other"
]


@dataclass(frozen=True, slots=True)
class Beside:
    """What an option has to do with another one of its record; stands in ``Annotated`` behind the ``Option``.

    Attributes:
        option: keyword of the other one.
        values: its values that count; none: any that asks for something.
    """

    option: str
    values: tuple[str, ...] = ()

    def holds(self, value: object) -> bool:
        """Whether the other option has such a value."""
        return value in self.values if self.values else bool(value)


class Needs(Beside):
    """Without the other one, an option has no effect."""

    __slots__ = ()


class Excludes(Beside):
    """With the other one, an option has no effect."""

    __slots__ = ()


@dataclass(frozen=True, slots=True)
class Option:
    """What the type of a field cannot say.

    Attributes:
        about: help, one or two sentences; paths and names of other options as a user types them.
        metavar: what stands for the value in a usage line.
        default: the default in words, where None stands for something that is found out.
        short: a letter that the command takes as well.
        choices: allowed values, where the type is no ``Literal``.
        least: smallest allowed number.
        most: largest allowed number.
        above: the number must be larger than this.
        below: the number must be smaller than this.
        hint: what to do about a number out of range; by default the range.
        name: a path that may as well be another name, of a model on a hub, say: it is kept as it is written.
        positional: the command takes it without a name.
        named: its texts are NAME=FILE (or a NAME that needs none), and the file is what is read.
        reads: kind of thing that it names: dataset, validation set, selection, path, model, source; for recipes.
        writes: likewise, for what the verb makes.
        given: the caller gives it (the store, the progress): no option of a step.
        check: refuses more values, with a ``UsageError`` of its own.
        none: word that stands for None on the command line, where leaving the option out means something else.
    """

    about: str
    metavar: str = ""
    default: str = ""
    short: str = ""
    choices: tuple[str, ...] = ()
    least: float | None = None
    most: float | None = None
    above: float | None = None
    below: float | None = None
    hint: str = ""
    name: bool = False
    positional: bool = False
    named: bool = False
    reads: str = ""
    writes: str = ""
    given: bool = False
    check: Callable[[Any], object] | None = None
    none: str = ""

    @property
    def range(self) -> str:
        """The allowed numbers in words; empty where all are."""
        if self.least is not None and self.most is not None:
            return f"{self.least} to {self.most}"
        parts = [
            f"more than {self.above}" if self.above is not None else "",
            f"{self.least} or more" if self.least is not None else "",
            f"less than {self.below}" if self.below is not None else "",
            f"at most {self.most}" if self.most is not None else "",
        ]
        return ", ".join(one for one in parts if one)

    def holds(self, number: float) -> bool:
        """Whether a number is in the range; one that is not finite never is."""
        return (
            math.isfinite(number)
            and (self.least is None or number >= self.least)
            and (self.most is None or number <= self.most)
            and (self.above is None or number > self.above)
            and (self.below is None or number < self.below)
        )


@dataclass(frozen=True, slots=True)
class Field:
    """An option of a record, resolved.

    Attributes:
        name: the keyword.
        kind: what its value is.
        optional: whether None is a value.
        required: whether it has no default.
        default: the default; None where there is none.
        type: the type as it is written, without its ``Option``.
        option: the rest.
        record: class of a nested record (kind ``record``).
        beside: the options that it needs or excludes.
    """

    name: str
    kind: Kind
    optional: bool
    required: bool
    default: Any
    type: Any
    option: Option
    record: type | None = None
    beside: tuple[Beside, ...] = ()

    @property
    def flag(self) -> str:
        """The option of the command, such as ``--difficulty-percentile``."""
        return "--" + self.name.replace("_", "-")

    @property
    def is_path(self) -> bool:
        """Whether its values are paths, or may be: a ``~`` at their start is the home folder."""
        return self.kind in ("path", "name", "paths") or self.option.name or self.option.reads in _FILES

    def shown_default(self) -> str:
        """The default as a page shows it; empty where there is nothing to show."""
        if self.option.default:
            return self.option.default
        if self.required or self.default is None or self.default == () or self.default is False:
            return ""
        if isinstance(self.default, tuple):
            return " ".join(map(str, self.default))
        return "on" if self.default is True else str(self.default)

    def read(self, value: Any) -> Any:
        """A value as the stage takes it: paths as ``Path``, a single text as a list of one, choices and ranges checked.

        Raises:
            BadValueError: the value is of another type, no choice, or out of range.
            UsageError: the option's own check refuses it.
        """
        if value is None:
            if self.optional or self.kind in ("other", "record"):
                return None
            raise BadValueError("needs a value")
        if self.kind in ("other", "record"):
            return value
        words, takes, make = _KINDS[self.kind]
        n = len(get_args(self.type)) if self.kind == "numbers" else None
        if not takes(value) or (n is not None and len(value) != n):
            raise BadValueError(f"needs {words if n is None else f'{n} numbers'}, not `{short(value)}`")
        made = make(value)
        if self.is_path:
            made = _expanded(made, named=self.option.named)
        for one in made if isinstance(made, tuple) else (made,):
            _check_letters(one)
            if self.option.choices and one not in self.option.choices:
                raise BadValueError(f"`{one}` is not known", did_you_mean(one, self.option.choices))
            if self.kind in ("int", "float", "numbers") and not self.option.holds(one):
                needed = self.option.range or "a finite number"
                raise BadValueError(f"{one} is out of range", self.option.hint or f"give {needed}")
            if self.option.check is not None:
                self.option.check(one)
        return made


def _expanded(made: Any, *, named: bool) -> Any:
    """A value as the stage takes it, with the home folder in place of ``~``."""
    if isinstance(made, tuple):
        return tuple(_expanded(one, named=named) for one in made)
    if isinstance(made, dict):
        return {key: expanded(one) for key, one in made.items()}
    if named:
        name, equals, file = made.partition("=")
        return name + equals + expanded(file)
    return Path(expanded(made)) if isinstance(made, Path) else expanded(made)


def _check_letters(value: Any) -> None:
    """Refuse what no store, no file of JSON and no system call takes."""
    if isinstance(value, dict):
        for pair in value.items():
            for one in pair:
                _check_letters(one)
    elif isinstance(value, str | Path):
        text = str(value)
        if "\0" in text:
            raise BadValueError(f"`{short(text)}` holds a character of code 0", "leave it out")
        try:
            text.encode()
        except UnicodeEncodeError:
            raise BadValueError(
                f"`{short(text)}` is no text in UTF-8", "a file of such a name needs another: `mv` renames it"
            ) from None


class BadValueError(Exception):
    """A value that an option does not take.

    Attributes:
        text: what is wrong, to be put behind the option's name.
        hint: what to do; empty where the text says it.
    """

    def __init__(self, text: str, hint: str = "") -> None:
        super().__init__(text)
        self.text, self.hint = text, hint


def _is_number(value: object) -> bool:
    # numbers of NumPy, too
    return isinstance(value, numbers.Real) and not isinstance(value, bool)


def _is_whole(value: object) -> bool:
    return isinstance(value, numbers.Integral) and not isinstance(value, bool)


def _is_text(value: object) -> bool:
    # names and ratios may look like numbers: `--dataset 7`, `ratio: 0.1`
    return isinstance(value, str | Decimal) or _is_number(value)


def _is_name(value: object) -> bool:
    return _is_text(value) or _is_path(value)


def _is_path(value: object) -> bool:
    return isinstance(value, str | os.PathLike)


def _is_list(value: object, holds: Callable[[object], bool]) -> bool:
    return isinstance(value, Sequence) and not isinstance(value, str) and all(map(holds, value))


def _is_mapping(value: object) -> bool:
    return isinstance(value, Mapping) and all(_is_text(one) or _is_path(one) for one in value.values())


# what an option may name that is a file or a folder
_FILES = ("path", "model", "source")

# of each kind: in words, whether a value is one, and the value that a stage gets
_KINDS: dict[str, tuple[str, Callable[[Any], bool], Callable[[Any], Any]]] = {
    "flag": ("true or false", lambda value: isinstance(value, bool), bool),
    "int": ("a whole number", _is_whole, int),
    "float": ("a number", _is_number, float),
    "text": ("a text", _is_text, str),
    "name": ("a name or a path", _is_name, str),
    "path": ("a path", _is_path, lambda value: Path(value)),
    "texts": (
        "a text or a list of texts",
        lambda value: _is_text(value) or _is_list(value, lambda one: _is_text(one) or _is_path(one)),
        lambda value: (str(value),) if _is_text(value) else tuple(map(str, value)),
    ),
    "paths": (
        "a path or a list of paths",
        lambda value: _is_path(value) or _is_list(value, _is_path),
        lambda value: (str(value),) if _is_path(value) else tuple(map(str, value)),
    ),
    "mapping": ("names with values", _is_mapping, lambda value: {str(key): str(one) for key, one in value.items()}),
    "numbers": ("a list of numbers", lambda value: _is_list(value, _is_number), tuple),
}


@functools.cache
def fields_of(record: type) -> dict[str, Field]:
    """The options of a record, by name, in the order in which it lists them (inherited ones last)."""
    hints = get_type_hints(record, include_extras=True)
    every = {one.name: one for one in fields(record)}
    # a dataclass leaves a field that a record says anew in the place where the base had it
    own = [name for name in inspect.get_annotations(record) if name in every]
    found = {}
    for one in [every[name] for name in dict.fromkeys([*own, *every])]:
        hint = hints[one.name]
        assert get_origin(hint) is Annotated, f"{record.__name__}.{one.name} has no Option"
        kept, option = hint.__origin__, next(extra for extra in hint.__metadata__ if isinstance(extra, Option))
        kind, optional, choices, nested = _read_type(kept)
        if choices:
            option = replace(option, choices=choices)
        if kind == "path" and option.name:
            kind = "name"
        required = one.default is MISSING and one.default_factory is MISSING
        default = None if one.default is MISSING else one.default
        beside = tuple(extra for extra in hint.__metadata__ if isinstance(extra, Beside))
        found[one.name] = Field(one.name, kind, optional, required, default, kept, option, nested, beside)
    return found


def _read_type(hint: Any) -> tuple[Kind, bool, tuple[str, ...], type | None]:
    """Kind of a type, whether it takes None, the choices of a ``Literal``, and the class of a record."""
    parts = list(get_args(hint)) if get_origin(hint) in (Union, types.UnionType) else [hint]
    optional = type(None) in parts
    parts = [one for one in parts if one is not type(None)]
    heads = [get_origin(one) or one for one in parts]
    if any(isinstance(one, type) and is_dataclass(one) for one in parts):
        return "record", optional, (), parts[0]
    if any(head is Sequence for head in heads):
        (inner,) = get_args(parts[heads.index(Sequence)])
        kind, _, choices, _ = _read_type(inner)
        return ("paths" if kind == "path" else "texts"), optional, choices, None
    if Mapping in heads:
        return "mapping", optional, (), None
    if tuple in heads:
        return "numbers", optional, (), None
    if Literal in heads:
        return "text", optional, tuple(get_args(parts[heads.index(Literal)])), None
    if os.PathLike in heads or Path in heads:
        return "path", optional, (), None
    for kind, ours in (("text", str), ("flag", bool), ("float", float), ("int", int)):
        if ours in parts:
            return kind, optional, (), None
    return "other", optional, (), None


def check_name(name: str) -> None:
    """The check of an option that gives something a name.

    Raises:
        BadValueError: it is blank, or reads as a number, which stands for another thing wherever names are taken.
    """
    if not name.strip():
        raise BadValueError("is blank", "leave it out, or give a name")
    if name.isdecimal():
        raise BadValueError(f"`{name}` reads as a number, such as runs and selections have", "put a letter into it")


def _asks_nothing(value: Any) -> bool:
    return value is None or value is False or (isinstance(value, Sequence | Mapping) and not value)


def _shown(field: Field, value: Any) -> str:
    """An option with its value, where that is a choice or a number."""
    shown = field.kind in ("text", "int", "float") and not field.is_path and not isinstance(value, bool)
    return f"{field.flag} {value}" if shown else field.flag


Made = TypeVar("Made", bound="Options")


@dataclass(frozen=True)
class Options:
    """Base of every record: whatever way one is made, its values are converted and checked.

    Attributes:
        given: names of the options that were given rather than left at their defaults.

    Raises:
        UsageError: a value that its option does not take, or an option that was given and has no effect beside the
            others; the message names the option and the value, or the other option.
    """

    def __new__(cls: type[Made], *_: Any, **given: Any) -> Made:
        made = super().__new__(cls)
        object.__setattr__(made, "given", frozenset(given))
        return made

    def __post_init__(self) -> None:
        record: type = type(self)
        for name, field in fields_of(record).items():
            try:
                value = field.read(getattr(self, name))
            except BadValueError as error:
                raise UsageError(f"{field.flag} {error.text}", error.hint or field.option.about) from None
            object.__setattr__(self, name, value)
        for name, value in self.settled(vars(self), self.given).items():
            object.__setattr__(self, name, value)
        for field, told in self.idle(vars(self), self.given):
            raise UsageError(f"{field.flag} {told.text}", told.hint)

    @classmethod
    def settled(cls, values: Mapping[str, Any], given: Collection[str]) -> dict[str, Any]:
        """All values, also of options whose default goes by others; those that were not given are defaults."""
        return dict(values)

    @classmethod
    def idle(cls, values: Mapping[str, Any], given: Collection[str]) -> Iterator[tuple[Field, BadValueError]]:
        """The options that were given and have no effect beside the others, each with what is to be said of it.

        Args:
            values: of all options.
            given: which of them were given; a default cannot be idle, nor can what asks for nothing (None, off, empty).
        """
        record: type = cls
        known, values = fields_of(record), cls.settled(values, given)
        for name, field in known.items():
            if name not in given or _asks_nothing(values[name]):
                continue
            for rule in field.beside:
                other, value = known[rule.option], values[rule.option]
                if isinstance(rule, Excludes) and rule.holds(value):
                    yield field, BadValueError(f"has no effect with {_shown(other, value)}", "leave out one of the two")
                elif isinstance(rule, Needs) and not rule.holds(value):
                    *most, last = rule.values or ("",)
                    needed = f"{other.flag} {', '.join(most)}{' or ' if most else ''}{last}".rstrip()
                    beside = f"without {needed}" if _asks_nothing(value) else f"with {_shown(other, value)}"
                    yield field, BadValueError(f"has no effect {beside}", f"leave it out, or give {needed}")

    if TYPE_CHECKING:

        @property
        def given(self) -> frozenset[str]: ...


def verb(
    record: Callable[Parameters, Record],
) -> Callable[[Callable[[Record], Result]], Callable[Parameters, Result]]:
    """Make a stage, which takes a record of options, into the function that takes the options.

    The signature is the record's, so type checkers, ``help`` and completion see every option with its default; the
    docstring gets a line for each. A wrong keyword is a ``TypeError`` that names the nearest right one.
    """
    assert isinstance(record, type)

    def decorate(stage: Callable[[Record], Result]) -> Callable[Parameters, Result]:
        signature = _signature(record, inspect.signature(stage).return_annotation)

        @functools.wraps(stage)
        def call(*args: Parameters.args, **kwargs: Parameters.kwargs) -> Result:
            unknown = [name for name in kwargs if name not in signature.parameters]
            if unknown:
                hint = did_you_mean(unknown[0], [*signature.parameters])
                raise TypeError(f"{stage.__name__}() has no option `{unknown[0]}`; {hint}")
            try:
                signature.bind(*args, **kwargs)
            except TypeError as error:
                raise TypeError(f"{stage.__name__}(): {error}") from None
            try:
                if "progress" in signature.parameters and "progress" not in kwargs and in_notebook():
                    # a command shows how far it is without being asked, and so does a cell
                    with bar() as told_of:
                        return stage(record(*args, **{**kwargs, "progress": told_of}))
                return stage(record(*args, **kwargs))
            except ModuleNotFoundError as error:
                # what a stage imports when it needs it
                told = missing_package(stage.__name__, error)
                if told is None:
                    raise
                raise told from error

        call.__signature__ = signature  # type: ignore[attr-defined]
        call.__doc__ = _described(inspect.getdoc(stage) or "", record)
        call.record = record  # type: ignore[attr-defined]
        return call

    return decorate


def _signature(record: type, returns: Any) -> inspect.Signature:
    """The record's signature, with plain types and its own options first."""
    made = inspect.signature(record)
    found = fields_of(record)
    ordered = sorted(made.parameters.values(), key=lambda one: (one.kind, [*found].index(one.name)))
    return made.replace(
        parameters=[one.replace(annotation=found[one.name].type) for one in ordered], return_annotation=returns
    )


def _described(doc: str, record: type) -> str:
    """A docstring with the options as its ``Args``, before ``Returns`` or ``Raises``."""
    lines = ["Args:"]
    for name, field in fields_of(record).items():
        told = [field.option.about]
        if field.option.choices:
            told.append(f"One of {', '.join(field.option.choices)}.")
        if field.option.range:
            told.append(f"Range: {field.option.range}.")
        if field.option.default:
            told.append(f"Default: {field.option.default}.")
        lines.append(textwrap.fill(f"{name}: {' '.join(told)}", 116, initial_indent="    ", subsequent_indent=" " * 8))
    at = re.search(r"^(Returns|Raises):$", doc, re.MULTILINE)
    head, tail = (doc[: at.start()].rstrip(), doc[at.start() :]) if at else (doc, "")
    return "\n\n".join(one for one in (head, "\n".join(lines), tail) if one)


# options that many verbs share ----------------------------------------------------------------------------------------

StoreFile = Annotated[
    str | os.PathLike[str] | None,
    Option(
        "The DuckDB file that holds everything.",
        metavar="FILE",
        default=f"${STORE_VARIABLE}, else diq.duckdb",
        given=True,
    ),
]
Told = Annotated[
    Progress | None, Option("Called with what is being done, how much of it is done, and of how much.", given=True)
]
ToldWithNote = Annotated[
    NotedProgress | None,
    Option(
        "Called with what is being done, how much of it is done, of how much, and a note to show beside.", given=True
    ),
]
Device = Annotated[str, Option("auto, cpu, cuda, cuda:1, ...; auto takes a GPU if there is one.", metavar="DEVICE")]
Dtype = Annotated[
    Literal["auto", "float32", "bfloat16", "float64"],
    Option("Precision of the model; auto is float32 on a CPU and bfloat16 on a GPU."),
]
DatasetName = Annotated[str, Option("Name of a dataset in the store.", positional=True, reads="dataset")]
LanguageModel = Annotated[
    str | os.PathLike[str],
    Option("Folder or hub id of the causal language model.", metavar="FOLDER|ID", reads="model", name=True),
]
ModelName = Annotated[
    str | None,
    Option(
        "Name of the model in the store, by which its scores are found: no two that are scored with share one.",
        metavar="NAME",
        default="the hub id or the folder's name",
        check=check_name,
    ),
]
ValidationSets = Annotated[
    Sequence[str], Option("Validation set; repeat.", metavar="NAME", default="all", reads="validation set")
]
MaxLength = Annotated[
    int | None,
    Option("Tokens after which a sample is cut on the right.", default=f"{MAX_LENGTH}", least=2),
]
ChatTemplate = Annotated[
    Literal["auto", "none"] | None,
    Option(
        "auto uses the tokenizer's chat template if it has one; none the plain Question/Answer form.", default="auto"
    ),
]
ChatTemplateKwargs = Annotated[
    Sequence[str],
    Option(
        "Variable of the chat template, such as enable_thinking=false; repeat.",
        metavar="KEY=VALUE",
    ),
    Excludes("template", ("none",)),
]
Turns = Literal["last", "all"]
AnswersOf = Annotated[
    Turns,
    Option(
        "Answers of a conversation that count: the last one, or all that are not marked as not to be learnt. Part of "
        "the run; the same in scoring and training."
    ),
]
Attention = Annotated[
    str | None,
    Option("Attention implementation of transformers, such as sdpa or flash_attention_2.", metavar="NAME"),
]
Devices = Annotated[int, Option("Processes, one a GPU (or sharing the CPU).", least=1)]


@dataclass(frozen=True, kw_only=True)
class InStore(Options):
    """Options of every verb that works on a store; the path is settled when the record is made."""

    store: StoreFile = None
    progress: Told = None

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "store", store_path(self.store))

    @property
    def store_file(self) -> Path:
        """The store, as a path."""
        assert isinstance(self.store, Path)
        return self.store
