"""What is wrong with a recipe's steps, found before anything runs: options, values, and names that nothing makes."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from diq.base.config import expanded
from diq.base.errors import DiqError, as_keywords
from diq.base.files import check_file, check_folder
from diq.base.options import BadValueError
from diq.base.text import did_you_mean
from diq.demo.make import ENCODER, MODEL
from diq.recipes.text import Place, Problems, Recipe, Step
from diq.recipes.verbs import VERBS, effective, given, idle_options, keywords, look_up, parameters
from diq.selection.options import (
    DIFFICULTY_STRATEGIES,
    DOT_STRATEGIES,
    MODEL_STRATEGIES,
    TEXT_STRATEGIES,
    SelectOptions,
    default_name,
)
from diq.store.store import Store

Thing = tuple[str, str]
"""Kind and name of what a step reads or writes, such as ``("dataset", "pool")``."""

ANY = "*"

# what an option may name that is a file, a folder, or an id of a hub
_FILES = ("path", "model", "source")
# verbs whose output is a file; that of the others is a folder
_WRITE_FILES = ("select", "sql", "benchmark questions", "results", "report")

SCORES = {
    "score difficulty": "difficulty",
    "difficulty annotate": "difficulty",
    "score influence": "influence",
    "score rater": "influence",
    "score perplexity": "perplexity",
    "score similarity": "similarity",
    "score length": "length",
    "score ifd": "ifd",
    "score bm25": "bm25",
    "score rds": "rds",
    "score pass-rate": "pass_rate",
}


def check_steps(recipe: Recipe, store: Store | None) -> None:
    """Note every problem of the recipe's steps.

    Args:
        recipe: as it was read; its problems grow.
        store: the store, if there is one: what it holds need not be made by a step.
    """
    made: dict[Thing, int] = {}
    taken: dict[str, list[Step]] = {}
    # what a step that cannot be understood makes is not known, so nothing after it is said to be missing
    understood = True
    for verb, keys, place in recipe.outline:
        # also what a loop over an empty list leaves out
        _check_keys(recipe.problems, verb, keys, place)
    for step in recipe.steps:
        if not _check_options(recipe.problems, step):
            understood = False
            continue
        _check_values(recipe.problems, step)
        if understood:
            _check_names(recipe.problems, step, made, store)
            _check_files(recipe, step, made)
        if step.verb == "ingest" and not step.options.get("scores"):
            taken.setdefault(str(step.options["dataset"]), []).append(step)
        for thing in writes(step):
            first = made.setdefault(thing, step.number)
            if first != step.number and thing[0] in ("path", "selection"):
                text = f"the {thing[0]} `{_name(thing)}` is also made by step {first}; put the loop's variables in"
                recipe.problems.add(step.place, text)
    if store is not None:
        for name, ingests in taken.items():
            _check_dataset(recipe.problems, name, ingests, store)


def _name(thing: Thing) -> str:
    return os.path.relpath(thing[1]) if thing[0] == "path" else thing[1]


def _check_keys(problems: Problems, verb: str, keys: Sequence[str], place: Place) -> None:
    """Note an unknown verb, or options that it does not have."""
    if verb not in VERBS:
        problems.add(place, f"no such verb; {did_you_mean(verb, list(VERBS))}")
        return
    for key in keys:
        if key in given(verb):
            problems.add((*place, key), "the recipe gives this itself")
        elif key not in parameters(verb):
            problems.add((*place, key), f"`{verb}` has no such option; {_meant(verb, key)}")


def _meant(verb: str, key: str) -> str:
    # with hyphens it is the command's
    right = key.replace("-", "_")
    return f"did you mean `{right}`?" if right in parameters(verb) else did_you_mean(key, list(parameters(verb)))


def _check_options(problems: Problems, step: Step) -> bool:
    """Whether the step can be understood: a known verb, all options that it needs, each of its type."""
    if step.verb not in VERBS:
        return False
    known = parameters(step.verb)
    unknown = [key for key in step.options if key not in known]
    # a key that was meant to be another one is not called missing too
    meant = " ".join(_meant(step.verb, key) for key in unknown)
    good = not unknown
    for key, one in known.items():
        if key not in step.options:
            # the default of a path is a file of the working folder, which every recipe would write
            required = one.required or (one.option.writes == "path" and one.default is not None)
            if required and f"`{key}`" not in meant:
                problems.add(step.place, f"`{key}` is missing")
            good = good and not required
            continue
        try:
            one.read(step.options[key])
        except BadValueError as error:
            problems.add(step.at(key), _said(error.text, error.hint) + _hint(step, key))
            good = False
        except DiqError as error:
            problems.add(step.at(key), _said(error.message, error.hint) + _hint(step, key))
            good = False
    return good


def _said(text: str, hint: str) -> str:
    """A message on one line, with options as a recipe calls them."""
    return as_keywords(f"{text}; {hint}".removesuffix("; "))


def _hint(step: Step, key: str) -> str:
    name = step.made_from.get(key)
    return f" (it is the variable `{name}`: --set {name}=VALUE)" if name else ""


def _check_values(problems: Problems, step: Step) -> None:
    output = step.options.get("output")
    if isinstance(output, str) and "output" in parameters(step.verb):
        _told(problems, step, "output", lambda: _check_output(step.verb, Path(_place(output))))
    if step.verb == "score difficulty" and bool(step.options.get("model")) == bool(step.options.get("columns")):
        problems.add(step.place, f"give either `model` or `columns`{_hint(step, 'model')}")
    known = parameters(step.verb)
    for key, told in idle_options(step.verb, step.options).items():
        # a step of a loop, or a default for all steps of a verb, may say more than one of its turns needs
        if key not in step.inherited and not step.filled.intersection(rule.option for rule in known[key].beside):
            problems.add(step.at(key), _said(told.text, told.hint))
    # what the record says of options together, such as an output and its format
    _told(problems, step, "output", lambda: look_up(VERBS[step.verb].record)(**keywords(step.verb, step.options)))


def _check_output(verb: str, place: Path) -> None:
    """What the stage would say of its output hours later."""
    if verb not in _WRITE_FILES:
        check_folder(place)
        return
    if verb == "select":
        from diq.selection.output import check_ending

        check_ending(place)
    # folders that are missing are made when they are needed
    check_folder(place.parent)
    if place.parent.is_dir():
        check_file(place)


def _told(problems: Problems, step: Step, key: str, check: Callable[[], Any]) -> None:
    """Note what a stage's own check says."""
    try:
        check()
    except DiqError as error:
        problems.add(step.at(key), _said(error.message, error.hint) + _hint(step, key))


# what steps read and write -------------------------------------------------------------------------------------------


def reads(step: Step) -> list[tuple[str, Thing]]:
    """What a step reads: the option that says so, and the thing; the scores that a stage looks up itself too."""
    found = []
    for key, kind, name in _read_names(step):
        if kind == "validation set":
            # a weight may follow in a selection
            found.append((key, (kind, name.partition("=")[0])))
        elif kind in _FILES:
            found.append((key, ("path", _place(name))))
        elif kind != "selection" or not (name in ("rest", "random") or Path(name).is_file()):
            found.append((key, (kind, name)))
    options = step.options
    if step.verb == "ingest" and options.get("scores"):
        found.append(("dataset", ("dataset", str(options["dataset"]))))
    if step.verb == "difficulty train":
        found += [("datasets", ("difficulty", f"{name} {ANY}")) for name in _names(options["datasets"])]
    if step.verb == "rater train":
        found += [("datasets", ("influence", f"{name} {options['model']}")) for name in _names(options["datasets"])]
    if step.verb == "select":
        dataset, strategy = options["dataset"], options.get("strategy", "diq")
        owner = options.get("model") or ANY
        if strategy in DOT_STRATEGIES:
            found.append(("model", ("influence", f"{dataset} {owner}")))
        if strategy in DIFFICULTY_STRATEGIES:
            found.append(("dataset", ("difficulty", f"{dataset} {ANY}")))
        if strategy in TEXT_STRATEGIES:
            key = "encoder" if strategy == "similarity" else "model" if strategy in MODEL_STRATEGIES else "strategy"
            owner = ANY if key == "strategy" else options.get(key) or ANY
            found.append((key, (strategy, f"{dataset} {owner}")))
    return found


def _read_names(step: Step) -> Iterator[tuple[str, str, str]]:
    """Option, kind and name of all that a step's options name to be read; of NAME=FILE the file."""
    for key, one in parameters(step.verb).items():
        for name in _names(step.options.get(key)) if one.option.reads else ():
            # of NAME=FILE the file; a benchmark by its name alone is read from where it always is
            if told := name.partition("=")[2] if one.option.named else name:
                yield key, one.option.reads, expanded(told) if one.is_path else told


def writes(step: Step) -> list[Thing]:
    """What a step makes."""
    options, found = step.options, []
    for key, one in parameters(step.verb).items():
        kind = one.option.writes
        if kind and options.get(key) is not None:
            name = str(options[key])
            found.append((kind, _place(name) if kind == "path" else name))
    dataset = str(options.get("dataset"))
    if step.verb == "demo data":
        found = [("path", _place(f"{options['folder']}/{name}")) for name in ("data", ENCODER, MODEL)]
    if step.verb == "ingest":
        if options.get("validation"):
            found.append(("validation set", dataset))
        if options.get("scores"):
            found = [(kind, f"{dataset} {ANY}") for kind in dict.fromkeys(SCORES.values())]
    if step.verb == "select" and options.get("name") is None:
        with contextlib.suppress(DiqError):
            found.append(("selection", default_name(SelectOptions(**effective(step.verb, options)))))
    if step.verb in SCORES:
        found.append((SCORES[step.verb], f"{dataset} {_owner(step)}"))
    return found


def _owner(step: Step) -> str:
    """Name in the store of the model whose scores a step computes; any, where only the stage knows."""
    options = step.options
    if step.verb in ("score difficulty", "difficulty annotate") or options.get("checkpoint") or options.get("adapter"):
        return ANY
    kind = "encoder" if step.verb == "score similarity" else "model"
    name = options.get(f"{kind}_name") or options.get(kind)
    if name is None:
        return ANY
    if options.get(f"{kind}_name") is not None:
        return str(name)
    # folders go by their name, also those that an earlier step will make; hub ids without their revision
    place = _place(str(name))
    is_folder = Path(place).is_dir() or _is_below(place, _place(str(step.output))) or _looks_like_path(str(name))
    return Path(place).resolve().name if is_folder else str(name).partition("@")[0]


def _looks_like_path(name: str) -> bool:
    """Whether a name that is no file or folder was meant as one, rather than as a hub id."""
    return name.startswith((".", "/", "~")) or name.count("/") > 1


def _names(value: Any) -> list[str]:
    if value is None:
        return []
    if isinstance(value, Mapping):
        return [str(one) for one in value.values()]
    return [str(one) for one in (value if isinstance(value, list) else [value])]


def _place(name: str) -> str:
    """One spelling of a path."""
    return os.path.abspath(expanded(name))  # noqa: PTH100 (a link keeps its own name)


def _check_names(problems: Problems, step: Step, made: Iterable[Thing], store: Store | None) -> None:
    unknown: set[str] = set()
    for key, (kind, name) in reads(step):
        # scores of a dataset that is not there are not missed as well
        if kind == "path" or (kind in SCORES.values() and name.partition(" ")[0] in unknown):
            continue
        known = {one for of_kind, one in made if of_kind == kind}
        if kind == "selection":
            # a dataset can be trained on as a whole
            known |= {one for of_kind, one in made if of_kind == "dataset"}
        if _is_known(kind, name, known) or (store is not None and _in_store(store, kind, name)):
            continue
        if kind == "dataset":
            unknown.add(name)
        if kind in SCORES.values():
            dataset, _, owner = name.partition(" ")
            others = [one.partition(" ")[2] for one in known if one.partition(" ")[0] == dataset]
            of = "" if owner == ANY else f" with the model `{owner}`"
            text = f"no step before this one computes {kind} scores of `{dataset}`{of}, and the store has none"
            nearest = did_you_mean(owner, others) if owner != ANY else ""
        else:
            text = f"no step before this one makes the {kind} `{name}`, and the store has none"
            nearest = did_you_mean(name, sorted(known))
        problems.add(step.at(key), f"{text}; {nearest}".removesuffix("; ") + _hint(step, key))


def _is_known(kind: str, name: str, known: Iterable[str]) -> bool:
    if kind not in SCORES.values():
        return name in known
    dataset, _, owner = name.partition(" ")
    return any(
        one.partition(" ")[0] == dataset and (ANY in (owner, one.partition(" ")[2]) or owner == one.partition(" ")[2])
        for one in known
    )


def _in_store(store: Store, kind: str, name: str) -> bool:
    if kind == "validation set":
        return store.row("store/get_validation_set", name=name) is not None
    if kind in ("dataset", "selection"):
        if store.row("store/get_dataset", name=name) is not None:
            return True
        return kind == "selection" and store.find_selection(name) is not None
    dataset, _, owner = name.partition(" ")
    row = store.row("store/get_dataset", name=dataset)
    if row is None:
        return False
    model = None if owner == ANY else owner
    return bool(store.rows("store/candidate_runs", kind=kind, dataset_id=row["dataset_id"], model=model))


def _check_files(recipe: Recipe, step: Step, made: Iterable[Thing]) -> None:
    """Files and folders that a step reads are there, or will be: an earlier step writes them, or they are hub ids."""
    for key, kind, name in _read_names(step):
        if kind not in _FILES:
            continue
        # a checkpoint's weight follows its folder
        place = _place(name)
        if makers(place, made) or Path(name).exists():
            continue
        if key == "checkpoint" and Path(_place(name.rpartition(":")[0])).exists():
            continue
        if _is_below(place, _place(str(recipe.output))):
            recipe.problems.add(
                step.at(key), f"`{name}` is not there, and no step before this one makes it{_hint(step, key)}"
            )
        elif kind == "source":
            from diq.formats.sources import find_sources

            _told(recipe.problems, step, key, lambda name=name: find_sources([name]))  # type: ignore[misc]
        elif kind == "path" or _looks_like_path(name):
            noun = "file" if kind == "path" else "folder"
            recipe.problems.add(step.at(key), f"there is no {noun} `{name}`{_hint(step, key)}")


def _check_dataset(problems: Problems, name: str, ingests: Sequence[Step], store: Store) -> None:
    """A dataset that is in the store already holds what the recipe reads into it, and nothing else.

    `diq ingest` would add a changed file to what was read from it before, and mix the two.
    """
    row = store.row("store/get_dataset", name=name)
    if row is None:
        return
    from diq import _core
    from diq.formats.sources import FileSource, find_sources

    options: dict[str, dict[str, Any]] = {}
    hashes: dict[str, str] = {}
    for step in ingests:
        # nothing to compare with where a source is not there (yet)
        with contextlib.suppress(DiqError):
            named = [expanded(one) for one in _names(step.options["sources"])]
            for source in find_sources(named, split=step.options.get("split")):
                place = _place(source.path) if isinstance(source, FileSource) else source.path
                options[place] = {key: step.options.get(key) or None for key in ("map", "split", "drop_reasoning")}
                if isinstance(source, FileSource):
                    hashes[place] = _core.file_hash(source.path)
    for one in store.rows("store/list_sources", dataset_id=row["dataset_id"]):
        if one["kind"] != "samples" or not options:
            continue
        place = one["path"] if one["path"] in options else _place(one["path"])
        # a file may have been moved since
        place = next((other for other, mark in hashes.items() if mark == one["content_hash"]), place)
        was = json.loads(one["options"])
        if place not in options:
            text = f"the dataset `{name}` in the store also holds `{one['path']}`, which this recipe does not read"
        elif place in hashes and hashes[place] != one["content_hash"]:
            text = f"`{one['path']}` changed since it was read into the dataset `{name}`"
        elif any((was.get(key) or None) != value for key, value in options[place].items()):
            text = f"`{one['path']}` was read into the dataset `{name}` with other options"
        else:
            continue
        problems.add((*ingests[0].place, "dataset"), f"{text}; name another --output (or another dataset)")


def makers(place: str, made: Iterable[Thing]) -> list[Thing]:
    """The paths among what was made that are this path, hold it, or lie in it."""
    return [one for one in made if one[0] == "path" and (_is_below(place, one[1]) or _is_below(one[1], place))]


def _is_below(place: str, folder: str) -> bool:
    return place == folder or place.startswith(folder.rstrip("/") + "/")
