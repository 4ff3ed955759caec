"""The scores that a strategy ranks by: which runs they come from, and their columns."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from diq.base.arrow import by_position, numbers
from diq.base.command import quoted
from diq.base.config import DIFFICULTY_DIMENSIONS
from diq.base.errors import MissingScoresError, UsageError
from diq.base.text import amount, did_you_mean
from diq.baselines.options import LARGEST_IFD
from diq.influence.stored import (
    LESS,
    ONLY_WHEN_MEANT,
    RATER,
    choose_weights,
    divided,
    read_influence,
    read_similarity,
    takes_largest,
)
from diq.scoring.commands import difficulty_command
from diq.selection.options import (
    DEFAULT_BAND,
    DIFFICULTY_STRATEGIES,
    DOT_STRATEGIES,
    MODEL_STRATEGIES,
    QUADRANT_STRATEGIES,
    SET_STRATEGIES,
    TEXT_STRATEGIES,
    read_band,
)
from diq.store.runs import difficulty_candidates, one_run
from diq.store.store import Store

log = logging.getLogger(__name__)

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Request:
    """What a ranking is made by; what its strategy does not use is None.

    Attributes:
        strategy: ``diq`` (which q1 to q4 take parts of), ``random``, or the score that decides alone.
        model: name of the model that the dots or text scores belong to.
        encoder: name of the encoder that the similarities belong to.
        difficulty: ``knowledge``, ``reasoning`` or ``overall``.
        percentile: p of the difficulty threshold.
        threshold: an absolute difficulty threshold in its place.
        influence: ``dot`` or ``cosine``.
        seed: of the strategy ``random``.
        band: lowest and highest pass rate that is taken.
    """

    strategy: str
    model: str | None = None
    encoder: str | None = None
    difficulty: str | None = None
    percentile: float | None = None
    threshold: float | None = None
    influence: str | None = None
    seed: int | None = None
    band: tuple[float, float] | None = None

    def settings(self) -> dict[str, Any]:
        """As a ranking keeps it; what came later than the first rankings is left out where it is not used."""
        return {key: value for key, value in asdict(self).items() if key != "band" or value is not None}

    @property
    def taken(self) -> tuple[float | None, float | None] | None:
        """Least and largest text score that the strategy takes; None where it takes all."""
        return self.band if self.band is not None else (None, LARGEST_IFD) if self.strategy == "ifd" else None

    @classmethod
    def of(
        cls,
        strategy: str,
        *,
        model: str | None,
        encoder: str | None,
        difficulty: str,
        percentile: float,
        threshold: float | None,
        influence: str,
        seed: int,
        band: str = DEFAULT_BAND,
    ) -> Request:
        """The request with everything left out that the strategy does not use, so that equal rankings are equal."""
        quadrants = strategy in QUADRANT_STRATEGIES
        return cls(
            "diq" if quadrants else strategy,
            model=model if strategy in (*DOT_STRATEGIES, *MODEL_STRATEGIES) else None,
            encoder=encoder if strategy == "similarity" else None,
            difficulty=strategy
            if strategy in DIFFICULTY_DIMENSIONS
            else difficulty
            if strategy in DIFFICULTY_STRATEGIES
            else None,
            percentile=percentile if quadrants and threshold is None else None,
            threshold=threshold if quadrants else None,
            influence=influence if strategy in DOT_STRATEGIES else None,
            seed=seed if strategy == "random" else None,
            band=read_band(band) if strategy == "pass_rate" else None,
        )


@dataclass(frozen=True, slots=True)
class Runs:
    """The runs whose scores a ranking is made from; None where the strategy uses none."""

    influence: int | None = None
    difficulty: int | None = None
    score: int | None = None


def choose_runs(
    store: Store,
    data: dict[str, Any],
    request: Request,
    asked: int | None,
    asked_difficulty: int | None,
    asked_sets: Sequence[str] = (),
) -> Runs:
    """Look up the runs of a request.

    Args:
        store: an open store.
        data: the dataset.
        request: what is ranked by.
        asked: number of the run of dots or text scores; None takes the only one.
        asked_difficulty: likewise, of the difficulty.
        asked_sets: ``NAME`` or ``NAME=WEIGHT`` texts of validation sets; none: all of the run. A run whose other sets
            are not finished is finished for these.

    Raises:
        UsageError: no model is named, or an unknown one.
        MissingScoresError: no run, none that is finished, or several.
    """
    influence = difficulty = score = None
    name, strategy, model = data["name"], request.strategy, request.model
    if strategy in DOT_STRATEGIES:
        if model is None:
            raise UsageError(f"the strategy `{strategy}` needs a model", "give --model NAME; `diq status` lists them")
        _check_model(store, model, f"diq score influence {quoted(name)} --model {quoted(model)}")
        less = strategy == LESS
        command = f"diq score influence {quoted(name)} --model {quoted(model)}" + (" --method less" if less else "")
        candidates = store.rows("store/candidate_runs", kind="influence", dataset_id=data["dataset_id"], model=model)
        # cosines of less and predictions of a rater are no dots: they are taken only when nothing else is there
        others = [one for one in candidates if one["method"] not in ONLY_WHEN_MEANT]
        if less:
            candidates = [one for one in candidates if one["method"] == LESS]
        elif asked is None and others:
            candidates = others
        candidates = [_finished_for(store, data, one, asked_sets) for one in candidates]
        wanted = f"influence scores of model `{model}`" + (" by method less" if less else "")
        influence = one_run(store, candidates, asked, wanted, data, command, "--run", partial=strategy == "diq")
        _warn_of_predictions(store, influence)
        _warn_of_namesakes(store, model, influence)
    if strategy in DIFFICULTY_STRATEGIES:
        candidates = difficulty_candidates(store, data["dataset_id"], asked_difficulty)
        command = difficulty_command(name)
        difficulty = one_run(
            store,
            candidates,
            asked_difficulty,
            "difficulty scores",
            data,
            command,
            "--difficulty-run",
            request.difficulty,
        )
    if strategy in TEXT_STRATEGIES:
        owner = request.encoder if strategy == "similarity" else model
        command = _scoring_command(name, strategy, owner)
        if owner is not None:
            _check_model(store, owner, command)
        candidates = store.rows("store/candidate_runs", kind=strategy, dataset_id=data["dataset_id"], model=owner)
        wanted = f"{strategy.replace('_', ' ')} scores" + (f" of `{owner}`" if owner else "")
        score = one_run(store, candidates, asked, wanted, data, command, "--run")
        if owner is not None:
            _warn_of_namesakes(store, owner, score)
    return Runs(influence, difficulty, score)


def _finished_for(store: Store, data: dict[str, Any], run: dict[str, Any], asked: Sequence[str]) -> dict[str, Any]:
    """The row of a run, as finished where it is so for the validation sets that were asked for."""
    if run["state"] == "sealed" or not asked:
        return run
    sets = store.rows("store/validation_sets_of_run", run_id=run["run_id"])
    names = {one["name"] for one in sets}
    wanted = {text if text in names else text.rpartition("=")[0] for text in asked}
    ids = [one["validation_set_id"] for one in sets if one["name"] in wanted]
    if not wanted <= names or len(lacking(store, data, run["run_id"], ids)):
        return run
    return run | {"state": "sealed", "partial": False}


def lacking(store: Store, data: Mapping[str, Any], run_id: int, set_ids: Sequence[int]) -> npt.NDArray[np.int64]:
    """Positions of the samples that lack a row of one of these validation sets in a run."""
    found = store.arrow(
        "store/samples_missing_influence",
        dataset_id=data["dataset_id"],
        run_id=run_id,
        validation_set_ids=list(set_ids),
    )
    return np.asarray(numbers(found.column("position"))[numbers(found.column("missing"))], np.int64)


def _scoring_command(dataset: str, strategy: str, owner: str | None) -> str:
    """The command that computes the text scores of a strategy."""
    command = f"diq score {strategy.replace('_', '-')} {quoted(dataset)}"
    if strategy == "bm25":
        return command
    option, example = {
        "similarity": ("--encoder", "ENCODER"),
        "length": ("--model", "TOKENIZER"),
    }.get(strategy, ("--model", "MODEL"))
    return f"{command} {option} {quoted(owner) if owner else example}"


def _warn_of_predictions(store: Store, run_id: int) -> None:
    """Say so where the dots of a run are a rater's predictions."""
    run = store.row("store/get_run", run_id=run_id)
    if run is not None and run["method"] == RATER:
        spearman = json.loads(run["config"])["spearman"]
        found = "unknown" if spearman is None else f"{spearman:.2f}"
        log.warning(
            "the dots of run %d are predictions of a rater (Spearman with dots of held-out samples: %s)", run_id, found
        )


def _warn_of_namesakes(store: Store, name: str, run_id: int) -> None:
    """Say whose scores are taken where several models have the name: a folder that was trained again keeps it."""
    # models of servers have no such scores
    named = [
        row
        for row in store.rows("store/list_models")
        if row["name"] == name and not row["model_id"].startswith(("server:", "api:"))
    ]
    run = store.row("store/get_run", run_id=run_id)
    if len(named) > 1 and run is not None:
        source = next(row["source"] for row in named if row["model_id"] == run["model_id"])
        log.warning(
            "%d models are called `%s`: run %d is of the one of `%s` (%s)",
            len(named), name, run_id, source, run["model_id"][:12],
        )  # fmt: skip


def _check_model(store: Store, name: str, command: str) -> None:
    known = [row["name"] for row in store.rows("store/list_models")]
    if name not in known:
        raise UsageError(f"no model named `{name}` in `{store.path}`", did_you_mean(name, known) or f"run `{command}`")


def settled_weights(store: Store, request: Request, runs: Runs, asked: Sequence[str]) -> dict[str, float] | None:
    """Weight of each validation set that ``NAME`` or ``NAME=WEIGHT`` texts choose; None takes all of the run.

    Raises:
        UsageError: as :func:`diq.influence.choose_weights`, or ``cosine`` for a run that holds cosines.
    """
    run_id = runs.score if request.strategy in SET_STRATEGIES else runs.influence
    if run_id is None:
        return None
    sets = store.rows("store/validation_sets_of_run", run_id=run_id)
    if request.strategy == "rds":
        weighted = [one for one in asked if one not in {row["name"] for row in sets} and "=" in one]
        if weighted:
            raise UsageError(
                f"the strategy `rds` takes turns, in which `{weighted[0]}` has no meaning",
                "name the set without a weight",
            )
    if request.influence == "cosine" and takes_largest(sets):
        raise UsageError(f"run {run_id} of method `less` holds cosines already", "leave out --influence cosine")
    return choose_weights(asked, sets)


@dataclass(frozen=True, slots=True)
class Scores:
    """Columns of a dataset, one row a sample in the order of its positions; NaN where a score is missing.

    Attributes:
        position: ``[n]``.
        level: ``[n]`` difficulty.
        dot: ``[n]`` dots, or dots over gradient norms for the influence ``cosine``.
        score: ``[n]`` text scores.
        halves: ``[n]`` what ``dot`` would be by the even and by the odd folds of the validation sets; None where a
            sample with a dot lacks them.
        half_sizes: validation samples of the two halves; None without them.
        turn: ``[n]`` when each is taken where validation samples take turns, from 0 up; None for other strategies.
    """

    position: npt.NDArray[np.int64]
    level: Floats
    dot: Floats
    score: Floats
    halves: tuple[Floats, Floats] | None = None
    half_sizes: tuple[int, int] | None = None
    turn: Floats | None = None

    def without(self, positions: npt.NDArray[np.int64]) -> Scores:
        """The rows of all other positions."""
        if not len(positions):
            return self
        kept = ~np.isin(self.position, positions)
        halves = (self.halves[0][kept], self.halves[1][kept]) if self.halves else None
        position, level, dot, score = self.position[kept], self.level[kept], self.dot[kept], self.score[kept]
        return Scores(position, level, dot, score, halves, self.half_sizes)


def read_scores(
    store: Store, data: dict[str, Any], request: Request, runs: Runs, weights: dict[str, float] | None
) -> Scores:
    """Read what a request ranks by.

    Raises:
        MissingScoresError: the influence ``cosine``, and a sample with a dot lacks its gradient norm.
    """
    dataset_id = data["dataset_id"]
    position = numbers(store.arrow("store/positions_of_dataset", dataset_id=dataset_id).column("position"))
    missing = np.full(len(position), np.nan)
    level = dot = score = missing
    halves = half_sizes = None
    if runs.difficulty is not None:
        found = store.arrow(
            "store/levels_of_dataset",
            dataset_id=dataset_id,
            difficulty=request.difficulty,
            difficulty_run=runs.difficulty,
        )
        level = by_position(position, found, "level")
    if runs.influence is not None:
        read = read_influence(
            store, dataset_id=dataset_id, run_id=runs.influence, weights=weights, norms=request.influence == "cosine"
        )
        dot, halves, half_sizes = read.dot, read.halves, read.half_sizes
        if read.norm is not None:
            check_norms("influence `cosine`", "--influence cosine", data, runs.influence, dot, read.norm)
            dot = divided(dot, read.norm)
            halves = (divided(halves[0], read.norm), divided(halves[1], read.norm)) if halves else None
        scored = np.isfinite(dot)
        if halves and all(np.isfinite(half[scored]).all() for half in halves):
            # whatever has no dot is in no ranking by a half of it either
            halves = (np.where(scored, halves[0], np.nan), np.where(scored, halves[1], np.nan))
        else:
            # also where some samples were scored before there were folds
            halves = half_sizes = None
    if request.strategy in ("similarity", "bm25") and runs.score is not None:
        score = read_similarity(store, dataset_id=dataset_id, run_id=runs.score, weights=weights)
    elif runs.score is not None:
        found = store.arrow("store/text_score_of_dataset", dataset_id=dataset_id, run_id=runs.score)
        score = by_position(position, found, "score")
    return Scores(position, level, dot, score, halves, half_sizes)


def check_norms(asked: str, option: str, data: dict[str, Any], run_id: int | None, dot: Floats, norm: Floats) -> None:
    """Refuse a run in which a sample with a dot lacks its gradient norm.

    Args:
        asked: what needs the norms, in words.
        option: the option that asks for it.
        data: the dataset.
        run_id: the run.
        dot: ``[n]``, NaN where there is none.
        norm: likewise.

    Raises:
        MissingScoresError: there is such a sample.
    """
    scored = np.isfinite(dot)
    n_missing = int(np.count_nonzero(scored & np.isnan(norm)))
    if n_missing:
        raise MissingScoresError(
            f"{asked} needs gradient norms: in run {run_id} {n_missing:,} of the "
            f"{amount(int(np.count_nonzero(scored)), 'sample')} of dataset `{data['name']}` with a dot have none",
            f"run `diq score influence {quoted(data['name'])} --norms` with its --model again, or leave out {option}",
        )
