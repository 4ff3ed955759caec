"""What charts of a dataset stand on: its runs, its ranking, a selection, and the relations that their queries read."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from diq.base import config
from diq.base.command import quoted
from diq.base.errors import MissingScoresError, UsageError
from diq.selection.ranking import current_ranking, make_ranking
from diq.selection.scores import Request, Runs, choose_runs, settled_weights
from diq.store.rows import SampleRows
from diq.store.store import Store

StoreLike = str | os.PathLike[str] | Store | None
"""A store file, an open store, or None for ``$DIQ_STORE``, else ``diq.duckdb``."""


@dataclass(frozen=True, slots=True)
class Ranked:
    """The ranking by quadrants that the view ``ranked`` of the connection shows.

    Attributes:
        ranking_id: its number; None where it was made to be looked at and is not stored.
        tau: difficulty threshold.
        median: median of the dots.
        counts: samples of Q1 to Q4.
        n: samples with both scores.
        n_unscored: samples without one of them.
        half_sizes: validation samples of the two halves; None without folds.
        half_counts: samples of Q1 to Q4 in the rankings by each half; None likewise.
        influence: ``dot`` or ``cosine``: what ``median`` and the column dot of ``ranked`` are of.
    """

    ranking_id: int | None
    tau: float
    median: float
    counts: tuple[int, ...]
    n: int
    n_unscored: int
    half_sizes: tuple[int, int] | None
    half_counts: tuple[tuple[int, ...], tuple[int, ...]] | None
    influence: str = "dot"


@dataclass(slots=True)
class Ground:
    """A dataset with all that charts need to know of it.

    Attributes:
        store: open, with the views ``ranked`` and ``chosen``.
        data: the dataset's row.
        model: name of the model whose dots are drawn; None where there are none.
        dimension: of the difficulty.
        influence_run: run of the dots; None where there is none.
        difficulty_run: run of the difficulty; None where there is none.
        weights: weight of each validation set whose dots count; None: all of the run, by their samples (Eq. 3).
        ranked: the ranking; None where a score is missing.
        selection: the selection's row with its ranking's; None without one.
        notes: what is missing or not as it was, a line each, with the command that mends it.
        samples: the rows of the dataset, once a chart has needed them.
        placed: ``[n]`` quadrant and ``[n]`` dot of each of them in the ranking, likewise.
    """

    store: Store
    data: dict[str, Any]
    model: str | None
    dimension: str
    influence_run: int | None = None
    difficulty_run: int | None = None
    weights: dict[str, float] | None = None
    ranked: Ranked | None = None
    selection: dict[str, Any] | None = None
    notes: list[str] = field(default_factory=list)
    samples: SampleRows | None = None
    placed: tuple[npt.NDArray[np.uint8], npt.NDArray[np.float64]] | None = None

    @property
    def name(self) -> str:
        """Name of the dataset."""
        return str(self.data["name"])

    def needs_ranking(self) -> Ranked:
        """The ranking.

        Raises:
            MissingScoresError: there is none; the first note says why.
        """
        if self.ranked is None:
            raise MissingScoresError(
                f"dataset `{self.name}` has no difficulty and influence to draw", "; ".join(self.notes)
            )
        return self.ranked

    def needs_dots(self) -> int:
        """The influence run. Raises as `needs_ranking`."""
        if self.influence_run is None:
            raise MissingScoresError(f"dataset `{self.name}` has no influence to draw", "; ".join(self.notes))
        return self.influence_run


@contextlib.contextmanager
def opened(store: StoreLike) -> Iterator[Store]:
    """An open store: the one that is given, or a reader of the file for as long as the block lasts."""
    if isinstance(store, Store):
        yield store
        return
    with Store(config.store_path(store), read_only=True) as found:
        found.run("plot/limit_memory")
        yield found


@contextlib.contextmanager
def grounded(
    store: StoreLike,
    dataset: str | None = None,
    model: str | None = None,
    *,
    selection: str | int | None = None,
    dimension: str = "overall",
    run: int | None = None,
    difficulty_run: int | None = None,
    validation_set: str | Sequence[str] = (),
) -> Iterator[Ground]:
    """Look up what charts of a dataset stand on, for the length of a ``with`` block.

    Args:
        store: as `StoreLike`.
        dataset: its name; None takes that of the selection, or the only one.
        model: name of a scored model; None takes that of the selection, or the only one.
        selection: name or number of a selection of the dataset.
        dimension: of the difficulty; a selection by quadrants brings its own.
        run: influence run, where there are several.
        difficulty_run: difficulty run, where there are several.
        validation_set: those whose dots count, as ``NAME`` or ``NAME=WEIGHT``; none: all of the run. A selection by the
            dots of the run brings its own.

    Raises:
        UsageError: an unknown name, or several to choose from.
        StoreError: the store cannot be opened.
    """
    with opened(store) as found:
        chosen = None
        if selection is not None:
            row = found.selection(str(selection))
            chosen = found.row("store/ranking_of_selection", selection_id=row["selection_id"])
            assert chosen is not None
        name = dataset or (chosen["dataset"] if chosen else _only_dataset(found))
        if chosen is not None and chosen["dataset"] != name:
            raise UsageError(
                f"the selection `{selection}` is of dataset `{chosen['dataset']}`, not of `{name}`",
                "leave the dataset out, or name another selection",
            )
        if chosen is not None and chosen["quadrant_counts"] is not None:
            dimension = json.loads(chosen["config"])["difficulty"]
        ground = Ground(found, found.dataset(name), model, dimension, selection=chosen)
        _find_runs(ground, run, difficulty_run)
        ground.weights = _weights(ground, [validation_set] if isinstance(validation_set, str) else validation_set)
        _show_ranking(ground)
        found.run("plot/choose", selection_id=chosen["selection_id"] if chosen else None)
        yield ground


def training_datasets(store: Store) -> list[str]:
    """Names of the datasets that are selected from.

    Raises:
        UsageError: there is none.
    """
    names = [one["name"] for one in store.rows("store/list_datasets") if one["kind"] == "training"]
    if not names:
        raise UsageError(f"there is no dataset in `{store.path}`", "run `diq ingest` first")
    return names


def _only_dataset(store: Store) -> str:
    names = training_datasets(store)
    if len(names) == 1:
        return names[0]
    raise UsageError(f"`{store.path}` has several datasets: {', '.join(names)}", "name one")


def _find_runs(ground: Ground, run: int | None, difficulty_run: int | None) -> None:
    """Fill in the model and its runs; what is missing becomes a note."""
    chosen = ground.selection
    ids = {"dataset_id": ground.data["dataset_id"]}
    if ground.model is None:
        asked = [chosen["model"]] if chosen and chosen["model"] else []
        rows = ground.store.rows("store/candidate_runs", kind="influence", model=None, **ids)
        if run is not None:
            rows = [one for one in rows if one["run_id"] == run]
        models = asked or sorted({one["model"] for one in rows if one["state"] == "sealed"})
        if len(models) > 1:
            raise UsageError(
                f"dataset `{ground.name}` has dots of several models: {', '.join(models)}", "name one with --model"
            )
        ground.model = models[0] if models else None
    if chosen is not None and chosen["model"] == ground.model:
        run = run or chosen["influence_run"]
        difficulty_run = difficulty_run or chosen["difficulty_run"]
    if ground.model is None:
        ground.notes.append(f"no influence scores: run `diq score influence {quoted(ground.name)} --model MODEL`")
    else:
        ground.influence_run = _run(ground, Request("influence", model=ground.model, influence="dot"), run, None)
    request = Request(ground.dimension, difficulty=ground.dimension)
    ground.difficulty_run = _run(ground, request, None, difficulty_run)


def _run(ground: Ground, request: Request, asked: int | None, asked_difficulty: int | None) -> int | None:
    try:
        runs = choose_runs(ground.store, ground.data, request, asked, asked_difficulty)
    except MissingScoresError as error:
        ground.notes.append(error.told)
        return None
    return runs.influence if request.influence else runs.difficulty


def _weights(ground: Ground, asked: Sequence[str]) -> dict[str, float] | None:
    """Weights of the validation sets: those of a selection by dots of the run, else those that are asked for."""
    chosen = ground.selection
    if ground.influence_run is None:
        return None
    if chosen is not None and chosen["influence_run"] == ground.influence_run:
        found: dict[str, float] | None = json.loads(chosen["config"]).get("validation_weights")
        return found
    request, runs = Request("influence", influence="dot"), Runs(influence=ground.influence_run)
    return settled_weights(ground.store, request, runs, asked)


def _show_ranking(ground: Ground) -> None:
    """Make the view ``ranked``: of the selection's ranking, of the latest one, or of one that is made now."""
    chosen, store = ground.selection, ground.store
    if chosen is not None and chosen["base_ranking"] is not None:
        # a walk holds what it took alone; its samples are drawn among all that it went through
        chosen = chosen | (store.row("plot/base_ranking", ranking_id=chosen["base_ranking"]) or {})
    if chosen is not None and chosen["quadrant_counts"] is not None:
        if chosen["replaced_by"] is None:
            if chosen["is_current"] is False:
                ground.notes.append(
                    f"scores have changed since ranking {chosen['ranking_id']} of selection `{chosen['name']}` was "
                    "made: it is drawn as it was; the next `diq select` ranks again"
                )
            _show_stored(ground, chosen)
            return
        ground.notes.append(
            f"the ranking of selection `{chosen['name']}` was replaced after scores changed: "
            "its samples are drawn among today's scores; `diq select` makes it anew"
        )
    if ground.influence_run is None or ground.difficulty_run is None:
        return
    request = Request("diq", model=ground.model, difficulty=ground.dimension, percentile=0.5, influence="dot")
    runs = Runs(influence=ground.influence_run, difficulty=ground.difficulty_run)
    found = current_ranking(store, ground.data, request, runs, ground.weights)
    if found is not None:
        _show_stored(ground, found)
        return
    try:
        made = make_ranking(store, ground.data, request, runs, ground.weights)
    except MissingScoresError as error:
        ground.notes.append(_why_none(ground) or error.told)
        return
    store.insert("plot/copy_ranked", made.rows)
    store.run("plot/view_ranked_copy")
    ground.ranked = _ranked(made.facts | {"ranking_id": None})


def _why_none(ground: Ground) -> str | None:
    """What is to be said where no sample has a dot with every validation set that counts, but some with others."""
    ids = {"dataset_id": ground.data["dataset_id"], "run_id": ground.influence_run}
    with_dots = {one["name"] for one in ground.store.rows("plot/sets_with_dots", **ids)}
    names = [one["name"] for one in ground.store.rows("store/validation_sets_of_run", run_id=ground.influence_run)]
    lacking = [name for name in ground.weights or names if name not in with_dots]
    if not with_dots or not lacking:
        return None
    words = " ".join(f"--validation-set {quoted(name)}" for name in names if name in with_dots)
    return (
        f"no sample of `{ground.name}` has dots with the validation {'set' if len(lacking) == 1 else 'sets'} "
        f"{', '.join(f'`{name}`' for name in lacking)} of run {ground.influence_run}, so none is ranked: "
        f"`{words}` counts the others alone"
    )


def _show_stored(ground: Ground, row: dict[str, Any]) -> None:
    ground.store.run("plot/set_ranking", ranking_id=row["ranking_id"])
    ground.store.run("plot/view_ranked")
    ground.ranked = _ranked(row)


def _ranked(row: dict[str, Any]) -> Ranked:
    return Ranked(
        ranking_id=row["ranking_id"],
        tau=row["tau"],
        median=row["median"],
        counts=tuple(row["quadrant_counts"]),
        n=row["n_scored"],
        n_unscored=row["n_unscored"],
        half_sizes=tuple(row["half_sizes"]) if row["half_sizes"] else None,
        half_counts=(tuple(row["even_counts"]), tuple(row["odd_counts"])) if row["even_counts"] else None,
        influence=json.loads(row["config"])["influence"] if row.get("config") else "dot",
    )
