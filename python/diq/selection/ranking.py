"""The ranking of a strategy: made once, stored whole, and found again until the scores that it was made from change.

The order of the strategy `diq` itself is in ``rust/rank.rs`` (the macro ``02_diq_ranking.sql`` must agree); the others'
are here.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from diq.base.arrow import numbers
from diq.base.command import quoted
from diq.base.draws import numbers_of_positions
from diq.base.errors import MissingScoresError, UsageError
from diq.base.fingerprint import begun, canonical_json, fingerprint_of
from diq.base.text import amount
from diq.influence.certificate import Certificate
from diq.influence.stored import read_certificate
from diq.selection.balance import Lists, balanced, read_balance
from diq.selection.options import TEXT_STRATEGIES
from diq.selection.partial import order_of_part, set_ids
from diq.selection.quadrants import QUADRANTS, rank
from diq.selection.scores import Floats, Request, Runs, Scores, lacking, read_scores
from diq.selection.turns import with_turns
from diq.store.store import Store, now

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Order:
    """Rows of the scores, best first.

    Attributes:
        rows: ``[k]`` rows that have the scores which the strategy needs.
        quadrant: ``[k]`` 1 to 4; None where the strategy uses none.
        counts: rows of each quadrant; None likewise.
        tau: difficulty threshold; None likewise.
        median: median of the dots; None likewise.
    """

    rows: npt.NDArray[np.int64]
    quadrant: npt.NDArray[np.uint8] | None = None
    counts: tuple[int, ...] | None = None
    tau: float | None = None
    median: float | None = None


@dataclass(frozen=True, slots=True)
class Ranking:
    """A ranking in the store.

    Attributes:
        ranking_id: its number.
        state: ``stored``: read; ``new``: made now; ``renewed``: made now, because scores changed since the last one.
        n_scored: samples with the scores that the strategy needs.
        n_unscored: samples without them.
        n_excluded: samples that guards left out.
        tau: difficulty threshold; None where the strategy uses none.
        median: median of the dots; None likewise.
        counts: samples of Q1 to Q4; None likewise.
        half_sizes: validation samples of the even and of the odd folds; None without folds.
        half_counts: samples of Q1 to Q4 in the ranking by each half; None without folds or quadrants.
        n_ranked: how many places are known, where a run was scored in part; None: all.
        n_taken: samples that a walk through another ranking has taken so far (``--diverse``); None for all others.
    """

    ranking_id: int
    state: Literal["stored", "new", "renewed"]
    n_scored: int
    n_unscored: int
    n_excluded: int
    tau: float | None
    median: float | None
    counts: tuple[int, ...] | None
    half_sizes: tuple[int, int] | None
    half_counts: tuple[tuple[int, ...] | None, tuple[int, ...] | None]
    n_ranked: int | None = None
    n_taken: int | None = None

    def part(self, strategy: str, n: int) -> tuple[int, int]:
        """First rank and number of the best ``n`` samples by a strategy."""
        if self.n_taken is not None:
            # whatever part of the other ranking was walked, this one holds nothing else
            return 0, min(n, self.n_taken)
        return part_of(self.counts, self.n_scored, strategy, n)

    def flip_share(self, store: Store, strategy: str, n: int) -> float | None:
        """Share of the best ``n`` that differs between two halves of the validation samples; None where unknown."""
        if self.half_sizes is None:
            return None
        (even_first, even_n), (odd_first, odd_n) = (
            part_of(counts, self.n_scored, strategy, n) for counts in self.half_counts
        )
        if not max(even_n, odd_n):
            return None
        (found,) = store.rows(
            "selection/count_common",
            ranking_id=self.ranking_id,
            even_first=even_first,
            even_n=even_n,
            odd_first=odd_first,
            odd_n=odd_n,
        )
        return 1 - int(found["n"]) / max(even_n, odd_n)


def part_of(counts: Sequence[int] | None, n_scored: int, strategy: str, n: int) -> tuple[int, int]:
    """First rank and number of the best ``n`` samples by a strategy, in an order with so many of each quadrant."""
    if counts is None or strategy == "diq":
        return 0, min(n, n_scored)
    quadrant = int(strategy[1]) - 1
    return sum(counts[:quadrant]), min(n, counts[quadrant])


@dataclass(frozen=True, slots=True)
class MadeRanking:
    """A ranking that is not in the store.

    Attributes:
        rows: the columns of the table ``ranking_samples`` but for its number, in rank order.
        facts: the columns of the table ``rankings`` that its rows decide: thresholds and counts.
    """

    rows: pa.Table
    facts: dict[str, Any]


def ranked_scores(
    store: Store,
    data: dict[str, Any],
    request: Request,
    runs: Runs,
    weights: Mapping[str, float] | None,
    guard_runs: Sequence[int] = (),
) -> Scores:
    """What `order` ranks: the scores without those that guards leave out, and the turns of what is left."""
    scores = read_scores(store, data, request, runs, dict(weights) if weights is not None else None)
    scores = scores.without(_excluded(store, data, guard_runs))
    if request.strategy == "rds":
        scores = with_turns(store, data, runs, list(weights) if weights is not None else None, scores)
    return scores


def _excluded(store: Store, data: Mapping[str, Any], guard_runs: Sequence[int]) -> npt.NDArray[np.int64]:
    """Positions that guards leave out."""
    if not guard_runs:
        return np.zeros(0, np.int64)
    found = store.arrow("selection/excluded_positions", dataset_id=data["dataset_id"], run_ids=list(guard_runs))
    return numbers(found.column("position"))


def make_ranking(
    store: Store,
    data: dict[str, Any],
    request: Request,
    runs: Runs,
    weights: Mapping[str, float] | None,
    guard_runs: Sequence[int] = (),
    balance: str | None = None,
) -> MadeRanking:
    """The ranking of a request, made from the scores; nothing is written. Arguments and errors as `find_ranking`."""
    part = read_part(store, data, runs, weights)
    if part is not None:
        if balance is not None:
            command = f"diq score influence {quoted(data['name'])} --model {quoted(str(request.model))}"
            raise MissingScoresError(
                f"run {runs.influence} was scored in part, for the beginning of the order without --balance",
                f"run `{command}`: it scores the rest",
            )
        return _of_part(store, data, request, runs, weights, guard_runs, part)
    scores = ranked_scores(store, data, request, runs, weights, guard_runs)
    made = order(scores, request)
    if not len(made.rows):
        raise MissingScoresError(
            f"no sample of dataset `{data['name']}` has the scores that the strategy `{request.strategy}` needs: "
            f"found 0 of {amount(len(scores.position), 'sample')} with finite ones",
            "score the dataset first; `diq status` shows what there is"
            if request.taken is None or not np.isfinite(scores.score).any()
            else f"it takes {request.taken[0] or 0:g} to {request.taken[1]:g}: give a wider --band",
        )
    halves = None
    # the halves of each single task are not read, so how much of a balance of tasks is chance stays unknown
    if scores.halves is not None and balance != "tasks":
        one, other = (
            order(Scores(scores.position, scores.level, half, scores.score), request) for half in scores.halves
        )
        halves = one, other
    if balance is not None:
        lists = read_balance(store, data, request, runs, weights, scores.position, balance)
        made = in_turns(made, lists)
        halves = (in_turns(halves[0], lists), in_turns(halves[1], lists)) if halves else None
    facts = {
        "n_unscored": len(scores.position) - len(made.rows),
        "n_excluded": data["n_samples"] - len(scores.position),
        "tau": made.tau,
        "median": made.median,
        "n_scored": len(made.rows),
        "quadrant_counts": list(made.counts) if made.counts else None,
        "half_sizes": list(scores.half_sizes) if halves and scores.half_sizes else None,
        "even_counts": list(halves[0].counts) if halves and halves[0].counts else None,
        "odd_counts": list(halves[1].counts) if halves and halves[1].counts else None,
        "n_ranked": None,
    }
    return MadeRanking(_rows(scores, made, halves), facts)


def read_part(
    store: Store, data: Mapping[str, Any], runs: Runs, weights: Mapping[str, float] | None
) -> Certificate | None:
    """The certificate of a run that was scored in part; None also where the sets that count are whole."""
    if runs.influence is None:
        return None
    part = read_certificate(store, runs.influence, data["dataset_id"])
    if part is None or not len(lacking(store, data, runs.influence, set_ids(store, runs.influence, weights))):
        return None
    return part


def _of_part(
    store: Store,
    data: dict[str, Any],
    request: Request,
    runs: Runs,
    weights: Mapping[str, float] | None,
    guard_runs: Sequence[int],
    certificate: Certificate,
) -> MadeRanking:
    """The beginning of a ranking, from a run that was scored in part."""
    scores = ranked_scores(store, data, request, runs, weights)
    excluded = _excluded(store, data, guard_runs)
    n_left = len(scores.without(excluded).position)
    if request.threshold is not None:
        check_threshold(request.threshold, scores.level[np.isfinite(scores.level)], str(request.difficulty))
    rows, tau, n = order_of_part(store, scores, data, request, runs, weights, certificate, excluded)
    facts: dict[str, Any] = dict.fromkeys(("median", "quadrant_counts", "half_sizes", "even_counts", "odd_counts"))
    facts |= {
        "n_unscored": n_left - n,
        "n_excluded": data["n_samples"] - n_left,
        "tau": tau,
        "n_scored": n,
        "n_ranked": len(rows),
    }
    return MadeRanking(_rows(scores, Order(rows, np.ones(len(rows), np.uint8), tau=tau), None), facts)


def find_ranking(
    store: Store,
    data: dict[str, Any],
    request: Request,
    runs: Runs,
    weights: Mapping[str, float] | None,
    guard_runs: Sequence[int] = (),
    balance: str | None = None,
) -> Ranking:
    """The ranking of a request: read where its scores have not changed since it was made, else made and stored.

    Args:
        store: an open store.
        data: the dataset.
        request: what is ranked by.
        runs: whose scores.
        weights: weight of each validation set; None takes all of the run.
        guard_runs: guards whose exclusions are left out.
        balance: ``tasks`` or ``sources`` that take turns; None: nobody does.

    Raises:
        UsageError: a difficulty threshold outside the data.
        MissingScoresError: no sample has the scores that the strategy needs.
    """
    config, configuration = _configuration(data, request, runs, weights, guard_runs, balance)
    digest = _digest(store, data, runs)
    known = store.row("selection/find_ranking", configuration=configuration)
    # of a part the certificate decides, too, which no digest of scores knows: that beginning is made again
    if known is not None and known["scores_digest"] == digest and known["n_ranked"] is None:
        return read_row(known, "stored")

    made = make_ranking(store, data, request, runs, weights, guard_runs, balance)
    fingerprint = _fingerprint(configuration, made.rows)
    if known is not None and known["fingerprint"] == fingerprint:
        # a score of another dataset of the run, or a sample without one
        left = {name: made.facts[name] for name in ("n_unscored", "n_excluded")}
        store.run("selection/update_ranking_digest", ranking_id=known["ranking_id"], scores_digest=digest, **left)
        return read_row(known | left, "stored")
    with store.transaction():
        row = store.row(
            "selection/insert_ranking",
            dataset_id=data["dataset_id"],
            strategy=request.strategy,
            influence_run=runs.influence,
            difficulty_run=runs.difficulty,
            score_run=runs.score,
            guard_runs=list(guard_runs) or None,
            fingerprint=fingerprint,
            config=json.dumps(config, sort_keys=True),
            configuration=configuration,
            scores_digest=digest,
            created_at=now(),
            **made.facts,
        )
        assert row is not None
        store.insert("selection/insert_ranking_samples", made.rows, ranking_id=row["ranking_id"])
        if known is not None:
            store.run("selection/replace_ranking", ranking_id=known["ranking_id"], replaced_by=row["ranking_id"])
            store.run("selection/prune_ranking", ranking_id=known["ranking_id"])
    if known is not None:
        log.warning(
            "scores changed since ranking %s of dataset `%s` was made (%s): ranked again, as ranking %s",
            known["ranking_id"],
            data["name"],
            f"{known['created_at']:%Y-%m-%d %H:%M}",
            row["ranking_id"],
        )
    return read_row(made.facts | row, "new" if known is None else "renewed")


def current_ranking(
    store: Store, data: dict[str, Any], request: Request, runs: Runs, weights: Mapping[str, float] | None
) -> dict[str, Any] | None:
    """The row of the stored ranking of a request whose scores have not changed since; None where there is none.

    Nothing is written. Arguments as `find_ranking`, without guards.
    """
    _, configuration = _configuration(data, request, runs, weights, ())
    known = store.row("selection/find_ranking", configuration=configuration)
    return known if known is not None and known["scores_digest"] == _digest(store, data, runs) else None


def damaged_rankings(store: Store) -> Iterator[tuple[dict[str, Any], bool]]:
    """Every ranking that selections are taken from, and whether its rows are not those that it was stored with."""
    for row in store.rows("selection/list_current_rankings"):
        rows = store.arrow("selection/stored_ranking", ranking_id=row["ranking_id"])
        yield row, _fingerprint(row["configuration"], rows) != row["fingerprint"]


def forget_ranking(store: Store, ranking_id: int) -> None:
    """Have a ranking made anew by the next selection."""
    store.run("selection/forget_ranking", ranking_id=ranking_id)


def _configuration(
    data: dict[str, Any],
    request: Request,
    runs: Runs,
    weights: Mapping[str, float] | None,
    guard_runs: Sequence[int],
    balance: str | None = None,
) -> tuple[dict[str, Any], str]:
    """What a ranking is made by, and the fingerprint by which the ranking of the same is found again."""
    config = request.settings() | {"validation_weights": dict(weights) if weights is not None else None}
    if balance is not None:
        # a key of its own, so that rankings without it keep their fingerprints
        config["balance"] = balance
    identity = {"dataset": data["dataset_id"], "runs": asdict(runs), "guards": sorted(guard_runs), "config": config}
    return config, fingerprint_of(canonical_json(identity))


def _digest(store: Store, data: dict[str, Any], runs: Runs) -> str:
    """What changes with every score that a ranking is made from."""
    (found,) = store.rows(
        "selection/digest_scores",
        dataset_id=data["dataset_id"],
        influence_run=runs.influence,
        difficulty_run=runs.difficulty,
        score_run=runs.score,
    )
    return str(found["digest"])


def read_row(row: Mapping[str, Any], state: Literal["stored", "new", "renewed"] = "stored") -> Ranking:
    """The ranking of a row of the table ``rankings``."""

    def tupled(name: str) -> Any:
        return tuple(row[name]) if row[name] is not None else None

    return Ranking(
        ranking_id=int(row["ranking_id"]),
        state=state,
        n_scored=int(row["n_scored"]),
        n_unscored=int(row["n_unscored"]),
        n_excluded=int(row["n_excluded"]),
        tau=row["tau"],
        median=row["median"],
        counts=tupled("quadrant_counts"),
        half_sizes=tupled("half_sizes"),
        half_counts=(tupled("even_counts"), tupled("odd_counts")),
        n_ranked=row["n_ranked"],
    )


def order(scores: Scores, request: Request) -> Order:
    """The order of a strategy.

    Raises:
        UsageError: a difficulty threshold outside the data.
    """
    if request.strategy == "random":
        drawn = numbers_of_positions(scores.position, request.seed or 0)
        return Order(np.argsort(drawn, kind="stable"))
    if request.strategy == "diq":
        if request.threshold is not None:
            scored = np.isfinite(scores.dot) & np.isfinite(scores.level)
            check_threshold(request.threshold, scores.level[scored], str(request.difficulty))
        # a threshold takes the place of the percentile, which then is any valid one
        percentile = 0.5 if request.percentile is None else request.percentile
        ranking = rank(scores.dot, scores.level, percentile=percentile, threshold=request.threshold)
        tau = ranking.tau if request.threshold is None else request.threshold
        return Order(ranking.rows, ranking.quadrant[ranking.rows], ranking.counts, tau, ranking.median)
    # one score: a constant difficulty leaves the order to the score and the position
    score = scores.level
    if request.influence is not None:
        score = scores.dot
    elif request.strategy in TEXT_STRATEGIES:
        assert (request.strategy == "rds") == (scores.turn is not None), "ask ranked_scores for the turns"
        score = _merit(scores.score, request) if scores.turn is None else -scores.turn
    return Order(rank(score, np.where(np.isfinite(score), 0.0, np.nan)).rows)


def _merit(score: Floats, request: Request) -> Floats:
    """What the order goes down by, of text scores; NaN where the strategy takes none of the kind."""
    # the lowest perplexity first, the highest of any other score
    merit = -score if request.strategy == "perplexity" else score
    if request.band is not None:
        # in exact decimals an end of the band is as near as the other; halves of what floats make of it are not
        merit = np.asarray(-np.round(np.abs(score - sum(request.band) / 2), 12), np.float64)
    if request.taken is None:
        return merit
    least, most = request.taken
    inside = (score >= (-np.inf if least is None else least)) & (score <= (np.inf if most is None else most))
    return np.where(inside, merit, np.nan)


def in_turns(made: Order, lists: Lists) -> Order:
    """An order in which groups take turns within each quadrant; thresholds, quadrants and counts stay."""
    return replace(made, rows=balanced(made.rows, made.counts, lists))


def check_threshold(threshold: float, level: Floats, dimension: str) -> None:
    """Refuse a difficulty threshold that no scored sample is below, or none at or above.

    Args:
        threshold: absolute, as ``--difficulty-threshold`` takes it.
        level: ``[n]`` finite difficulty of the samples that are ranked.
        dimension: of the difficulty, for the message.

    Raises:
        UsageError: it is outside the data.
    """
    if not len(level):
        return
    lowest, highest = level.min(), level.max()
    if not lowest <= threshold <= highest:
        raise UsageError(
            f"the difficulty threshold {threshold:g} is outside the data: {dimension} goes from {lowest:g} to "
            f"{highest:g}",
            "give a threshold in between, or --difficulty-percentile",
        )


def _rows(scores: Scores, made: Order, halves: tuple[Order, Order] | None) -> pa.Table:
    """The rows of the table ``ranking_samples``, in rank order."""
    rows = made.rows
    n = len(rows)

    def column(values: Floats) -> pa.Array:
        return pa.array(values[rows], from_pandas=True)

    def places(half: Order | None) -> pa.Array:
        if half is None:
            return pa.nulls(n, pa.int64())
        place = np.empty(len(scores.position), np.int64)
        place[half.rows] = np.arange(len(half.rows))
        return pa.array(place[rows])

    quadrant = pa.nulls(n, pa.string())
    if made.quadrant is not None:
        quadrant = pa.DictionaryArray.from_arrays(pa.array(made.quadrant.astype(np.int8) - 1), list(QUADRANTS))
    one, other = halves or (None, None)
    return pa.table(
        {
            "rank": pa.array(np.arange(n, dtype=np.int64)),
            "position": pa.array(scores.position[rows]),
            "quadrant": quadrant,
            "difficulty": column(scores.level),
            "dot": column(scores.dot),
            "score": column(scores.score),
            "even_rank": places(one),
            "odd_rank": places(other),
        }
    )


def _fingerprint(configuration: str, rows: pa.Table) -> str:
    """Identity of a ranking: its configuration, its order, and the scores that it was made from."""
    digest = begun(configuration)
    for name in ("position", "difficulty", "dot", "score", "even_rank", "odd_rank"):
        # a null is a null, whatever lies under it
        column = rows.column(name).combine_chunks()
        digest.update(numbers(column.fill_null(0)).tobytes())
        digest.update(numbers(column.is_valid()).tobytes() if column.null_count else b"")
    return digest.hexdigest()
