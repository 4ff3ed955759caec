"""How dots become influence: what counts as a usable dot, and the mean over a weighted choice of validation sets."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import orjson
import pyarrow as pa
import pyarrow.compute as pc

from diq.base.arrow import numbers
from diq.base.command import shell
from diq.base.errors import UsageError
from diq.base.text import did_you_mean
from diq.influence.certificate import Certificate
from diq.influence.meters import Dots, Floats, measure, standard_errors
from diq.samples.options import EXTERNAL
from diq.store.store import Store

INFLUENCES = ("dot", "cosine")
"""What a ranking can be made by."""

LESS = "less"
"""The method whose runs hold a cosine per task; the influence of a sample is the largest of them, not their mean."""

RATER = "rater"
"""The method whose runs hold a rater's predictions of dots, not dots."""

WHAT_IS_NOT_A_DOT = {LESS: "cosines of Adam directions (LESS)", RATER: "predictions of a rater"}
"""Methods whose runs hold something else than dots, and what in words."""

ONLY_WHEN_MEANT = frozenset(WHAT_IS_NOT_A_DOT)
"""Methods whose runs are taken when they are named, or when there is no other run."""

_LARGEST = frozenset({LESS, "max"})

NO_ANSWER = "no answer token is left within the maximum length"
"""Why a sample has no dot whose tokens hold no answer."""

# rows that are pooled together: their columns stay in the cache meanwhile
_BLOCK = 1 << 16


NO_ANSWER = "no answer token is left within the maximum length"


def no_dot_reason(loss: float, answer_tokens: int, dots: Sequence[float]) -> str | None:
    """Why a sample has no dot, or None when it has one.

    Args:
        loss: the sample's loss, nats.
        answer_tokens: tokens that the loss covers.
        dots: its dot with each validation set.
    """
    if answer_tokens == 0:
        return NO_ANSWER
    if not math.isfinite(loss):
        return f"the loss is not finite ({loss})"
    if not all(math.isfinite(dot) for dot in dots):
        return "the dot is not finite"
    return None


def scoring_command(dataset: str, model: str, method: str, validation_set: str) -> str:
    """The command that gives a dataset the dots with a validation set that it lacks in a run, as it is typed.

    Args:
        dataset: its name.
        model: name of the model of the run.
        method: of the run; of one computed elsewhere the dots are ingested, of a rater they are predicted.
        validation_set: its name.
    """
    owner = ["--model", model, "--validation-set", validation_set]
    if method == EXTERNAL:
        return shell(["diq", "ingest", "FILE", "--scores", "--dataset", dataset, *owner])
    words = ["diq", "score", "influence", dataset]
    if method == RATER:
        return shell([*words, "--rater", "DIR"])
    return shell([*words, *owner, *([] if method == "exact" else ["--method", method])])


def parse_weights(asked: Sequence[str], known: Sequence[str]) -> dict[str, float] | None:
    """Weights of validation sets from ``NAME`` or ``NAME=WEIGHT`` texts.

    Eq. 4 is linear, so the influence under any weighted choice of tasks is the weighted mean of stored dots.

    Args:
        asked: the texts; empty means all sets of the run.
        known: the run's validation sets.

    Returns:
        Weight of each chosen set, NaN where none was given (:func:`settle_weights` fills it in); None when nothing was
        asked, which means all sets, pooled by their number of samples (Eq. 3).

    Raises:
        UsageError: unknown name, a weight that is no number from 1e-9 to 1e9, or a name given twice.
    """
    if not asked:
        return None
    weights: dict[str, float] = {}
    for text in asked:
        name, given, number = text.rpartition("=")
        if not given or (name not in known and text in known):
            name, number = text, ""
        if name not in known:
            raise UsageError(f"the run has no validation set named `{name}`", did_you_mean(name, known))
        if name in weights:
            raise UsageError(f"the validation set `{name}` is given twice", "give each once, as NAME or NAME=WEIGHT")
        try:
            weights[name] = float(number) if number else math.nan
        except ValueError:
            weights[name] = -1.0
        # further out the weighted dots overflow, or lose their digits
        if number and not 1e-9 <= weights[name] <= 1e9:
            raise UsageError(
                f"the weight `{number}` of `{name}` is not a number from 1e-9 to 1e9", "write NAME=2 or NAME=0.5"
            )
    return weights


def settle_weights(weights: Mapping[str, float], sizes: Mapping[str, int | None]) -> dict[str, float]:
    """Weights with every open one (NaN) filled in.

    When no set was given a weight, sets count by their number of samples (the pooled mean of Eq. 3), or alike where a
    size is unknown; when some were, the others count 1.
    """
    if all(math.isnan(weight) for weight in weights.values()):
        known = [sizes[name] for name in weights]
        if any(size is None for size in known):
            return dict.fromkeys(weights, 1.0)
        return {name: float(sizes[name] or 0) for name in weights}
    return {name: 1.0 if math.isnan(weight) else weight for name, weight in weights.items()}


def choose_weights(asked: Sequence[str], sets: Sequence[Mapping[str, Any]]) -> dict[str, float] | None:
    """Weights of the validation sets of a run that ``NAME`` or ``NAME=WEIGHT`` texts choose.

    Args:
        asked: the texts; empty means all sets of the run.
        sets: rows of the query ``validation_sets_of_run``.

    Returns:
        Weight of each chosen set; None when nothing was asked.

    Raises:
        UsageError: as :func:`parse_weights`, or unequal weights for a run whose influence is the largest of its tasks.
    """
    sizes = {one["name"]: one["n_samples"] for one in sets}
    parsed = parse_weights(asked, list(sizes))
    if parsed is None:
        return None
    if not takes_largest(sets):
        return settle_weights(parsed, sizes)
    if len({1.0 if math.isnan(weight) else weight for weight in parsed.values()}) > 1:
        raise UsageError(
            f"a run of method `{sets[0]['method']}` takes the largest of its tasks, which no weight changes",
            "name the validation sets without weights",
        )
    return dict.fromkeys(parsed, 1.0)


def takes_largest(sets: Sequence[Mapping[str, Any]]) -> bool:
    """Whether the scores of several validation sets of a run make their largest, not their mean.

    Args:
        sets: rows of the query ``validation_sets_of_run``.
    """
    return any(one["method"] in _LARGEST for one in sets)


def all_weights(sets: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Weights of all validation sets of a run where none was asked for (Eq. 3).

    Args:
        sets: rows of the query ``validation_sets_of_run``.
    """
    sizes = {one["name"]: one["n_samples"] for one in sets}
    return settle_weights(dict.fromkeys(sizes, math.nan), sizes)


def pool_dots(
    dots: Mapping[str, Floats], sets: Sequence[Mapping[str, Any]], weights: Mapping[str, float] | None = None
) -> Floats:
    """Influence from the dots of each validation set: what :func:`read_influence` makes of the store, bit for bit.

    Args:
        dots: ``[n]`` of each validation set; NaN where a sample has no finite one.
        sets: rows of the query ``validation_sets_of_run``.
        weights: weight of each chosen set; None takes all of the run, by their number of samples.

    Returns:
        ``[n]``, NaN where a sample lacks a dot of a chosen set.
    """
    weights = all_weights(sets) if weights is None else weights
    chosen = [one["name"] for one in sets if one["name"] in weights]
    n, largest, total = len(next(iter(dots.values()))), takes_largest(sets), sum(weights[name] for name in chosen)
    influence = np.empty(n)

    def pool_block(start: int) -> None:
        rows = slice(start, min(start + _BLOCK, n))
        pool = _Pool(rows.stop - start, largest=largest)
        for name in chosen:
            pool.add(dots[name][rows], weights[name])
        influence[rows] = pool.pooled(total)

    # somebody waits for it with a slider in hand
    with ThreadPoolExecutor(os.cpu_count()) as threads:
        list(threads.map(pool_block, range(0, n, _BLOCK)))
    return influence


def divided(dot: Floats, norm: Floats) -> Floats:
    """What orders like the cosine: dots over the norms of the samples' gradients."""
    # a gradient of zero has no direction: its quotient is NaN, and the sample counts as unscored
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        return np.asarray(dot / norm, np.float64)


# reading -----------------------------------------------------------------------------------------------------------


def read_dots(store: Store, *, dataset_id: int, run_id: int, weights: Mapping[str, float] | None = None) -> Dots:
    """The dots of a run on a dataset with what their meters need, pooled as the macro ``diq_scores`` pools them.

    One validation set is read after another, so memory grows with the samples, not with the sets.

    Args:
        store: an open store.
        dataset_id: dataset.
        run_id: influence run, finished or not.
        weights: weight of each chosen validation set; None takes all of the run, by their number of samples.
    """
    sets = _Sets.of(store, dataset_id, run_id, weights)
    n = sets.n_samples
    # a standard error needs the same folds everywhere, halves do not
    n_folds = sets.chosen[0].n_folds if sets.halved and len({one.n_folds for one in sets.chosen}) == 1 else 0
    dot, every_fold, halves = sets.pool(n), sets.pool((n, n_folds)), (sets.pool(n), sets.pool(n))
    answer_tokens, seen = np.full(n, np.nan), np.zeros(n, np.int16)
    closest = Closest(n, largest=sets.largest)
    for one, rows, found in sets.read(store, "influence/dots_of_validation_set"):
        seen[rows] += 1
        answer_tokens[rows] = numbers(found.column("answer_tokens"))
        dots = _scattered(n, rows, numbers(found.column("dot")))
        dot.add(dots, one.weight)
        closest.add(dots)
        if sets.halved:
            folds = _scattered((n, one.n_folds), rows, one.fold_columns(found.column("fold_dots")))
            for pool, half in zip(halves, one.halves, strict=True):
                pool.add(one.mean(folds, half), one.weight)
            if n_folds:
                every_fold.add(folds, one.weight)
    pooled = dot.pooled(sets.total) if sets.chosen else np.full(n, np.nan)
    return Dots(
        dot=pooled,
        answer_tokens=answer_tokens,
        standard_error=standard_errors(every_fold.pooled(sets.total)) if n_folds > 1 else None,
        halves=(halves[0].pooled(sets.total), halves[1].pooled(sets.total)) if sets.halved else None,
        half_sizes=sets.half_sizes,
        tasks=[one.name for one in sets.chosen],
        closest=closest.where(np.isfinite(pooled)),
        n_missing=int(np.count_nonzero(seen < max(len(sets.chosen), 1))),
    )


@dataclass(frozen=True, slots=True)
class Influence:
    """What a ranking needs of an influence run; one row a sample of the dataset, in the order of its positions.

    Attributes:
        dot: ``[n]``, NaN where a sample has no finite dot with every chosen validation set.
        norm: ``[n]`` norm of the sample's gradient, NaN where it was not measured; None when not asked for.
        halves: ``[n]`` dots with the even folds, and with the odd folds, of the validation sets; None without folds.
        half_sizes: validation samples of the two halves; None without folds.
    """

    dot: Floats
    norm: Floats | None
    halves: tuple[Floats, Floats] | None
    half_sizes: tuple[int, int] | None


def read_influence(
    store: Store, *, dataset_id: int, run_id: int, weights: Mapping[str, float] | None = None, norms: bool = False
) -> Influence:
    """The columns that a selection ranks by, pooled as the macro ``diq_scores`` pools them.

    Args:
        store: an open store.
        dataset_id: dataset.
        run_id: influence run.
        weights: weight of each chosen validation set; None takes all of the run, by their number of samples.
        norms: whether to read the gradient norms too.
    """
    sets = _Sets.of(store, dataset_id, run_id, weights)
    n = sets.n_samples
    dot, norm, halves = sets.pool(n), np.full(n, np.nan) if norms else None, (sets.pool(n), sets.pool(n))
    for one, rows, found in sets.read(store, "influence/influence_of_validation_set", norms=norms, folds=sets.halved):
        dot.add(_scattered(n, rows, numbers(found.column("dot"))), one.weight)
        if norm is not None:
            norm[rows] = np.fmax(norm[rows], numbers(found.column("gradient_norm")))
        if sets.halved:
            folds = one.fold_columns(found.column("fold_dots"))
            for pool, half in zip(halves, one.halves, strict=True):
                pool.add(_scattered(n, rows, one.mean(folds, half)), one.weight)
    return Influence(
        dot=dot.pooled(sets.total) if sets.chosen else np.full(n, np.nan),
        norm=norm,
        halves=(halves[0].pooled(sets.total), halves[1].pooled(sets.total)) if sets.halved else None,
        half_sizes=sets.half_sizes if sets.halved else None,
    )


def read_similarity(
    store: Store, *, dataset_id: int, run_id: int, weights: Mapping[str, float] | None = None
) -> Floats:
    """The similarity of each sample of a dataset, pooled over validation sets like dots; NaN where there is none.

    Args:
        store: an open store.
        dataset_id: dataset.
        run_id: similarity run; one of method ``max`` is pooled by the largest, any other by the weighted mean.
        weights: weight of each chosen validation set; None takes all of the run, by their number of samples.

    Returns:
        ``[n]``, in the order of the positions.
    """
    sets = _Sets.of(store, dataset_id, run_id, weights)
    similarity = sets.pool(sets.n_samples)
    for one, rows, found in sets.read(store, "influence/similarity_of_validation_set"):
        similarity.add(_scattered(sets.n_samples, rows, numbers(found.column("similarity"))), one.weight)
    return similarity.pooled(sets.total) if sets.chosen else np.full(sets.n_samples, np.nan)


def read_certificate(store: Store, run_id: int, dataset_id: int) -> Certificate | None:
    """How the part of the dataset that has dots was chosen; None where the run is no partial one."""
    row = store.row("store/get_certificate", run_id=run_id, dataset_id=dataset_id)
    if row is None or row["certificate"] is None:
        return None
    return Certificate.of(orjson.loads(row["certificate"]))


def read_tasks(
    store: Store, *, dataset_id: int, run_id: int, weights: Mapping[str, float] | None = None, similarity: bool = False
) -> Iterator[tuple[str, Floats]]:
    """The dots (or similarities) of each chosen validation set by itself, one after the other.

    Args:
        store: an open store.
        dataset_id: dataset.
        run_id: influence run, or similarity run.
        weights: the chosen validation sets; None takes all of the run.
        similarity: whether the run is one of similarities.

    Yields:
        Name of the set, and ``[n]`` in the order of the positions, NaN where there is none.
    """
    sets = _Sets.of(store, dataset_id, run_id, weights)
    column = "similarity" if similarity else "dot"
    query = f"influence/{'similarity' if similarity else 'influence'}_of_validation_set"
    for one, rows, found in sets.read(store, query, **({} if similarity else {"norms": False, "folds": False})):
        yield one.name, _scattered(sets.n_samples, rows, numbers(found.column(column)))


def measure_runs(store: Store) -> list[dict[str, Any]]:
    """Meters of every influence run on every dataset of a store, for ``diq status --scores`` and the report."""
    found = []
    for one in store.rows("influence/list_influence_runs"):
        meters = measure(read_dots(store, dataset_id=one["dataset_id"], run_id=one["run_id"])).to_dict()
        if read_certificate(store, one["run_id"], one["dataset_id"]) is not None:
            # the hard samples and some others: what their dots are like is not what all are like
            one["state"] = "scored in part: meters of that part alone"
            meters["flips"] = dict.fromkeys(meters["flips"])
        known = {name: one[name] for name in ("run_id", "dataset", "model", "method", "state")}
        sets = [
            {name: row[name] for name in ("name", "n_samples", "fold_sizes")}
            for row in store.rows("store/validation_sets_of_run", run_id=one["run_id"])
        ]
        found.append({**known, "validation_sets": sets, **meters})
    return found


@dataclass(frozen=True, slots=True)
class _Set:
    """A chosen validation set: its weight, and the sizes of its folds (none: it was not split)."""

    validation_set_id: int
    name: str
    weight: float
    sizes: Sequence[int]

    @property
    def n_folds(self) -> int:
        return len(self.sizes)

    @property
    def halves(self) -> tuple[list[int], list[int]]:
        """The even and the odd folds; an empty fold has no mean gradient, so it is in neither."""
        even, odd = ([k for k in range(start, self.n_folds, 2) if self.sizes[k]] for start in (0, 1))
        return even, odd

    def fold_columns(self, lists: pa.ChunkedArray) -> Floats:
        """``[m, K]`` fold dots; NaN where the list is missing or has another length."""
        fitting = numbers(pc.list_value_length(lists)) == self.n_folds
        if fitting.all():
            return np.asarray(numbers(pc.list_flatten(lists)).reshape(-1, self.n_folds), np.float64)
        values = np.full((len(lists), self.n_folds), np.nan)
        values[fitting] = numbers(pc.list_flatten(lists.filter(pa.array(fitting)))).reshape(-1, self.n_folds)
        return values

    def mean(self, folds: Floats, chosen: Sequence[int]) -> Floats:
        """Dot with the mean gradient of the chosen folds together: their mean, weighted by their sizes."""
        size = sum(self.sizes[k] for k in chosen)
        return np.asarray(sum(folds[:, k] * (self.sizes[k] / size) for k in chosen), np.float64)


@dataclass(frozen=True, slots=True)
class _Sets:
    """The chosen validation sets of a run, and where each sample of a dataset has its row."""

    dataset_id: int
    run_id: int
    largest: bool
    chosen: Sequence[_Set]
    # row of each position; rows are in the order of the positions
    rows_of: npt.NDArray[np.int64]
    n_samples: int

    @classmethod
    def of(cls, store: Store, dataset_id: int, run_id: int, weights: Mapping[str, float] | None) -> _Sets:
        sets = store.rows("store/validation_sets_of_run", run_id=run_id)
        weights = all_weights(sets) if weights is None else weights
        positions = numbers(store.arrow("store/positions_of_dataset", dataset_id=dataset_id).column("position"))
        rows_of = np.zeros(int(positions.max(initial=-1)) + 1, np.int64)
        rows_of[positions] = np.arange(len(positions))
        chosen = [
            _Set(one["validation_set_id"], one["name"], weights[one["name"]], one["fold_sizes"] or ())
            for one in sets
            if one["name"] in weights
        ]
        return cls(dataset_id, run_id, takes_largest(sets), chosen, rows_of, len(positions))

    @property
    def total(self) -> float:
        return sum(one.weight for one in self.chosen)

    @property
    def halved(self) -> bool:
        return bool(self.chosen) and all(all(one.halves) for one in self.chosen)

    @property
    def half_sizes(self) -> tuple[int, int]:
        even, odd = (sum(one.sizes[k] for one in self.chosen for k in one.halves[half]) for half in (0, 1))
        return even, odd

    def pool(self, shape: int | tuple[int, int]) -> _Pool:
        return _Pool(shape, largest=self.largest)

    def read(self, store: Store, query: str, **params: Any) -> Iterator[tuple[_Set, npt.NDArray[np.int64], pa.Table]]:
        """Each set in turn with what a query finds of it, and the rows of the samples that it is found for."""
        for one in self.chosen:
            ids = {"dataset_id": self.dataset_id, "run_id": self.run_id, "validation_set_id": one.validation_set_id}
            found = store.arrow(query, **ids, **params)
            yield one, self.rows_of[numbers(found.column("position"))], found


class Closest:
    """The task that each sample is closest to: the rule of the macro ``diq_closest``, one task after another.

    Args:
        n: samples.
        largest: dots are compared as they are; else in standard deviations above the mean of their task.
    """

    def __init__(self, n: int, *, largest: bool) -> None:
        self._largest = largest
        self._nearness, self._closest, self._tasks = np.full(n, -np.inf), np.full(n, -1, np.int16), 0

    def add(self, dots: Floats) -> None:
        """Compare with the next task: ``[n]`` dots, NaN where there is none. Of equals the first counts."""
        near = dots if self._largest else _standardised(dots)
        nearer = near > self._nearness
        self._closest[nearer], self._nearness[nearer] = self._tasks, near[nearer]
        self._tasks += 1

    def where(self, known: npt.NDArray[np.bool_]) -> npt.NDArray[np.int16]:
        """``[n]`` number of the closest task, in the order in which they were added; -1 where a dot is not known."""
        return np.where(known, self._closest, np.int16(-1))


class _Pool:
    """A column added up over validation sets, in their order: the same sums, bit for bit, as the macro's."""

    def __init__(self, shape: int | tuple[int, int], *, largest: bool) -> None:
        self._largest = largest
        self._values = np.full(shape, -np.inf if largest else 0.0)

    def add(self, values: Floats, weight: float) -> None:
        """Add the column of one set; NaN (a missing dot) stays NaN for good."""
        if self._largest:
            np.maximum(self._values, values, out=self._values)
        else:
            with np.errstate(over="ignore", invalid="ignore"):
                self._values += values * weight

    def pooled(self, total: float) -> Floats:
        """The column over all sets; ``total`` is the sum of their weights."""
        return self._values if self._largest else self._values / total


def _scattered(shape: int | tuple[int, int], rows: npt.NDArray[np.int64], values: Floats) -> Floats:
    """Values at their rows; NaN elsewhere, and where a value is not finite."""
    column = np.full(shape, np.nan)
    column[rows] = np.where(np.isfinite(values), values, np.nan)
    return column


def _standardised(dots: Floats) -> Floats:
    """Dots of one task in standard deviations above its mean, so that tasks of any gradient norm can be compared."""
    finite = dots[np.isfinite(dots)]
    with np.errstate(over="ignore", invalid="ignore"):
        # the standard deviation of equal numbers need not come out as zero
        spread = float(finite.std()) if len(finite) and finite.min() < finite.max() else 0.0
        return (dots - finite.mean()) / spread if spread else dots * 0.0
