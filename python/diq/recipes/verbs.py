"""What a step may say: the verbs, and for each the keyword arguments of the stage that it calls.

The arguments are read from the stages' source, not written down a second time, so that they cannot drift; reading the
source loads no model library, which importing a stage would.
"""

from __future__ import annotations

import ast
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from diq.base.text import short

_ROOT = Path(__file__).parent.parent

# what the recipe gives to every stage itself
GIVEN = ("store", "progress")

# records among the arguments of stages whose fields are options of their own: the argument, and where the record is
RECORDS = {"server": ("diq.judging.chat", "Server"), "sizes": ("diq.demo.options", "Sizes")}


@dataclass(frozen=True, slots=True)
class Verb:
    """A step's verb.

    Attributes:
        module: of the stage.
        function: that is called.
        command: words of the command that does the same; empty where there is none.
        positional: the argument that the command takes without a name.
        flags: option of the command, where it is not the argument's name.
        fixed: arguments that the verb itself gives.
        reads: kind of thing that an argument names: dataset, validation set, selection, path, model, source.
        writes: likewise, for what the step makes.
        always: whether the step runs each time, because it only shows what is there.
    """

    module: str
    function: str
    command: tuple[str, ...] = ()
    positional: str = ""
    flags: Mapping[str, str] = field(default_factory=dict)
    fixed: Mapping[str, Any] = field(default_factory=dict)
    reads: Mapping[str, str] = field(default_factory=dict)
    writes: Mapping[str, str] = field(default_factory=dict)
    always: bool = False

    @property
    def has_store(self) -> bool:
        """Whether the stage takes the store."""
        return any(one.name == "store" for one in _arguments(_definition(self.module, self.function)))


_SCORING = {"token_budget": "batch-tokens", "validation_sets": "validation-set"}
_SERVER = {"timeout_s": "timeout"}
_JUDGE = {
    "module": "diq.judging.judge",
    "function": "judge",
    "flags": _SERVER,
    "reads": {"selection": "selection", "against": "selection", "outputs": "path"},
}

VERBS: dict[str, Verb] = {
    "demo data": Verb("diq.recipes.demo", "make_demo_data"),
    "ingest": Verb(
        "diq.samples.ingest",
        "ingest",
        ("ingest",),
        "sources",
        {},
        reads={"sources": "source"},
        writes={"dataset": "dataset"},
    ),
    "difficulty annotate": Verb(
        "diq.difficulty.annotate",
        "annotate",
        ("difficulty", "annotate"),
        "dataset",
        _SERVER,
        reads={"dataset": "dataset"},
    ),
    "difficulty train": Verb(
        "diq.difficulty.train",
        "train_difficulty",
        ("difficulty", "train"),
        "datasets",
        {"weights": "class-weights"},
        reads={"datasets": "dataset", "encoder": "model"},
        writes={"output": "path"},
    ),
    "score difficulty": Verb(
        "diq.difficulty.score",
        "score_difficulty",
        ("score", "difficulty"),
        "dataset",
        {**_SCORING, "classifier": "model"},
        reads={"dataset": "dataset", "classifier": "model"},
    ),
    "warm up": Verb(
        "diq.training.warm_up",
        "warm_up",
        positional="dataset",
        reads={"dataset": "dataset", "model": "model", "validation_sets": "validation set"},
        writes={"output": "path"},
    ),
    "score influence": Verb(
        "diq.influence.score",
        "score_influence",
        ("score", "influence"),
        "dataset",
        {**_SCORING, "checkpoints": "checkpoint"},
        reads={"dataset": "dataset", "model": "model", "checkpoints": "model", "validation_sets": "validation set"},
    ),
    "score perplexity": Verb(
        "diq.baselines.score_perplexity",
        "score_perplexity",
        ("score", "perplexity"),
        "dataset",
        _SCORING,
        reads={"dataset": "dataset", "model": "model", "adapter": "model"},
    ),
    "score similarity": Verb(
        "diq.baselines.similarity",
        "score_similarity",
        ("score", "similarity"),
        "dataset",
        _SCORING,
        reads={"dataset": "dataset", "encoder": "model", "validation_sets": "validation set"},
    ),
    "score rater": Verb(
        "diq.rater.score",
        "score_rater",
        ("score", "influence"),
        "dataset",
        _SCORING,
        reads={"dataset": "dataset", "rater": "model"},
    ),
    "rater train": Verb(
        "diq.rater.train",
        "train_rater",
        ("rater", "train"),
        "datasets",
        {"influence_run": "run"},
        reads={"datasets": "dataset", "encoder": "model"},
        writes={"output": "path"},
    ),
    "select": Verb(
        "diq.selection.select",
        "select",
        ("select",),
        "dataset",
        {
            "percentile": "difficulty-percentile",
            "threshold": "difficulty-threshold",
            "validation_sets": "validation-set",
            "influence_run": "run",
        },
        reads={"dataset": "dataset", "validation_sets": "validation set"},
        writes={"output": "path", "name": "selection"},
    ),
    "train": Verb(
        "diq.training.train",
        "train",
        ("train",),
        "selection",
        {"validation_sets": "validation-set"},
        reads={"selection": "selection", "model": "model", "adapter": "model", "validation_sets": "validation set"},
        writes={"output": "path"},
    ),
    "benchmark questions": Verb(
        "diq.recipes.questions",
        "write_questions",
        positional="benchmark",
        reads={"sources": "source"},
        writes={"output": "path"},
    ),
    "results": Verb("diq.recipes.tables", "write_results", ("results",), writes={"output": "path"}, always=True),
    "evaluate": Verb(
        "diq.evaluation.evaluate",
        "evaluate",
        ("evaluate",),
        flags={"benchmarks": "benchmark", "sources": "benchmark", "timeout_s": "timeout"},
        reads={"model": "model", "adapter": "model", "sources": "source", "examples": "source"},
    ),
    "judge reasoning": Verb(command=("judge", "reasoning"), fixed={"rubric": "reasoning"}, **_JUDGE),  # type: ignore[arg-type]
    "judge clinical": Verb(command=("judge", "clinical"), fixed={"rubric": "clinical"}, **_JUDGE),  # type: ignore[arg-type]
}


@dataclass(frozen=True, slots=True)
class Parameter:
    """An argument of a stage.

    Attributes:
        name: the keyword.
        annotation: its type, as the source says it.
        required: whether it has no default.
        default: its default, where that is a plain value; None otherwise.
        record: the argument that takes it as a field; empty for an argument of the stage itself.
    """

    name: str
    annotation: str
    required: bool
    default: Any = None
    record: str = ""


@cache
def parameters(name: str) -> dict[str, Parameter]:
    """What a verb takes, by keyword: the arguments of its stage but those that the recipe or the verb gives."""
    verb = VERBS[name]
    found: dict[str, Parameter] = {}
    for one in _arguments(_definition(verb.module, verb.function)):
        if one.name in RECORDS:
            fields = _fields(_definition(*RECORDS[one.name]))
            found |= {each.name: _of_record(each, one.name) for each in fields}
        elif one.name not in GIVEN and one.name not in verb.fixed:
            found[one.name] = one
    return found


def arguments(name: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """The keyword arguments of a verb's stage from the options of a step, as the stage takes them.

    Raises:
        TypeError: a value is not of the argument's type; the text says what is needed.
        KeyError: there is no such argument.
    """
    known = parameters(name)
    return {key: convert(value, known[key].annotation) for key, value in options.items()}


def convert(value: Any, annotation: str) -> Any:
    """A YAML value as an argument of this type.

    Raises:
        TypeError: it is of another type; the text says which is needed.
    """
    choices = _union(annotation)
    if value is None:
        if "None" in choices:
            return None
        raise TypeError("needs a value")
    known = [_KINDS[kind] for kind in map(_kind, choices) if kind in _KINDS]
    if not known or len(known) < len([one for one in choices if one != "None"]):
        # a type that YAML cannot say wrong, such as a type variable: the stage itself checks it
        return value
    for _, takes, make in known:
        if takes(value):
            return make(value)
    words = list(dict.fromkeys(what for what, _, _ in known))
    # `a text or a list of texts` says it already
    words = [one for one in words if not any(one != other and one in other for other in words)]
    raise TypeError(f"needs {' or '.join(words)}, not `{short(value)}`")


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _is_plain(value: Any) -> bool:
    return isinstance(value, str) or _is_number(value)


def _is_numbers(value: Any) -> bool:
    return isinstance(value, list) and len(value) == 3 and all(map(_is_number, value))


def _is_texts(value: Any) -> bool:
    return _is_plain(value) or (isinstance(value, list) and all(map(_is_plain, value)))


def _is_mapping(value: Any) -> bool:
    return isinstance(value, dict) and all(map(_is_plain, value.values()))


def _texts(value: Any) -> list[str]:
    return [str(one) for one in (value if isinstance(value, list) else [value])]


# kind of an annotation: in words, whether a YAML value is one, and the argument that is made of it
_KINDS: dict[str, tuple[str, Any, Any]] = {
    "bool": ("true or false", lambda value: isinstance(value, bool), bool),
    "int": ("a whole number", lambda value: isinstance(value, int) and not isinstance(value, bool), int),
    "float": ("a number", _is_number, lambda value: value),
    # names may look like numbers: `dataset: 7`, `ratio: 0.1`
    "str": ("a text", _is_plain, str),
    "Path": ("a path", _is_plain, lambda value: Path(str(value))),
    "numbers": ("a list of three numbers", _is_numbers, tuple),
    "texts": ("a text or a list of texts", _is_texts, _texts),
    "mapping": ("names with values", _is_mapping, lambda value: {k: str(v) for k, v in value.items()}),
    "pairs": ("names with values", _is_mapping, lambda value: [(k, str(v)) for k, v in value.items()]),
}


def _kind(annotation: str) -> str:
    """The kind of a single annotation; itself where it is none of the known."""
    head = annotation.replace(" ", "")
    if head.startswith(("Sequence[tuple[", "list[tuple[")):
        return "pairs"
    if head.startswith(("Sequence[", "list[", "tuple[str")):
        return "texts"
    if head.startswith(("Mapping[", "dict[")):
        return "mapping"
    if head == "tuple[float,float,float]":
        return "numbers"
    if head.startswith("os.PathLike"):
        return "str"
    # a choice of texts, or the name of one; a ratio is taken as the decimal that was typed
    if head.startswith("Literal[") or head in ("Template", "Decimal"):
        return "str"
    return head


@cache
def _union(annotation: str) -> tuple[str, ...]:
    """The parts of ``A | B``."""

    def parts(node: ast.expr) -> list[str]:
        if isinstance(node, ast.BinOp) and isinstance(node.op, ast.BitOr):
            return parts(node.left) + parts(node.right)
        return [ast.unparse(node)]

    found = parts(ast.parse(annotation, mode="eval").body)
    # numbers last within a union with texts: `str | float` takes a ratio as the decimal that was typed
    return tuple(sorted(found, key=lambda one: one in ("float", "int") and "str" in found))


# reading the source ---------------------------------------------------------------------------------------------------


def _definition(module: str, name: str) -> ast.FunctionDef | ast.ClassDef:
    """The definition of a function or record, followed through ``from ... import``."""
    place = _ROOT.joinpath(*module.split(".")[1:])
    path = place / "__init__.py" if place.is_dir() else place.with_suffix(".py")
    body = [inner for node in _parsed(path).body for inner in (node.body if isinstance(node, ast.Try) else [node])]
    for node in body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and node.name == name:
            return node
        if isinstance(node, ast.ImportFrom) and node.module:
            for alias in node.names:
                if (alias.asname or alias.name) == name and node.module.startswith("diq"):
                    return _definition(node.module, alias.name)
    raise AssertionError(f"{path} defines no {name}")


@cache
def _parsed(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def _arguments(function: ast.FunctionDef | ast.ClassDef) -> list[Parameter]:
    assert isinstance(function, ast.FunctionDef)
    spec = function.args
    first = len(spec.args) - len(spec.defaults)
    positional = [(one, spec.defaults[i - first] if i >= first else None) for i, one in enumerate(spec.args)]
    pairs = [*positional, *zip(spec.kwonlyargs, spec.kw_defaults, strict=True)]
    return [_parameter(one.arg, one.annotation, default) for one, default in pairs]


def _fields(record: ast.FunctionDef | ast.ClassDef) -> list[Parameter]:
    found = [one for one in record.body if isinstance(one, ast.AnnAssign) and isinstance(one.target, ast.Name)]
    return [_parameter(one.target.id, one.annotation, one.value) for one in found if isinstance(one.target, ast.Name)]


def _parameter(name: str, annotation: ast.expr | None, default: ast.expr | None) -> Parameter:
    assert annotation is not None, f"{name} has no type"
    try:
        value = None if default is None else ast.literal_eval(default)
    except ValueError:
        # a name of the module, such as MAX_LENGTH
        value = None
    return Parameter(name, ast.unparse(annotation), default is None, value)


def _of_record(one: Parameter, record: str) -> Parameter:
    # `base_url: str | None` of a server has no default as a field, and none is needed as an option
    return Parameter(
        one.name, one.annotation, one.required and "None" not in _union(one.annotation), one.default, record
    )


# the command that does the same ------------------------------------------------------------------------------------


def command(name: str, options: Mapping[str, Any], store: Path) -> list[str]:
    """Words of the command line that does what a step does; empty where there is none."""
    verb = VERBS[name]
    if not verb.command:
        return []
    known = parameters(name)
    words = ["diq", *verb.command]
    rest: list[str] = []
    if name == "evaluate":
        options = _with_sources(options)
    for key, value in options.items():
        if key == verb.positional:
            words += _texts(value)
        elif key == "temperature" and value is None:
            rest += ["--temperature", "default"]
        elif key in known and value is not None:
            rest += _option("--" + verb.flags.get(key, key).replace("_", "-"), value, known[key])
    return [*words, *rest, "--store", str(store)]


def _with_sources(options: Mapping[str, Any]) -> dict[str, Any]:
    """Options of an evaluation as its command takes them: ``--benchmark NAME=SOURCE``."""
    found = dict(options)
    sources = found.pop("sources", None) or {}
    names = _texts(found.pop("benchmarks", None) or list(sources))
    return {**found, "benchmarks": [f"{one}={sources[one]}" if one in sources else one for one in names]}


def _option(flag: str, value: Any, parameter: Parameter) -> Sequence[str]:
    if isinstance(value, bool):
        off = "--no-" + flag.removeprefix("--")
        # a switch that is off by default has no word for off
        return [flag] if value else [off] if parameter.default is not False else []
    if isinstance(value, dict):
        return [word for key, one in value.items() for word in (flag, f"{key}={one}")]
    if isinstance(value, list):
        if _kind(parameter.annotation) == "numbers":
            return [flag, *map(str, value)]
        return [word for one in value for word in (flag, str(one))]
    return [flag, str(value)]


def shell(words: Sequence[str]) -> str:
    """Words as they are typed in a shell."""
    return shlex.join(words)
