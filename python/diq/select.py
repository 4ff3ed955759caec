"""Stage: rank the scored samples of a dataset and take the prefix that was asked for. Loads no model library."""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import json
import logging
import math
import os
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from diq.config import DIFFICULTY_DIMENSIONS, STRATEGIES
from diq.errors import MissingScoresError, UsageError
from diq.influence import INFLUENCES, LARGEST_OF_TASKS, choose_weights, read_halves
from diq.meters import flip_share
from diq.quadrants import QUADRANTS, rank
from diq.records import Ratio, canonical_json, did_you_mean
from diq.store import Store, now

log = logging.getLogger(__name__)

_NO_RUN = -1
_NEEDS_DOT = frozenset({"diq", "influence", "q1", "q2", "q3", "q4"})
_NEEDS_DIFFICULTY = frozenset({"diq", "q1", "q2", "q3", "q4", *DIFFICULTY_DIMENSIONS})
_WRITE_ROWS = 1000
# above this share of flips between two halves of the validation samples, more of a selection is chance than not
_MOST_FLIPS = 0.5


@dataclass(frozen=True, slots=True)
class Selection:
    """A selection that was made and recorded.

    Attributes:
        selection_id: number in the store.
        name: name in the store.
        dataset: dataset.
        strategy: strategy.
        n: samples selected.
        n_target: floor(N * ratio).
        ratio: as typed.
        thresholds: ``tau`` of difficulty and ``median`` of the dots; None where the strategy uses none.
        counts: samples in each quadrant of the dataset and of the selection; empty where the strategy uses none.
        n_scored: N, the samples with the scores that the strategy needs.
        n_unscored: samples without them.
        flip_share: share of the selection that differs between two halves of the validation samples; None where the
            strategy uses no dots or their folds are missing.
        output: file that was written, or None.
    """

    selection_id: int
    name: str
    dataset: str
    strategy: str
    n: int
    n_target: int
    ratio: float
    thresholds: dict[str, float | None]
    counts: dict[str, dict[str, int]]
    n_scored: int
    n_unscored: int
    flip_share: float | None
    output: str | None

    def to_dict(self) -> dict[str, Any]:
        """For ``--json``."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class _Plan:
    """What a ranking is made by."""

    strategy: str
    percentile: float
    threshold: float | None
    seed: int


@dataclass(frozen=True, slots=True)
class _Scores:
    """Columns of a dataset, one row a sample in the order of its positions; NaN where a score is missing."""

    position: npt.NDArray[np.int64]
    level: npt.NDArray[np.float64]
    dot: npt.NDArray[np.float64]
    # what dots are divided by: the gradient norms for the influence `cosine`
    norm: npt.NDArray[np.float64] | None = None


@dataclass(slots=True)
class _Order:
    """The order of a strategy: rows of the scores best first, with what is known of each."""

    rows: npt.NDArray[np.int64]
    position: npt.NDArray[np.int64]
    quadrant: npt.NDArray[np.uint8] | None
    level: npt.NDArray[np.float64]
    dot: npt.NDArray[np.float64]
    n_scored: int
    tau: float | None = None
    median: float | None = None
    counts: tuple[int, ...] | None = None


def run(
    dataset: str,
    *,
    ratio: str | float | Decimal,
    store: Path,
    model: str | None = None,
    difficulty: str = "overall",
    percentile: float = 0.5,
    threshold: float | None = None,
    validation_sets: Sequence[str] = (),
    strategy: str = "diq",
    influence: str = "dot",
    influence_run: int | None = None,
    difficulty_run: int | None = None,
    seed: int = 0,
    output: Path | None = None,
    name: str | None = None,
) -> Selection:
    """Select floor(N * ratio) samples of a dataset, write them in rank order and record the selection.

    Args:
        dataset: name of a dataset in the store.
        ratio: in (0, 1], as text so that the decimal that was typed counts exactly.
        store: the store file.
        model: name of a scored model in the store; needed by strategies that use dots.
        difficulty: ``knowledge``, ``reasoning`` or ``overall``.
        percentile: p of the difficulty threshold, 0 to 1.
        threshold: an absolute difficulty threshold in place of the percentile.
        validation_sets: ``NAME`` or ``NAME=WEIGHT`` texts; empty pools all sets of the run (Eq. 3).
        strategy: one of ``diq.config.STRATEGIES``.
        influence: ``dot``, or ``cosine``: the dot over the norm of the sample's gradient, which orders like the cosine
            with the validation gradient. It takes the place of the dot everywhere, in the file too.
        influence_run: which run's dots, when the model has several on this dataset.
        difficulty_run: which run's difficulty, when there are several.
        seed: of the strategy ``random``.
        output: ``.jsonl``, ``.jsonl.gz`` or ``.parquet`` file; None only records.
        name: name of the selection in the store; default dataset, strategy and ratio.

    Raises:
        UsageError: an unknown name, a ratio outside (0, 1], a ratio that selects nothing.
        MissingScoresError: scores that the strategy needs are missing, unfinished or ambiguous.
    """
    parsed = Ratio.parse(ratio)
    if strategy not in STRATEGIES:
        raise UsageError(f"there is no strategy `{strategy}`", did_you_mean(strategy, STRATEGIES))
    if difficulty not in DIFFICULTY_DIMENSIONS:
        raise UsageError(f"there is no difficulty `{difficulty}`", did_you_mean(difficulty, DIFFICULTY_DIMENSIONS))
    if influence not in INFLUENCES:
        raise UsageError(f"there is no influence `{influence}`", did_you_mean(influence, INFLUENCES))
    if not 0 <= percentile <= 1:
        raise UsageError(f"the difficulty percentile {percentile} is outside [0, 1]", "give 0.5 for the median")
    if threshold is not None and not math.isfinite(threshold):
        raise UsageError(f"the difficulty threshold {threshold} is not a finite number", "give a value such as 3")
    if output is not None:
        check_output(output)
    if strategy in DIFFICULTY_DIMENSIONS:
        difficulty = strategy
    with Store(store) as opened:
        data = opened.dataset(dataset)
        if data["n_samples"] == 0:
            raise UsageError(f"the dataset `{dataset}` has no samples", "see `diq sql 'from rejects'`")
        runs = _choose_runs(opened, data, strategy, model, influence_run, difficulty_run)
        weights = _weights(opened, runs["influence"], validation_sets, influence)
        plan = _Plan(strategy, percentile, threshold, seed)
        scores = _scores(opened, data, strategy, model, difficulty, runs, weights, influence)
        order = _order(scores, plan)
        n_target = parsed.of(order.n_scored)
        n_unscored = data["n_samples"] - order.n_scored
        if n_target == 0:
            raise UsageError(
                f"a ratio of {parsed.text} of {order.n_scored} scored samples selects none",
                f"give at least {1 / order.n_scored:.3g}" if order.n_scored else "score the dataset first",
            )
        n = min(n_target, len(order.position))
        settings = {
            "difficulty": difficulty if strategy in _NEEDS_DIFFICULTY else None,
            "percentile": percentile if threshold is None else None,
            "threshold": threshold,
            "validation_weights": weights,
            "seed": seed if strategy == "random" else None,
            "model": model,
            "influence": influence if strategy in _NEEDS_DOT else None,
        }
        flips = _flips(opened, data, scores, plan, runs["influence"], weights, n_target, parsed)
        chosen = _chosen(order, n)
        label = name or f"{dataset}-{strategy}-{parsed.text}"
        with contextlib.ExitStack() as stack:
            pending = stack.enter_context(_written(opened, data, chosen, output)) if output else None
            with opened.transaction():
                selection_id = _record(
                    opened, data, strategy, runs, settings, order, n_unscored, parsed, n_target, chosen, label, output
                )
            if pending and output:
                # the file appears whole, and only when the store knows of it
                pending.replace(output)
    counts = {}
    if order.counts is not None and order.quadrant is not None:
        taken = np.bincount(order.quadrant[:n], minlength=5)
        counts = {
            "dataset": dict(zip(QUADRANTS, order.counts, strict=True)),
            "selection": {quadrant: int(taken[i + 1]) for i, quadrant in enumerate(QUADRANTS)},
        }
    return Selection(
        selection_id=selection_id,
        name=label,
        dataset=dataset,
        strategy=strategy,
        n=n,
        n_target=n_target,
        ratio=float(parsed.text),
        thresholds={"tau": order.tau, "median": order.median},
        counts=counts,
        n_scored=order.n_scored,
        n_unscored=n_unscored,
        flip_share=flips,
        output=str(output) if output else None,
    )


def _choose_runs(
    store: Store,
    data: dict[str, Any],
    strategy: str,
    model: str | None,
    influence_run: int | None,
    difficulty_run: int | None,
) -> dict[str, int]:
    chosen = {"influence": _NO_RUN, "difficulty": _NO_RUN}
    if strategy in _NEEDS_DOT:
        if model is None:
            raise UsageError(f"the strategy `{strategy}` needs a model", "give --model NAME; `diq status` lists them")
        known = [row["name"] for row in store.rows("list_models")]
        if model not in known:
            raise UsageError(
                f"no model named `{model}` in `{store.path}`",
                did_you_mean(model, known) or f"run `diq score influence {data['name']} --model {model}`",
            )
        candidates = store.rows("candidate_runs", kind="influence", dataset_id=data["dataset_id"], model=model)
        wanted = f"influence scores of model `{model}`"
        command = f"diq score influence {data['name']} --model {model}"
        chosen["influence"] = _one_run(candidates, influence_run, wanted, data, command, "--run")
    if strategy in _NEEDS_DIFFICULTY:
        candidates = store.rows("candidate_runs", kind="difficulty", dataset_id=data["dataset_id"], model=None)
        command = f"diq score difficulty {data['name']} --model CLASSIFIER"
        chosen["difficulty"] = _one_run(
            candidates, difficulty_run, "difficulty scores", data, command, "--difficulty-run"
        )
    return chosen


def _one_run(
    candidates: list[dict[str, Any]], asked: int | None, wanted: str, data: dict[str, Any], command: str, option: str
) -> int:
    if asked is not None:
        candidates = [one for one in candidates if one["run_id"] == asked]
        wanted += f" in run {asked}"
    if not candidates:
        raise MissingScoresError(
            f"no {wanted} on dataset `{data['name']}`: found 0 of {data['n_samples']} samples", f"run `{command}`"
        )
    sealed = [one for one in candidates if one["state"] == "sealed"]
    if not sealed:
        one = candidates[0]
        raise MissingScoresError(
            f"the {wanted} on dataset `{data['name']}` are not finished: "
            f"found {one['n_scored']} of {data['n_samples']} samples",
            f"run `{command}` again: it goes on where it stopped",
        )
    if len(sealed) > 1:
        listed = "; ".join(
            f"{one['run_id']} ({one['method']}, {one['n_scored']} samples, {one['created_at']:%Y-%m-%d %H:%M})"
            for one in sealed
        )
        raise MissingScoresError(
            f"dataset `{data['name']}` has {wanted} from {len(sealed)} runs: {listed}",
            f"name one with {option} {sealed[-1]['run_id']}",
        )
    return int(sealed[0]["run_id"])


def _weights(store: Store, run_id: int, asked: Sequence[str], influence: str) -> dict[str, float] | None:
    if run_id == _NO_RUN:
        return None
    sets = store.rows("validation_sets_of_run", run_id=run_id)
    if influence == "cosine" and any(one["method"] == LARGEST_OF_TASKS for one in sets):
        raise UsageError(f"run {run_id} of method `less` holds cosines already", "leave out --influence cosine")
    return choose_weights(asked, sets)


def _scores(
    store: Store,
    data: dict[str, Any],
    strategy: str,
    model: str | None,
    difficulty: str,
    runs: dict[str, int],
    weights: dict[str, float] | None,
    influence: str,
) -> _Scores:
    if strategy not in _NEEDS_DOT:
        found = store.arrow(
            "levels_of_dataset", dataset_id=data["dataset_id"], difficulty=difficulty, difficulty_run=runs["difficulty"]
        )
        return _Scores(*_columns(found))
    found = store.arrow(
        "scores_of_dataset",
        dataset=data["name"],
        model=model,
        difficulty=difficulty,
        run=runs["influence"],
        difficulty_run=runs["difficulty"],
        names=list(weights or {}),
        weights=list((weights or {}).values()),
        norms=influence == "cosine",
    )
    position, level, dot = _columns(found)
    if influence == "dot":
        return _Scores(position, level, dot)
    scored = np.isfinite(dot)
    n_missing = int(np.count_nonzero(scored & found.column("gradient_norm").is_null().to_numpy()))
    if n_missing:
        raise MissingScoresError(
            f"influence `cosine` needs gradient norms: {n_missing:,} of the {np.count_nonzero(scored):,} samples of "
            f"dataset `{data['name']}` with a dot have none in run {runs['influence']}",
            f"run `diq score influence {data['name']} --model {model} --norms`, or leave out --influence cosine",
        )
    norm = _numbers(found, "gradient_norm", np.float64)
    return _Scores(position, level, _divided(dot, norm), norm)


def _divided(dot: npt.NDArray[np.float64], norm: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    # a gradient of zero has no direction: its quotient is NaN, and the sample counts as unscored
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        return dot / norm


def _order(scores: _Scores, plan: _Plan) -> _Order:
    position, level, dot = scores.position, scores.level, scores.dot
    if plan.strategy == "random":
        rows = np.random.default_rng(plan.seed).permutation(len(position))
        return _Order(rows, position[rows], None, level[rows], dot[rows], len(position))
    if plan.strategy in ("diq", "q1", "q2", "q3", "q4"):
        ranking = rank(dot, level, percentile=plan.percentile, threshold=plan.threshold)
        rows = ranking.rows
        quadrant = ranking.quadrant[rows]
        if plan.strategy != "diq":
            only = quadrant == int(plan.strategy[1])
            rows, quadrant = rows[only], quadrant[only]
        return _Order(
            rows,
            position[rows],
            quadrant,
            level[rows],
            dot[rows],
            ranking.n_scored,
            plan.threshold if plan.threshold is not None else ranking.tau,
            ranking.median,
            ranking.counts,
        )
    # one score: a constant difficulty leaves the order to the score and the position
    score = dot if plan.strategy == "influence" else level
    ranking = rank(score, np.where(np.isfinite(score), 0.0, np.nan))
    rows = ranking.rows
    return _Order(rows, position[rows], None, level[rows], dot[rows], ranking.n_scored)


def _flips(
    store: Store,
    data: dict[str, Any],
    scores: _Scores,
    plan: _Plan,
    run_id: int,
    weights: dict[str, float] | None,
    n: int,
    ratio: Ratio,
) -> float | None:
    """Share of the selection that differs between two halves of the validation samples; warns when it is most of it."""
    if run_id == _NO_RUN:
        return None
    found = read_halves(store, dataset_id=data["dataset_id"], run_id=run_id, weights=weights)
    if found is None:
        return None
    halves = [half if scores.norm is None else _divided(half, scores.norm) for half in found[0]]
    if any((np.isfinite(scores.dot) & ~np.isfinite(half)).any() for half in halves):
        # samples that were scored before there were folds
        return None
    one, other = (_order(_Scores(scores.position, scores.level, half), plan).rows[:n] for half in halves)
    share = flip_share(one, other)
    if share > _MOST_FLIPS:
        log.warning(
            "the validation samples are too few for a ratio of %s: halves of them (%s and %s) select %s samples each "
            "and disagree on %.0f %%; take more validation samples or a larger ratio",
            ratio.text,
            *(f"{size:,}" for size in found[1]),
            f"{max(len(one), len(other)):,}",
            100 * share,
        )
    return share if math.isfinite(share) else None


def _columns(table: pa.Table) -> tuple[Any, Any, Any]:
    return (
        _numbers(table, "position", np.int64),
        _numbers(table, "level", np.float64),
        _numbers(table, "dot", np.float64),
    )


def _numbers(table: pa.Table, name: str, dtype: Any) -> Any:
    # a null is a missing score, which the core knows as NaN
    column = table.column(name)
    return column.to_numpy().astype(dtype, copy=False) if dtype == np.int64 else column.cast(pa.float64()).to_numpy()


def _chosen(order: _Order, n: int) -> pa.Table:
    names = pa.array([None, *QUADRANTS], pa.string())
    quadrant = (
        pa.nulls(n, pa.string())
        if order.quadrant is None
        else names.take(pa.array(order.quadrant[:n].astype(np.int64)))
    )
    return pa.table(
        {
            "rank": pa.array(np.arange(n, dtype=np.int64)),
            "position": pa.array(order.position[:n]),
            "quadrant": quadrant,
            "difficulty": pa.array(order.level[:n], from_pandas=True),
            "dot": pa.array(order.dot[:n], from_pandas=True),
        }
    )


def _record(
    store: Store,
    data: dict[str, Any],
    strategy: str,
    runs: dict[str, int],
    settings: dict[str, Any],
    order: _Order,
    n_unscored: int,
    ratio: Ratio,
    n_target: int,
    chosen: pa.Table,
    name: str,
    output: Path | None,
) -> int:
    # the whole order is part of the identity: a changed score makes another ranking
    digest = hashlib.blake2b(digest_size=16)
    digest.update(
        canonical_json(
            {"dataset": data["dataset_id"], "strategy": strategy, "runs": runs, "settings": settings}
        ).encode()
    )
    for part in (order.position, order.level, order.dot):
        digest.update(part.tobytes())
    store.run(
        "insert_ranking",
        dataset_id=data["dataset_id"],
        strategy=strategy,
        influence_run=None if runs["influence"] == _NO_RUN else runs["influence"],
        difficulty_run=None if runs["difficulty"] == _NO_RUN else runs["difficulty"],
        fingerprint=digest.hexdigest(),
        config=json.dumps(settings, sort_keys=True),
        tau=order.tau,
        median=order.median,
        n_scored=order.n_scored,
        n_unscored=n_unscored,
        quadrant_counts=list(order.counts) if order.counts is not None else None,
        created_at=now(),
    )
    ranking = store.row("get_ranking_by_fingerprint", fingerprint=digest.hexdigest())
    assert ranking is not None
    same = store.row("get_selection", ranking_id=ranking["ranking_id"], name=name, ratio=ratio.text)
    if same is not None:
        store.run("update_selection_output", selection_id=same["selection_id"], output=str(output) if output else None)
        return int(same["selection_id"])
    store.run(
        "insert_selection",
        name=name,
        ranking_id=ranking["ranking_id"],
        ratio=ratio.text,
        n_target=n_target,
        n=len(chosen),
        output=str(output) if output else None,
        created_at=now(),
    )
    made = store.row("get_selection", ranking_id=ranking["ranking_id"], name=name, ratio=ratio.text)
    assert made is not None
    store.insert("insert_selection_samples", chosen, selection_id=made["selection_id"], dataset_id=data["dataset_id"])
    return int(made["selection_id"])


# the file ----------------------------------------------------------------------------------------------------------


def check_output(output: Path) -> None:
    """Refuse an output that cannot be written, before any work is done.

    Raises:
        UsageError: an unknown ending, or a folder that does not exist.
    """
    if not output.name.endswith((".jsonl", ".jsonl.gz", ".parquet")):
        raise UsageError(f"the output `{output}` is neither .jsonl nor .parquet", "name a file such as selection.jsonl")
    if not output.parent.is_dir():
        raise UsageError(f"there is no folder `{output.parent}` for the output", "make it first, or name another")


@contextlib.contextmanager
def _written(store: Store, data: dict[str, Any], chosen: pa.Table, output: Path) -> Iterator[Path]:
    """Write the selection beside its place; the caller moves it there. On an error nothing stays behind."""
    pending = output.with_name(f".{output.name}.{os.getpid()}.part")
    try:
        store.connection.register("chosen", chosen)
        (shape,) = store.rows("shape_of_selection", dataset_id=data["dataset_id"])
        writer = _write_parquet if output.suffix == ".parquet" else _write_jsonl
        with store.batches("rows_of_selection", rows=_WRITE_ROWS, dataset_id=data["dataset_id"]) as rows:
            writer(pending, rows, shape)
        store.connection.unregister("chosen")
        yield pending
    except OSError as error:
        raise UsageError(
            f"`{output}` cannot be written: {error.strerror or error}", "free some space or name another file"
        ) from error
    finally:
        pending.unlink(missing_ok=True)


def _records(batch: pa.RecordBatch, shape: dict[str, Any]) -> Iterator[dict[str, Any]]:
    for row in batch.to_pylist():
        row["messages"] = json.loads(row["messages"])
        if shape["has_rejected"]:
            row["rejected"] = json.loads(row["rejected"]) if row["rejected"] else None
        else:
            del row["rejected"]
        yield row


def _write_jsonl(path: Path, batches: Iterator[pa.RecordBatch], shape: dict[str, Any]) -> None:
    opener: Any = gzip.open if path.name.split(".part")[0].rsplit(".", 1)[0].endswith(".gz") else open
    with opener(path, "wt", encoding="utf-8") as file:
        for batch in batches:
            for row in _records(batch, shape):
                file.write(json.dumps(row, ensure_ascii=False) + "\n")


def _write_parquet(path: Path, batches: Iterator[pa.RecordBatch], shape: dict[str, Any]) -> None:
    import pyarrow.parquet as pq

    message = [pa.field("role", pa.string()), pa.field("content", pa.string())]
    if shape["has_reasoning"]:
        message.append(pa.field("reasoning_content", pa.string()))
    conversation = pa.list_(pa.struct(message))
    fields = [
        pa.field("messages", conversation),
        *([pa.field("rejected", conversation)] if shape["has_rejected"] else []),
        pa.field("sample_id", pa.string()),
        pa.field("position", pa.int64()),
        pa.field("quadrant", pa.string()),
        pa.field("rank", pa.int64()),
        pa.field("difficulty", pa.float64()),
        pa.field("dot", pa.float64()),
    ]
    schema = pa.schema(fields)
    with pq.ParquetWriter(path, schema) as writer:
        for batch in batches:
            writer.write_table(pa.Table.from_pylist(list(_records(batch, shape)), schema=schema))
