"""A recipe's text: YAML with line numbers, variables and loops, read into plain steps.

YAML as in version 1.2 (``no`` is a text, ``1e-4`` a number, ``010`` is ten), without anchors and tags. What is wrong is
collected, each with its place, so that a user sees all of it at once.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from diq.base.config import expanded
from diq.base.errors import InputError
from diq.base.text import amount, did_you_mean, short

Place = tuple[str | int, ...]

_KEYS = ("recipe", "about", "output", "vars", "defaults", "steps")
_LOOP = ("for", "steps")
_BUILT_IN = "output"
_MOST_STEPS = 10_000
# characters of all values once their variables are filled in: ten variables of ten of the one before are 10 GB
_MOST_CHARACTERS = 2**24
# lists in lists, which variables can make of few lines
_MOST_NESTED = 50
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_HOLE = re.compile(r"\{\{|\}\}|\{([A-Za-z_][\w]*(?:\.[\w-]+)*)\}")
_SCALARS = {
    "null": re.compile(r"^(?:~|null|Null|NULL|)$"),
    "bool": re.compile(r"^(?:true|True|TRUE|false|False|FALSE)$"),
    "int": re.compile(r"^[-+]?[0-9]+$"),
    "float": re.compile(r"^[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?$"),
}


@dataclass(frozen=True, slots=True)
class Problem:
    """Something wrong in a recipe.

    Attributes:
        place: path in the file, such as ``steps[3].train.learning_rte``.
        line: 1-based line of it; None where it is in no line, such as a missing key of the whole file.
        text: what is wrong, and what to do.
    """

    place: str
    line: int | None
    text: str

    def __str__(self) -> str:
        where = self.place + (f" (line {self.line})" if self.line else "")
        return f"{where}: {self.text}" if where else self.text


class Problems:
    """What is wrong with a recipe, in the order of the file, each told once."""

    def __init__(self, source: str, lines: Mapping[Place, int]) -> None:
        self.source, self.lines = source, lines
        self.found: dict[Problem, None] = {}
        self._room = _MOST_CHARACTERS

    def add(self, place: Place, text: str) -> None:
        """Note a problem at a place."""
        line = next((self.lines[place[:n]] for n in range(len(place), 0, -1) if place[:n] in self.lines), None)
        self.found.setdefault(Problem(show(place), line, text))

    def make_room(self, value: Any, place: Place, *, depth: int = 0) -> None:
        """Count a value of which variables may make any number of copies.

        Raises:
            InputError: with it, or by itself, the recipe is larger than any that could be meant.
        """
        if depth > _MOST_NESTED:
            self.add(place, f"lists and mappings are nested deeper than {_MOST_NESTED} here, by their variables")
            self.check()
        # entries, too: a list of empty lists has no characters
        self._room -= len(value) + 1 if isinstance(value, str | list | dict) else 1
        if self._room < 0:
            self.add(
                place,
                f"with its variables filled in the recipe has more than {_MOST_CHARACTERS:,} characters, and this is "
                "where it passes them: repeat less",
            )
            self.check()
        if isinstance(value, list):
            for one in value:
                self.make_room(one, place, depth=depth + 1)
        elif isinstance(value, dict):
            for key, one in value.items():
                self.make_room(key, place, depth=depth + 1)
                self.make_room(one, place, depth=depth + 1)

    def check(self) -> None:
        """Stop if there are any.

        Raises:
            InputError: all problems, a line each.
        """
        if not self.found:
            return
        ordered = sorted(self.found, key=lambda one: one.line or 0)
        hint = "nothing was run; correct the recipe, and `diq run RECIPE --dry-run` shows what it would do"
        if len(ordered) == 1:
            raise InputError(f"the recipe {self.source}: {ordered[0]}", hint)
        text = "\n".join(f"  {one}" for one in ordered)
        raise InputError(f"the recipe {self.source} has {amount(len(ordered), 'problem')}:\n{text}", hint)


def show(place: Place) -> str:
    """A place as text: ``steps[3].train.epochs``; steps are numbered from 1."""
    text = ""
    for part in place:
        text += f"[{part + 1}]" if isinstance(part, int) else f".{part}" if text else str(part)
    return text


@dataclass(frozen=True, slots=True)
class Step:
    """One step as it will run, its loops unrolled and its variables filled in.

    Attributes:
        number: 1-based place in the run.
        verb: such as ``score influence``.
        options: by keyword, defaults included.
        place: of the options in the file.
        output: the recipe's folder.
        made_from: the variable that an option is, by option: ``classifier: "{classifier}"``; none of a loop, which
            nobody can set.
        filled: options that have a variable in them, also of a loop.
        inherited: options that come from the recipe's defaults for the verb.
    """

    number: int
    verb: str
    options: dict[str, Any]
    place: Place
    output: Path
    made_from: dict[str, str] = field(default_factory=dict)
    filled: set[str] = field(default_factory=set)
    inherited: frozenset[str] = frozenset()

    def at(self, key: str) -> Place:
        """Where an option stands in the file."""
        return ("defaults", self.verb, key) if key in self.inherited else (*self.place, key)


@dataclass(frozen=True, slots=True)
class Recipe:
    """A recipe that was read.

    Attributes:
        name: as the file says it, else the file's name.
        about: one line.
        source: where it was read from, for messages.
        text: the file.
        output: folder that it works in.
        variables: after ``--set``.
        outline: verb, options and place of every default and step as they stand in the file, before any loop.
        steps: in order.
        problems: found so far; ``check`` of them stops.
    """

    name: str
    about: str
    source: str
    text: str
    output: Path
    variables: dict[str, Any]
    outline: list[tuple[str, list[str], Place]]
    steps: list[Step]
    problems: Problems


def read(
    text: str, *, source: str, name: str, settings: Sequence[str] = (), output: str | os.PathLike[str] | None = None
) -> Recipe:
    """Read a recipe and unroll it.

    Args:
        text: the YAML.
        source: what it is called in messages.
        name: of the recipe, where the file gives none.
        settings: ``NAME=VALUE`` texts that replace variables, ``NAME.KEY=VALUE`` a part of one.
        output: folder, in place of the file's.

    Raises:
        InputError: the text is no YAML mapping, or its variables make it too large. Everything else is in ``problems``.
    """
    lines: dict[Place, int] = {}
    problems = Problems(source, lines)
    tree = _tree(text, source, lines, problems)
    if not isinstance(tree, dict):
        raise InputError(
            f"the recipe {source} is not a mapping", "a recipe has the keys vars and steps; see docs/recipes.md"
        )
    for key in tree:
        if key not in _KEYS:
            problems.add((key,), f"no such key; {did_you_mean(key, _KEYS)}")
    for key in ("recipe", "about", "output"):
        if tree.get(key) is not None and not isinstance(tree[key], str):
            problems.add((key,), f"`{short(tree[key])}` is not a text")
    called = str(tree.get("recipe") or name)
    folder = Path(expanded(output or str(tree.get("output") or called)))
    given = tree.get("vars") or {}
    settable = given if isinstance(given, dict) else {}
    variables = _variables(given, settings, folder, problems)
    steps: list[Step] = []
    defaults = _defaults(tree.get("defaults") or {}, problems)
    outline: list[tuple[str, list[str], Place]] = [
        *((verb, list(options), ("defaults", verb)) for verb, options in defaults.items()),
        *_outline(tree.get("steps"), ("steps",)),
    ]
    if not tree.get("steps"):
        problems.add(("steps",), "a recipe needs steps")
    else:
        for verb, options, place, scope in _unroll(tree["steps"], ("steps",), variables, problems):
            if len(steps) == _MOST_STEPS:
                problems.add(("steps",), f"the loops make more than {_MOST_STEPS:,} steps")
                break
            inherited = frozenset(defaults.get(verb, {})) - set(options)
            step = Step(len(steps) + 1, verb, {}, place, folder, inherited=inherited)
            for key, value in {**defaults.get(verb, {}), **options}.items():
                step.options[key] = _fill(value, scope, step.at(key), problems)
                if not isinstance(value, str):
                    continue
                if any(hole[1] for hole in _HOLE.finditer(value)):
                    step.filled.add(key)
                match = _HOLE.fullmatch(value)
                if match and match[1] and match[1].partition(".")[0] in settable:
                    step.made_from[key] = match[1]
            steps.append(step)
        if not steps and not problems.found:
            problems.add(("steps",), "every loop is empty, so there is nothing to do")
    about = " ".join(str(tree.get("about") or "").split())
    return Recipe(called, about, source, text, folder, variables, outline, steps, problems)


def about(text: str, name: str) -> str:
    """What a recipe says that it does."""
    return read(text, source=f"`{name}`", name=name).about


# yaml --------------------------------------------------------------------------------------------------------------


class _Loader(yaml.SafeLoader):  # type: ignore[misc]
    """YAML 1.2's plain values, and no references: variables do that here."""

    yaml_implicit_resolvers: dict[str | None, list[tuple[str, re.Pattern[str]]]] = {}  # noqa: RUF012

    def compose_node(self, parent: Any, index: Any) -> Any:
        event = self.peek_event()
        if isinstance(event, yaml.AliasEvent) or getattr(event, "anchor", None) is not None:
            raise yaml.composer.ComposerError(
                None, None, "anchors and aliases (& and *) have no place in a recipe; quote the text, or use vars",
                event.start_mark,
            )  # fmt: skip
        return super().compose_node(parent, index)


for _kind, _pattern in _SCALARS.items():
    _Loader.add_implicit_resolver(f"tag:yaml.org,2002:{_kind}", _pattern, None)


def _tree(text: str, source: str, lines: dict[Place, int], problems: Problems) -> Any:
    try:
        node = yaml.compose(text, Loader=_Loader)
        return None if node is None else _value(node, (), lines, problems)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = f" in line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        hint = 'texts with braces need quotes, such as "{output}/adapter"; lists and keys need equal indents'
        raise InputError(f"the recipe {source} is not YAML{where}: {short(error.problem or error)}", hint) from error
    except yaml.YAMLError as error:
        raise InputError(f"the recipe {source} is not YAML: {short(error)}", "save it as UTF-8 text") from error
    except RecursionError as error:
        raise InputError(f"the recipe {source} is nested too deeply", "write its lists and keys one a line") from error


def _value(node: yaml.Node, place: Place, lines: dict[Place, int], problems: Problems) -> Any:
    """A YAML node as plain values, its places noted."""
    lines.setdefault(place, node.start_mark.line + 1)
    kind = node.tag.rpartition(":")[2]
    if isinstance(node, yaml.MappingNode) and kind == "map":
        found: dict[str, Any] = {}
        for key_node, value_node in node.value:
            key = key_node.value if isinstance(key_node, yaml.ScalarNode) else short(key_node.value)
            below = (*place, key)
            if key in found:
                lines[below] = key_node.start_mark.line + 1
                problems.add(below, "the key is there twice")
            lines[below] = key_node.start_mark.line + 1
            found[key] = _value(value_node, below, lines, problems)
        return found
    if isinstance(node, yaml.SequenceNode) and kind == "seq":
        return [_value(one, (*place, i), lines, problems) for i, one in enumerate(node.value)]
    if isinstance(node, yaml.ScalarNode) and kind in (*_SCALARS, "str"):
        return _scalar(node.value, kind)
    problems.add(place, f"the tag {node.tag} has no place in a recipe")
    return None


def _scalar(text: str, kind: str) -> Any:
    if kind == "null":
        return None
    if kind == "bool":
        return text.lower() == "true"
    if kind == "int":
        return int(text)
    return float(text) if kind == "float" else text


# variables ---------------------------------------------------------------------------------------------------------


def _variables(given: Any, settings: Sequence[str], output: Path, problems: Problems) -> dict[str, Any]:
    """The variables with their settings; one may be made of earlier ones."""
    if not isinstance(given, dict):
        problems.add(("vars",), "variables are names with values")
        given = {}
    raw = dict(given)
    for name in given:
        if name == _BUILT_IN:
            problems.add(("vars", name), "this name stands for the output folder; the key `output` sets it")
        elif not _NAME.fullmatch(name):
            problems.add(("vars", name), "a variable's name is made of letters, digits and _")
    for setting in settings:
        _set(raw, setting, problems)
    scope: dict[str, Any] = {_BUILT_IN: output.as_posix()}
    for name, value in raw.items():
        scope[name] = _fill(value, scope, ("vars", name), problems)
    return scope


def _set(raw: dict[str, Any], setting: str, problems: Problems) -> None:
    target, equals, text = setting.partition("=")
    here: Place = (f"--set {target}",)
    if not equals:
        problems.add((f"--set {setting}",), "is not of the form NAME=VALUE")
        return
    *parents, last = target.split(".")
    holder: Any = raw
    for name in parents:
        if isinstance(holder, dict) and isinstance(holder.get(name), dict):
            # a copy, so that nobody else's mapping changes
            holder[name] = dict(holder[name])
            holder = holder[name]
        else:
            problems.add(here, f"the recipe has no such variable; {did_you_mean(target.split('.')[0], list(raw))}")
            return
    if holder is raw and last not in raw:
        problems.add(here, f"the recipe has no such variable; {did_you_mean(last, list(raw))}")
        return
    try:
        holder[last] = _setting(text, problems)
    except yaml.YAMLError:
        # the old value stays, so that nothing else is told of the same mistake
        problems.add(here, f"`{short(text)}` is neither a list nor a mapping in YAML")


def _setting(text: str, problems: Problems) -> Any:
    """A value as typed in a shell: YAML where it is a list, a mapping or quoted, else a plain value or a text."""
    if text[:1] in ("[", "{", '"', "'") and not _HOLE.match(text):
        return _value(yaml.compose(text, Loader=_Loader), (), {}, problems)
    for kind, pattern in _SCALARS.items():
        if pattern.match(text):
            return _scalar(text, kind)
    return text


def _fill(value: Any, scope: Mapping[str, Any], place: Place, problems: Problems) -> Any:
    """The value with every ``{name}`` in its texts replaced; a text that is nothing else becomes the value itself."""
    if isinstance(value, dict):
        return {
            str(_fill(key, scope, (*place, key), problems)): _fill(one, scope, (*place, key), problems)
            for key, one in value.items()
        }
    if isinstance(value, list):
        return [_fill(one, scope, (*place, i), problems) for i, one in enumerate(value)]
    if not isinstance(value, str):
        return value
    whole = _HOLE.fullmatch(value)
    if whole and whole[1]:
        found = _look_up(whole[1], scope, place, problems)
        problems.make_room(found, place)
        return found

    def text_of(match: re.Match[str]) -> str:
        if not match[1]:
            return match[0][0]
        found = _look_up(match[1], scope, place, problems)
        if found is None or isinstance(found, dict | list):
            kind = "has no value" if found is None else "is a list" if isinstance(found, list) else "is a mapping"
            problems.add(place, f"`{match[1]}` {kind}, so it cannot be a part of a text")
            return ""
        text = str(found).lower() if isinstance(found, bool) else str(found)
        # before they are joined
        problems.make_room(text, place)
        return text

    problems.make_room(value, place)
    return _HOLE.sub(text_of, value)


def _look_up(name: str, scope: Mapping[str, Any], place: Place, problems: Problems) -> Any:
    value: Any = scope
    for i, part in enumerate(name.split(".")):
        if not isinstance(value, Mapping) or part not in value:
            known = list(value) if isinstance(value, Mapping) else []
            what = ".".join(name.split(".")[: i + 1])
            problems.add(place, f"nothing is called `{what}`; {did_you_mean(part, known)}".removesuffix("; "))
            return ""
        value = value[part]
    return value


# steps -------------------------------------------------------------------------------------------------------------

_Unrolled = tuple[str, dict[str, Any], Place, Mapping[str, Any]]


def _defaults(given: Any, problems: Problems) -> dict[str, dict[str, Any]]:
    """Options by verb, for every step of the verb that does not say otherwise."""
    if not isinstance(given, dict) or not all(isinstance(one, dict) for one in given.values()):
        problems.add(("defaults",), "defaults are verbs with options, such as `defaults: {train: {epochs: 3}}`")
        return {}
    return given


def _outline(given: Any, place: Place) -> Iterator[tuple[str, list[str], Place]]:
    """Verb, options and place of every step in the file; what is malformed is left to ``_unroll``."""
    for i, entry in enumerate(given if isinstance(given, list) else []):
        for key, value in entry.items() if isinstance(entry, dict) else ():
            if key == "steps":
                yield from _outline(value, (*place, i, "steps"))
            elif key != "for":
                yield key, list(value) if isinstance(value, dict) else [], (*place, i, key)


def _unroll(given: Any, place: Place, scope: Mapping[str, Any], problems: Problems) -> Iterator[_Unrolled]:
    """Verb, options, place and variables of every step, with its loops unrolled, in order."""
    if not isinstance(given, list):
        problems.add(place, "steps are a list: each begins with `- `")
        return
    for i, entry in enumerate(given):
        here = (*place, i)
        if not isinstance(entry, dict) or not entry:
            problems.add(here, "a step is a verb with its options, such as `- select: {dataset: pool, ratio: 0.1}`")
            continue
        verbs = [key for key in entry if key not in _LOOP]
        if "steps" in entry and ("for" not in entry or verbs):
            what = f"`{verbs[0]}`" if verbs else "no `for`"
            problems.add(here, f"`steps` belongs to a `for` and stands alone with it; there is {what} beside it")
            continue
        if "steps" not in entry and len(verbs) != 1:
            problems.add(here, f"a step has one verb; here are {', '.join(f'`{one}`' for one in verbs) or 'none'}")
            continue
        for inner in _turns(entry.get("for", {}), (*here, "for"), scope, problems):
            if "steps" in entry:
                yield from _unroll(entry["steps"], (*here, "steps"), inner, problems)
                continue
            options = entry[verbs[0]]
            at = (*here, verbs[0])
            if options is not None and not isinstance(options, dict):
                problems.add(at, "the options of a step are keys with values")
                continue
            yield verbs[0], options or {}, at, inner


def _turns(loops: Any, place: Place, scope: Mapping[str, Any], problems: Problems) -> Iterator[Mapping[str, Any]]:
    """The variables of every turn of a loop: all combinations, the last name turning fastest."""
    if not isinstance(loops, dict):
        problems.add(place, "a loop is names with lists, such as `for: {ratio: [0.01, 0.1]}`")
        return
    if not loops:
        yield scope
        return
    name, *others = loops
    here = (*place, name)
    if name in scope:
        problems.add(here, "there is already a variable of this name")
        return
    if not _NAME.fullmatch(name):
        problems.add(here, "a variable's name is made of letters, digits and _")
        return
    values = _fill(loops[name], scope, here, problems)
    if isinstance(values, dict):
        values = [{"key": key, "value": value} for key, value in values.items()]
    if not isinstance(values, list):
        problems.add(here, f"`{short(values)}` is neither a list nor a mapping to loop over")
        return
    for value in values:
        yield from _turns({one: loops[one] for one in others}, place, {**scope, name: value}, problems)
