"""What the page shows of a dataset: its scores as columns, read once, so that the store is free while people look."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from diq.base.arrow import numbers
from diq.base.errors import MissingScoresError, UsageError
from diq.base.progress import Progress
from diq.base.text import amount
from diq.explorer.requests import Weights
from diq.influence.stored import ONLY_WHEN_MEANT, takes_largest
from diq.selection.scores import Request, Runs, choose_runs
from diq.store.rows import SampleRows
from diq.store.store import Store, listed_runs

Floats = npt.NDArray[np.float64]

TASK = "task:"
"""What the name of a column of dots starts with; the number of its validation set follows."""

NOT_SCORED = "not scored yet"

_MOST_SOURCES = 250


@dataclass(frozen=True, slots=True)
class Choice:
    """Whose scores the page is about.

    Attributes:
        store: the store file.
        data: the dataset.
        model: name of the model in the store.
        source: folder or hub id that the model can be loaded from.
        difficulty: dimension of the difficulty.
        runs: the runs of dots and difficulty.
        config: settings of the influence run, as it recorded them.
        difficulty_method: of the run of the difficulty.
        sets: rows of the query ``validation_sets_of_run``.
    """

    store: Path
    data: dict[str, Any]
    model: str
    source: str
    difficulty: str
    runs: Runs
    config: str
    difficulty_method: str
    sets: list[dict[str, Any]]

    @property
    def set_names(self) -> list[str]:
        """Validation sets of the run, in its order."""
        return [one["name"] for one in self.sets]

    @property
    def numbers(self) -> list[str]:
        """Columns of numbers, in the order of the page."""
        return ["difficulty", "influence", *(f"{TASK}{i}" for i in range(len(self.sets))), "answer_tokens", "loss"]

    def settled(self, weights: Weights) -> dict[str, float] | None:
        """Weights as the ranking takes them: of a run that takes the largest, they only choose."""
        if weights is None:
            return None
        return dict.fromkeys((name for name, _ in weights), 1.0) if takes_largest(self.sets) else dict(weights)

    def weight_texts(self, weights: Weights) -> tuple[str, ...]:
        """Weights as ``--validation-set`` takes them."""
        if weights is None:
            return ()
        return tuple(name if takes_largest(self.sets) else f"{name}={weight!r}" for name, weight in weights)

    @property
    def influence_run(self) -> int:
        """Number of the run of the dots."""
        assert self.runs.influence is not None
        return self.runs.influence

    @property
    def difficulty_run(self) -> int:
        """Number of the run of the difficulty."""
        assert self.runs.difficulty is not None
        return self.runs.difficulty


def choose(
    path: Path,
    dataset: str | None,
    model: str | os.PathLike[str] | None,
    difficulty: str,
    run: int | None,
    difficulty_run: int | None,
) -> Choice:
    """Find out whose scores are meant, as ``diq select`` does, and take the only ones where nothing was named.

    Raises:
        UsageError: an unknown name, or several to choose from.
        MissingScoresError: there are no scores yet; the hint is the command that makes them.
        StoreError: the store is missing or held by another process.
    """
    with Store(path, read_only=True) as opened:
        scored = [one for one in opened.rows("explorer/list_scored") if one["state"] == "sealed"]
        data = opened.dataset(_only_dataset(path, scored) if dataset is None else dataset)
        if data["n_samples"] == 0:
            raise UsageError(f"the dataset `{data['name']}` has no samples", "see `diq sql 'from rejects'`")
        scored = [one for one in scored if one["dataset"] == data["name"]]
        names = {one["name"]: one["source"] for one in opened.rows("store/list_models")}
        if model is None:
            name = _only_model(data, scored)
            source = names.get(name, "")
        else:
            text = os.fspath(model)
            tail = text.rstrip("/").rpartition("/")[2]
            # a folder goes by its name in the store
            name = tail if text not in names and tail in names else text
            source = names.get(text, text)
        # dots of all samples are shown, so a run that was scored in part will not do
        dots = choose_runs(opened, data, Request("influence", model=name, influence="dot"), run, None)
        levels = choose_runs(opened, data, Request(difficulty, difficulty=difficulty), None, difficulty_run)
        runs = Runs(influence=dots.influence, difficulty=levels.difficulty)
        found = opened.row("store/get_run", run_id=runs.influence)
        level = opened.row("store/get_run", run_id=runs.difficulty)
        sets = opened.rows("store/validation_sets_of_run", run_id=runs.influence)
        assert found is not None
        assert level is not None
    if not sets:
        raise MissingScoresError(
            f"run {runs.influence} of dataset `{data['name']}` has dots of no validation set",
            f"run `diq score influence {data['name']} --model {name}`",
        )
    return Choice(path, data, name, source, difficulty, runs, found["config"], level["method"], sets)


def _only_dataset(path: Path, scored: list[dict[str, Any]]) -> str:
    kinds: dict[str, set[str]] = {}
    for one in scored:
        kinds.setdefault(one["dataset"], set()).add(one["kind"])
    both = [name for name, found in kinds.items() if len(found) == 2]
    if len(both) == 1:
        return both[0]
    if both:
        listed = ", ".join(f"`{name}`" for name in both)
        raise UsageError(f"`{path}` holds several scored datasets: {listed}", "name one: `diq explore DATASET`")
    there = "; ".join(f"`{name}` has {' and '.join(sorted(found))}" for name, found in kinds.items())
    raise MissingScoresError(
        f"no dataset of `{path}` has scores of both difficulty and influence: {there or 'none has any'}",
        "run `diq score difficulty DATASET --model CLASSIFIER` and `diq score influence DATASET --model MODEL`",
    )


def _only_model(data: Mapping[str, Any], scored: list[dict[str, Any]]) -> str:
    runs = [one for one in scored if one["kind"] == "influence"]
    meant = [one for one in runs if one["method"] not in ONLY_WHEN_MEANT] or runs
    names = list(dict.fromkeys(one["model"] for one in meant))
    if len(names) == 1:
        return str(names[0])
    if names:
        listed = ", ".join(f"`{name}`" for name in names)
        raise UsageError(f"dataset `{data['name']}` has dots of several models: {listed}", "name one with --model")
    others = listed_runs([one for one in scored if one["kind"] == "difficulty"])
    there = f"; its difficulty is scored: run {others}" if others else ""
    raise MissingScoresError(
        f"no influence scores on dataset `{data['name']}`: found 0 of {amount(data['n_samples'], 'sample')}{there}",
        f"run `diq score influence {data['name']} --model MODEL`",
    )


@dataclass(frozen=True, slots=True)
class Table:
    """The scores of a dataset, one row a sample in the order of the positions; NaN where there is no finite score.

    Attributes:
        position: ``[n]`` int64, ascending.
        level: ``[n]`` difficulty.
        dots: ``[n]`` of each validation set.
        loss: ``[n]`` nats.
        answer_tokens: ``[n]``.
        source: ``[n]`` uint8, which of ``sources`` a sample came from.
        sources: paths, the last one for all others where there are very many.
        lacking: why samples have no difficulty (``""``) or no dot of a validation set, with how many: reasons that a
            scoring gave, and `NOT_SCORED`. What no sample lacks is left out; of a part of the samples nothing is known.
    """

    position: npt.NDArray[np.int64]
    level: Floats
    dots: dict[str, Floats]
    loss: Floats
    answer_tokens: Floats
    source: npt.NDArray[np.uint8]
    sources: list[str]
    lacking: dict[str, dict[str, int]]

    def __len__(self) -> int:
        return len(self.position)

    def rows_of(self, positions: list[int]) -> npt.NDArray[np.int64]:
        """Rows of samples.

        Raises:
            UsageError: there is no sample at a position.
        """
        wanted = np.array(positions, np.int64)
        rows = np.searchsorted(self.position, wanted)
        unknown = wanted[self.position[np.minimum(rows, len(self) - 1)] != wanted]
        if len(unknown):
            raise UsageError(f"there is no sample at position {unknown[0]}", "reload the page")
        return rows


def read_table(choice: Choice, progress: Progress | None = None, *, part: float = 1.0) -> Table:
    """Read the columns; the store is open no longer than that.

    Args:
        choice: whose scores.
        progress: is told what is being read.
        part: share of the samples.

    Raises:
        StoreError: the store is missing or held by another process.
    """
    steps = len(choice.sets) + 2

    def tell(done: int) -> None:
        if progress:
            progress("reading scores", done, steps)

    dataset_id = choice.data["dataset_id"]
    with Store(choice.store, read_only=True) as opened:
        tell(0)
        found = SampleRows(opened, dataset_id, part=part)
        n, source, sources = len(found), *_sources(opened, dataset_id, found.source_id)
        tell(1)
        level, loss, answer_tokens = (np.full(n, np.nan) for _ in range(3))
        found.scatter(opened, {choice.difficulty: level}, "store/levels_of_run", difficulty_run=choice.difficulty_run)
        dots = {}
        for done, one in enumerate(choice.sets):
            tell(2 + done)
            dots[one["name"]] = dot = np.full(n, np.nan)
            # loss and tokens are the same for every set of a run, but not every set has the same samples
            lacking = np.isnan(loss).any() or np.isnan(answer_tokens).any()
            columns = {"dot": dot} | ({"loss": loss, "answer_tokens": answer_tokens} if lacking else {})
            read = {"run_id": choice.influence_run, "validation_set_id": one["validation_set_id"]}
            found.scatter(opened, columns, "store/dots_of_set", **read)
        tell(steps)
        lacking = _lacking(opened, choice, level, dots) if part == 1.0 else {}
    return Table(found.position, level, dots, loss, answer_tokens, source, sources, lacking)


def _lacking(opened: Store, choice: Choice, level: Floats, dots: Mapping[str, Floats]) -> dict[str, dict[str, int]]:
    """Why samples have no score of a column, as in the table."""
    place = {"dataset_id": choice.data["dataset_id"]}
    asked: dict[str, tuple[Floats, str, dict[str, Any]]] = {
        "": (level, "store/difficulty_reasons", {"run_id": choice.difficulty_run})
    }
    for one in choice.sets:
        ids = {"run_id": choice.influence_run, "validation_set_id": one["validation_set_id"]}
        asked[one["name"]] = dots[one["name"]], "explorer/reasons_of_set", ids
    found: dict[str, dict[str, int]] = {}
    for name, (column, query, ids) in asked.items():
        if n := int(np.count_nonzero(np.isnan(column))):
            reasons = {row["reason"]: row["n"] for row in opened.rows(query, **place, **ids)}
            rest = n - sum(reasons.values())
            found[name] = reasons | ({NOT_SCORED: rest} if rest > 0 else {})
    return found


def _sources(
    opened: Store, dataset_id: int, source_ids: npt.NDArray[np.int32]
) -> tuple[npt.NDArray[np.uint8], list[str]]:
    """Codes and paths of the sources."""
    rows = opened.rows("store/list_sources", dataset_id=dataset_id)
    # files of scores are sources, too
    paths = {row["source_id"]: row["path"] for row in rows if row["kind"] == "samples"}
    lowest = min(paths, default=int(source_ids.min(initial=0)))
    counts = np.bincount(source_ids - lowest)
    # all of the dataset, so that a part of its samples has the same ones
    listed = np.array(sorted({*paths, *(np.flatnonzero(counts) + lowest).tolist()}), np.int64)
    sources = [paths.get(int(one), f"source {one}") for one in listed[:_MOST_SOURCES]]
    codes = np.zeros(int(listed[-1]) - lowest + 1 if len(listed) else 0, np.uint8)
    codes[listed - lowest] = np.minimum(np.arange(len(listed)), _MOST_SOURCES)
    if len(listed) > _MOST_SOURCES:
        sources.append(f"{amount(len(listed) - _MOST_SOURCES, 'other source')}")
    return codes[source_ids - lowest], sources


def positions_of(path: Path, selection_id: int) -> npt.NDArray[np.int64]:
    """Positions of the samples of a stored selection, ``[k]``."""
    with Store(path, read_only=True) as opened:
        found = opened.arrow("explorer/positions_of_selection", selection_id=selection_id)
    return np.asarray(numbers(found.column("position")), np.int64)


def selections_of(choice: Choice) -> list[dict[str, Any]]:
    """Stored selections of the dataset, latest first."""
    with Store(choice.store, read_only=True) as opened:
        rows = opened.rows("store/list_selections")
    kept = ("selection_id", "name", "strategy", "ratio", "n", "replaced")
    return [{name: one[name] for name in kept} for one in rows if one["dataset"] == choice.data["name"]]
