"""What a recipe has done: a record in its output folder, and whether the results that it speaks of are still there.

A step is done when it was finished with the same options, by the same inputs, and its results are still in the store.
The record only saves work: without it every stage is called, finds its results, and computes what is missing.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from diq.base.errors import UsageError
from diq.base.files import check_folder, disk_errors, lock, write_text
from diq.base.fingerprint import canonical_json, fingerprint_of
from diq.recipes.check import Thing, makers, reads, writes
from diq.recipes.text import Recipe, Step
from diq.recipes.verbs import VERBS
from diq.store.store import Store

RECORD = "recipe.json"
_FORMAT = "diq recipe 1"
LOCK = ".recipe.lock"


def fingerprints(recipe: Recipe) -> list[str]:
    """Of each step: verb, options, files that it reads, and the fingerprints of the steps whose results it reads.

    A changed file or option changes the fingerprints of everything downstream, and of nothing else.
    """
    versions: dict[Thing, str] = {}
    found = []
    for step in recipe.steps:
        things = {thing for _, thing in reads(step)}
        if step.verb in ("score influence", "score similarity") and not step.options.get("validation_set"):
            things |= {thing for thing in versions if thing[0] == "validation set"}
        inputs = {f"{kind} {name}": _version((kind, name), versions) for kind, name in things}
        mark = fingerprint_of(canonical_json([step.verb, _plain(step.options), inputs]))
        found.append(mark)
        for thing in writes(step):
            # a dataset of two ingests is what both made
            versions[thing] = _joined(versions.get(thing), mark)
    return found


def _plain(value: Any) -> Any:
    """Options as JSON has them: non-finite numbers as texts."""
    return json.loads(json.dumps(value), parse_constant=str)


def _version(thing: Thing, versions: Mapping[Thing, str]) -> Any:
    kind, name = thing
    if kind == "path":
        made = makers(name, versions)
        return sorted(versions[one] for one in made) if made else stamp(Path(name))
    if thing in versions:
        return versions[thing]
    # scores of any model, or a selection that is a dataset
    dataset = name.partition(" ")[0]
    return sorted(
        mark for (of, one), mark in versions.items()
        if (of == kind or (kind == "selection" and of == "dataset")) and one.partition(" ")[0] == dataset
    )  # fmt: skip


def _joined(before: str | None, mark: str) -> str:
    return mark if before is None else fingerprint_of(f"{before} {mark}")


def stamp(path: Path) -> list[list[Any]]:
    """Size and time of a file, or of every file of a folder; empty where there is none (a hub id, say)."""
    files = (
        [path] if path.is_file() else sorted(one for one in path.rglob("*") if one.is_file()) if path.is_dir() else []
    )
    found = []
    for one in files:
        facts = one.stat()
        found.append([one.name if one == path else one.relative_to(path).as_posix(), facts.st_size, facts.st_mtime_ns])
    return found


def evidence(step: Step, run_id: int | None, store: Store | None) -> dict[str, Any] | None:
    """What there is of a step's results, to be compared later; None where something is missing.

    Args:
        step: the step.
        run_id: the run that its stage told of, if any.
        store: the store, if there is one.
    """
    found: dict[str, Any] = {}
    for kind, name in [*(thing for _, thing in reads(step)), *writes(step)]:
        row = None
        if kind not in ("dataset", "validation set", "selection"):
            continue
        if store is None:
            return None
        if kind == "dataset":
            row = store.row("store/get_dataset", name=name)
        elif kind == "validation set":
            row = store.row("store/get_validation_set", name=name)
        else:
            row = store.find_selection(name) or store.row("store/get_dataset", name=name)
        if row is None:
            return None
        found[f"{kind} {name}"] = [value for value in row.values() if isinstance(value, int | str)]
    if run_id is not None:
        if store is None:
            return None
        states = store.rows("recipes/states_of_run", run_id=run_id)
        if not states:
            return None
        found["run"] = [[one["fingerprint"], one["dataset_id"], one["state"]] for one in states]
    paths = _paths(step)
    return None if paths is None else {**found, "paths": paths}


def _paths(step: Step) -> dict[str, Any] | None:
    """Files that the step wrote, with their stamps; folders only have to be there. None where one is missing."""
    found: dict[str, Any] = {}
    for kind, name in writes(step):
        if kind == "path":
            path = Path(name)
            if not path.exists():
                return None
            found[name] = stamp(path) if path.is_file() else "folder"
    return found


class Record:
    """The record in the output folder.

    Attributes:
        recipe: name of the recipe that worked there last; None where none did.
        steps: what became of each step, by its fingerprint.
    """

    def __init__(self, folder: Path) -> None:
        self.path = folder / RECORD
        self.recipe: str | None = None
        self.steps: dict[str, dict[str, Any]] = {}
        if self.path.exists():
            try:
                value = json.loads(self.path.read_text(encoding="utf-8"))
                assert value["format"] == _FORMAT
                self.recipe = str(value["recipe"])
                self.steps = {str(key): dict(one) for key, one in value["steps"].items()}
            except (ValueError, KeyError, TypeError, AttributeError, AssertionError) as error:
                raise UsageError(
                    f"`{self.path}` is no record of a recipe",
                    "delete it (what is in the store is not computed again), or name another --output",
                ) from error

    def is_done(self, step: Step, mark: str, store: Store | None) -> bool:
        """Whether the step was finished, and its results are still there."""
        entry = self.steps.get(mark)
        if VERBS[step.verb].always:
            return False
        if entry is None or entry["state"] != "done" or entry.get("evidence") is None:
            return False
        now = evidence(step, entry.get("run_id"), store)
        return now is not None and json.loads(json.dumps(now)) == entry["evidence"]

    def write(self, about: Mapping[str, Any]) -> None:
        """Replace the file in one step."""
        value = {"format": _FORMAT, **about, "steps": self.steps}
        write_text(self.path, json.dumps(value, indent=2, ensure_ascii=False, default=str) + "\n")


@contextlib.contextmanager
def held(folder: Path) -> Iterator[None]:
    """The output folder, made if need be, held by this process alone.

    Raises:
        UsageError: it cannot be a folder, or another recipe runs in it.
    """
    check_folder(folder)
    with disk_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
    refusal = UsageError(
        f"another recipe is running in `{folder}`", "wait until it has finished, or name another --output"
    )
    with lock(folder / LOCK, refusal):
        yield
