"""Select: the ranking of ``--diverse``, walked from another one as far as a selection asks.

To leave out what is too near, every candidate is compared with all that was taken, so a whole walk would cost the
square of the dataset. A walk goes as far as the asked ratio needs, and the store keeps what it took (rows of a ranking
of its own), what it left out (exclusions of a run of the kind ``guard``), and how deep it went, all of it after every
step. A smaller ratio is then a prefix read, a larger one goes on, and a killed walk too. Whoever goes on ends with the
same rows, since the greedy order knows nothing of steps.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import orjson
import pyarrow as pa

from diq.base.arrow import numbers
from diq.base.errors import RunFailedError
from diq.base.fingerprint import canonical_json, fingerprint_of, run_fingerprint
from diq.base.progress import Progress
from diq.base.text import amount
from diq.encoders.options import Text
from diq.models.device import describe_environment, pick_device
from diq.selection.diverse import Taken
from diq.selection.exclusions import Guard, exclusion_table
from diq.selection.guards import Exclusion
from diq.selection.ranking import Ranking, read_row
from diq.selection.vectors import Vectors, open_vectors
from diq.store.connection import WAIT_S
from diq.store.store import Store, now

log = logging.getLogger(__name__)

# raised when a walk would take something else with the same settings
VERSION = 1
METHOD = "diverse"
# candidates of a step: what is embedded, walked and written at once
_FEWEST, _MOST = 256, 8192


@dataclass(frozen=True, slots=True)
class Diverse:
    """What ``--diverse`` asks for.

    Attributes:
        threshold: cosine above which two samples are too near, in (0, 1).
        by: encoder, run or folder, as it was given.
        text: what an encoder reads of a sample.
    """

    threshold: float
    by: str
    text: Text


@dataclass(frozen=True, slots=True)
class _Walk:
    """A walk in the store.

    Attributes:
        ranking_id: ranking of what is taken.
        run_id: run of what is left out.
        base: ranking that is walked through.
        first: its first row that is walked.
        n: its rows that are walked at most.
        dataset_id: dataset of all of it.
    """

    ranking_id: int
    run_id: int
    base: int
    first: int
    n: int
    dataset_id: int


def walked(
    store: Path, data: dict[str, Any], base: Ranking, strategy: str, wanted: int, asked: Diverse, progress: Progress
) -> tuple[Ranking, Guard]:
    """The ranking of what is not too near to anything before it, with ``wanted`` samples or all that there are.

    Args:
        store: the DuckDB file; open only while it is read or written.
        data: the dataset.
        base: ranking whose order is walked through.
        strategy: of the selection; q1 to q4 walk through their part alone.
        wanted: samples that are needed.
        asked: what is too near.
        progress: called after every step.

    Returns:
        The ranking, and what was left out as far as it was walked.

    Raises:
        UsageError, InputError, ModelError: what is compared cannot be found or read.
        RunFailedError: another process goes on with the same walk.
    """
    vectors = open_vectors(store, asked.by, asked.text, progress)
    first, n = base.part(strategy, base.n_scored)
    with Store(store, wait_s=WAIT_S) as opened:
        state, walk = _find(opened, data, base, strategy, first, n, asked, vectors)
        depth, taken = _progress_of(opened, walk)
    if taken < wanted and depth < n:
        _go_on(store, walk, depth, wanted, asked.threshold, vectors, progress)
    with Store(store, read_only=True, wait_s=WAIT_S) as opened:
        depth, taken = _progress_of(opened, walk)
        row = opened.row("selection/get_ranking", ranking_id=walk.ranking_id)
    assert row is not None
    guard = Guard(walk.run_id, METHOD, depth - taken, {**asdict(asked), "n_walked": depth, "n_taken": taken})
    return replace(read_row(row, state), n_taken=taken), guard


def _find(
    store: Store,
    data: dict[str, Any],
    base: Ranking,
    strategy: str,
    first: int,
    n: int,
    asked: Diverse,
    vectors: Vectors,
) -> tuple[Any, _Walk]:
    """The walk of a request, made where it is new or its base was made again."""
    base_row = store.row("selection/get_ranking", ranking_id=base.ranking_id)
    assert base_row is not None
    # only q1 to q4 walk through something else than the strategy of the ranking
    part = strategy if strategy != base_row["strategy"] else None
    settings = {**asdict(asked), "vectors": dict(vectors.identity), "part": part, "version": VERSION}
    configuration = fingerprint_of(base_row["configuration"], canonical_json(settings))
    known = store.row("selection/find_ranking", configuration=configuration)
    place = {"base": base.ranking_id, "first": first, "n": n, "dataset_id": data["dataset_id"]}
    if known is not None and known["base_ranking"] == base.ranking_id:
        store.run("selection/refresh_walk", ranking_id=known["ranking_id"])
        return "stored", _Walk(known["ranking_id"], known["guard_runs"][-1], **place)
    full = {**settings, "dataset": data["dataset_id"], "base": base_row["fingerprint"]}
    with store.transaction():
        run_id = store.open_run(
            kind="guard",
            method=METHOD,
            model_id=None,
            fingerprint=run_fingerprint("guard", METHOD, None, {**full, "base_ranking": base.ranking_id}),
            settings=full,
            environment=describe_environment(pick_device("cpu")),
        )
        _note(store, run_id, 0, 0)
        store.start_scoring(run_id, data["dataset_id"])
        store.seal(run_id, data["dataset_id"])
        made = store.row(
            "selection/insert_walk",
            base_ranking=base.ranking_id,
            guard_runs=[*(base_row["guard_runs"] or ()), run_id],
            fingerprint=fingerprint_of(configuration, base_row["fingerprint"]),
            config=json.dumps(json.loads(base_row["config"]) | {"diverse": settings}, sort_keys=True),
            configuration=configuration,
            created_at=now(),
        )
        assert made is not None
        if known is not None:
            store.run("selection/replace_ranking", ranking_id=known["ranking_id"], replaced_by=made["ranking_id"])
            store.run("selection/prune_ranking", ranking_id=known["ranking_id"])
    return ("new" if known is None else "renewed"), _Walk(made["ranking_id"], run_id, **place)


def _progress_of(store: Store, walk: _Walk) -> tuple[int, int]:
    """Rows that were walked, and those of them that were taken."""
    row = store.row("selection/get_ranking", ranking_id=walk.ranking_id)
    taken = store.row("selection/count_taken", ranking_id=walk.ranking_id)
    assert row is not None
    assert taken is not None
    return int(row["depth"]), int(taken["n"])


def _go_on(
    store: Path, walk: _Walk, depth: int, wanted: int, threshold: float, vectors: Vectors, progress: Progress
) -> None:
    with Store(store, read_only=True, wait_s=WAIT_S) as opened:
        before = _rows(opened, walk.dataset_id, walk.ranking_id, 0, depth)
    positions = before.column("position").to_pylist()
    taken, n_blank = None, 0
    for start in range(0, len(before), _MOST):
        found = _vectors_of(store, walk, before.slice(start, _MOST), vectors)
        taken = taken or Taken(threshold, found.shape[1])
        taken.add(found)
    while depth < walk.n and len(positions) < wanted:
        # a step is a little more than what is lacking
        lacking = wanted - len(positions)
        n = min(max(_FEWEST, lacking + lacking // 4), _MOST, walk.n - depth)
        with Store(store, read_only=True, wait_s=WAIT_S) as opened:
            rows = _rows(opened, walk.dataset_id, walk.base, walk.first + depth, n)
        found = _vectors_of(store, walk, rows, vectors)
        n_blank += int(np.count_nonzero(~found.any(axis=1)))
        taken = taken or Taken(threshold, found.shape[1])
        verdict = taken.offer(found)
        kept, here = np.flatnonzero(verdict.kept), numbers(rows.column("position"))
        new = {"rank": len(positions) + np.arange(len(kept)), "base_rank": numbers(rows.column("rank"))[kept]}
        positions += here[kept].tolist()
        out = [
            _exclusion(int(here[row]), positions[verdict.matched[row]], float(verdict.similarity[row]), threshold)
            for row in np.flatnonzero(~verdict.kept)
        ]
        _write(store, walk, depth, depth + n, pa.table(new), out, depth + n - len(positions))
        depth += n
        progress("diverse", min(len(positions), wanted), wanted)
    if n_blank:
        log.warning(
            "nothing is near to %s without a vector (no gradient in the index, or an embedding without direction)",
            amount(n_blank, "sample"),
        )


def _vectors_of(store: Path, walk: _Walk, rows: pa.Table, vectors: Vectors) -> npt.NDArray[np.float32]:
    """Vectors of some rows of a ranking, ``[n, dim]``; those that are missing are made first."""
    ids = rows.column("sample_id").to_pylist()
    missing = vectors.missing(ids)
    if missing:
        with Store(store, read_only=True, wait_s=WAIT_S) as opened:
            texts = _texts(opened, walk.dataset_id, rows.take(missing))
        vectors.make(texts)
    return vectors.of(ids)


def _rows(store: Store, dataset_id: int, ranking_id: int, first: int, n: int) -> pa.Table:
    return store.arrow("selection/rows_to_walk", dataset_id=dataset_id, ranking_id=ranking_id, first=first, n=n)


def _texts(store: Store, dataset_id: int, rows: pa.Table) -> dict[str, Any]:
    """Conversations of the samples of some rows, by their ids, in the order of the rows."""
    positions = rows.column("position").to_pylist()
    found = store.arrow("store/texts_at_positions", dataset_id=dataset_id, positions=positions)
    texts = dict(zip(found.column("position").to_pylist(), found.column("messages").to_pylist(), strict=True))
    ids = rows.column("sample_id").to_pylist()
    return {one: orjson.loads(texts[position]) for one, position in zip(ids, positions, strict=True)}


def _exclusion(position: int, kept: int, cosine: float, threshold: float) -> Exclusion:
    return Exclusion(
        position, f"nearer than {threshold:g} to position {kept}, taken before (cosine {cosine:.4f})", kept,
        similarity=cosine,
    )  # fmt: skip


def _write(
    store: Path, walk: _Walk, before: int, depth: int, new: pa.Table, out: Sequence[Exclusion], n_out: int
) -> None:
    """One step: what was taken, what was left out, and the depth, or nothing of it."""
    with Store(store, wait_s=WAIT_S) as opened, opened.transaction():
        if opened.row("selection/update_depth", ranking_id=walk.ranking_id, before=before, depth=depth) is None:
            raise RunFailedError("another process goes on with the same walk", "run the same command again")
        opened.insert("selection/insert_walked", new, ranking_id=walk.ranking_id, base_ranking=walk.base)
        if out:
            ids = {"run_id": walk.run_id, "dataset_id": walk.dataset_id}
            opened.insert("selection/insert_exclusions", exclusion_table(out), **ids)
        _note(opened, walk.run_id, depth, n_out)


def _note(store: Store, run_id: int, depth: int, n_out: int) -> None:
    """Keep how far a walk went where other guards keep what came out."""
    result = {"n_excluded": n_out, "details": {"n_walked": depth, "n_taken": depth - n_out}}
    store.run("store/update_run_result", run_id=run_id, result=canonical_json(result))
