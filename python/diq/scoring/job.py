"""A scoring's request, its run in the store, and the right to compute it; nothing here loads a model library."""

from __future__ import annotations

import contextlib
import logging
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import orjson
import pyarrow as pa

from diq.base.arrow import numbers
from diq.base.command import quoted
from diq.base.config import expanded
from diq.base.errors import RunFailedError, UsageError
from diq.base.files import one_at_a_time, right_beside
from diq.base.fingerprint import run_fingerprint
from diq.base.progress import Progress
from diq.base.text import amount
from diq.models.source import ModelSource
from diq.scoring.summary import ScoreSummary
from diq.store.connection import WAIT_S
from diq.store.store import Store

log = logging.getLogger(__name__)

# seconds between two looks at whether another process still computes, and at how far it is
_LOOK_S = 0.2
_COUNT_S = 5.0


# the request -------------------------------------------------------------------------------------------------------


def read_dataset(store: Path, dataset: str) -> dict[str, Any]:
    """The dataset's row.

    Raises:
        UsageError: an unknown name, or an empty dataset.
    """
    with Store(store, read_only=True) as opened:
        return _dataset(opened, dataset)


def _dataset(opened: Store, dataset: str) -> dict[str, Any]:
    data = opened.dataset(dataset)
    if data["n_samples"] == 0:
        raise UsageError(f"the dataset `{dataset}` has no samples", "see `diq sql 'from rejects'`")
    return data


@dataclass(frozen=True, slots=True)
class Request:
    """A dataset, its validation sets and their samples, as they are in the store."""

    data: dict[str, Any]
    sets: list[dict[str, Any]]
    conversations: list[list[Any]]


def read_request(store: Path, dataset: str, validation_sets: Sequence[str]) -> Request:
    """Look up the names of a request; no name of a validation set means all of the store.

    Raises:
        UsageError: an unknown name, an empty dataset, or no validation set with samples.
    """
    with Store(store, read_only=True) as opened:
        data = opened.dataset(dataset)
        # a set that came with scores computed elsewhere has a name, but no samples here
        here = [one["name"] for one in opened.rows("store/list_validation_sets") if one["dataset_id"] is not None]
        names = list(dict.fromkeys(validation_sets)) or here
        if not names:
            raise UsageError(
                f"there is no validation set in `{store}`",
                "make one with `diq ingest FILE --dataset NAME --validation --sample 20`",
            )
        sets = [opened.validation_set(name) for name in names]
        empty = [name for name in names if name not in here]
        if empty:
            raise UsageError(
                f"the validation set `{empty[0]}` has no samples in the store", "ingest its samples with --validation"
            )
        data = _dataset(opened, dataset)
        conversations = [
            [
                orjson.loads(row["messages"])
                for row in opened.rows("store/validation_messages", validation_set_id=one["validation_set_id"])
            ]
            for one in sets
        ]
    return Request(data, sets, conversations)


def check_name(store: Path, model: ModelSource, hint: str = "name it otherwise with --model-name NAME") -> None:
    """Refuse a name by which the store knows another model, before anything is computed: scores go by names.

    A model that the store has keeps the name that it has there; a changed one in the same place keeps that of before.

    Args:
        store: the store file.
        model: what will be scored with.
        hint: how it gets another name.

    Raises:
        UsageError: the name is that of a model from another place.
    """
    with Store(store, read_only=True) as opened:
        known = opened.rows("store/list_models")
    here = next((row["name"] for row in known if row["model_id"] == model.model_id), None)
    if here is not None:
        if here != model.name:
            log.warning("`%s` is in the store as the model `%s`, by which `diq select` finds it", model.source, here)
        return
    place = os.path.realpath(expanded(model.source))
    for row in known:
        if row["name"] != model.name or ":" in row["model_id"]:
            # what a server answered with, or was computed elsewhere, lies in no place
            continue
        if os.path.realpath(expanded(row["source"])) != place:
            raise UsageError(
                f"the model of `{model.source}` would be called `{model.name}`, as the one of `{row['source']}` is",
                hint,
            )


# the run -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class RunModel:
    """What is recorded of the model of a run (a row of ``models``)."""

    model_id: str
    name: str
    source: str
    architecture: str | None
    n_parameters: int | None


@dataclass(frozen=True, slots=True)
class ScoreJob:
    """One scoring of one dataset, its names looked up.

    Attributes:
        store: the store file.
        data: row of the dataset.
        kind: of the run: what is scored.
        method: of the run: how.
        model_id: of the run; None where no model scores.
        settings: of the run: everything else that changes a score.
        missing: query of the position and id of every sample of the dataset in order, and whether it is missing; it
            takes ``$dataset_id`` and ``$run_id``.
        params: its further parameters.
        reasons: query that counts the samples without a score by reason.
        label: what is done, for the progress.
        set_ids: validation sets that the scores are with; empty where there are none.
        progress: called with what is done and to do.
    """

    store: Path
    data: Mapping[str, Any]
    kind: str
    method: str
    model_id: str | None
    settings: Mapping[str, Any]
    missing: str
    reasons: str
    label: str
    params: Mapping[str, Any] = field(default_factory=dict)
    set_ids: Sequence[int] = ()
    progress: Progress | None = None

    @property
    def fingerprint(self) -> str:
        """What names the run."""
        return run_fingerprint(self.kind, self.method, self.model_id, self.settings)

    def report(self, what: str, done: int, total: int) -> None:
        """Tell the caller how far it is."""
        if self.progress:
            self.progress(what, done, total)


@dataclass(frozen=True, slots=True)
class Samples:
    """The samples of a dataset in its order: 25 bytes each.

    Attributes:
        positions: ``[n]`` int64.
        ids: ``[n, 16]`` uint8, the bytes of the UUID.
        missing: ``[n]`` bool, whether the run lacks a row of the sample.
    """

    positions: npt.NDArray[np.int64]
    ids: npt.NDArray[np.uint8]
    missing: npt.NDArray[np.bool_]


def read_samples(opened: Store, job: ScoreJob, run_id: int) -> Samples:
    """The samples of the dataset, and which the run lacks."""
    positions, ids, missing = [np.zeros(0, np.int64)], [np.zeros((0, 16), np.uint8)], [np.zeros(0, np.bool_)]
    with opened.batches(
        job.missing, rows=100_000, dataset_id=job.data["dataset_id"], run_id=run_id, **job.params
    ) as batches:
        for batch in batches:
            positions.append(numbers(batch.column("position")))
            ids.append(bytes_of_ids(batch.column("sample_id")))
            missing.append(numbers(batch.column("missing")))
    return Samples(np.concatenate(positions), np.concatenate(ids), np.concatenate(missing))


def bytes_of_ids(column: pa.Array) -> npt.NDArray[np.uint8]:
    """Sample ids as DuckDB gives them (BLOB) as ``[n, 16]``."""
    fixed = column.cast(pa.binary(16))
    return np.frombuffer(fixed.buffers()[1], np.uint8).reshape(-1, 16)[fixed.offset : fixed.offset + len(fixed)]


def column_of_ids(ids: npt.NDArray[np.uint8]) -> pa.Array:
    """Sample ids ``[n, 16]`` as DuckDB takes them."""
    return pa.FixedSizeBinaryArray.from_buffers(
        pa.binary(16), len(ids), [None, pa.py_buffer(np.ascontiguousarray(ids))]
    )


def open_run(job: ScoreJob, model: RunModel | None, environment: Mapping[str, Any]) -> int:
    """Record the model, the run and its validation sets, and mark the run open on the dataset; returns its number."""
    with Store(job.store, wait_s=WAIT_S) as opened, opened.transaction():
        if model:
            opened.add_model(**asdict(model))
        run_id = opened.open_run(
            kind=job.kind,
            method=job.method,
            model_id=job.model_id,
            fingerprint=job.fingerprint,
            settings=job.settings,
            environment=environment,
        )
        for number in job.set_ids:
            opened.run("store/insert_run_validation_set", run_id=run_id, validation_set_id=number)
        opened.start_scoring(run_id, job.data["dataset_id"])
    return run_id


def look_up(job: ScoreJob) -> tuple[int | None, int]:
    """Number of the run, None when it is new, and how many samples of the dataset it lacks."""
    with Store(job.store, read_only=True, wait_s=WAIT_S) as opened:
        known = opened.row("store/get_run_by_fingerprint", fingerprint=job.fingerprint)
        if known is None:
            return None, int(job.data["n_samples"])
        return int(known["run_id"]), int(read_samples(opened, job, known["run_id"]).missing.sum())


def cached(job: ScoreJob) -> ScoreSummary | None:
    """The summary of a scoring that has nothing to do; None where the run lacks a sample."""
    run_id, n_missing = look_up(job)
    if run_id is None or n_missing:
        return None
    n = job.data["n_samples"]
    summary = ScoreSummary(run_id, job.data["name"], n, n_cached=n)
    finish(job, summary)
    return summary


def finish(job: ScoreJob, summary: ScoreSummary, *, complete: bool = True) -> None:
    """Seal the run on the dataset, unless samples are left, and count what has no score."""
    ids = {"run_id": summary.run_id, "dataset_id": job.data["dataset_id"]}
    with Store(job.store, wait_s=WAIT_S) as opened:
        if complete and job.set_ids:
            # dots with other validation sets may have been stopped, or taken of a part; one state holds for all
            unfinished = opened.rows("store/unfinished_sets", **ids)
            complete = not unfinished
            for one in unfinished:
                log.warning(
                    "run %d stays open: of the validation set `%s` it has the dots of %s of %s; the same command with "
                    "--validation-set %s scores the rest",
                    summary.run_id,
                    one["name"],
                    f"{one['n']:,}",
                    amount(job.data["n_samples"], "sample"),
                    quoted(one["name"]),
                )
        if complete:
            with opened.transaction():
                opened.seal(**ids)
        summary.reasons = {row["reason"]: row["n"] for row in opened.rows(job.reasons, **ids)}
    summary.n_no_score = sum(summary.reasons.values())


# one at a time -----------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def computing(job: ScoreJob, name: str) -> Iterator[None]:
    """The right to compute what has a name, which one process of those that use the store has at a time.

    Another that asks for it waits, and finds in the store what the first made; a kill gives the right back, and who
    waits goes on from there. Where the file system has no locks, the log says so and everybody computes.

    Args:
        job: what is scored; its progress is told how far the other process is.
        name: of what is computed, part of a file name.
    """
    path = right_beside(job.store, name)
    refusal = RunFailedError("another process is computing these scores")
    with contextlib.ExitStack() as stack:
        counted = None
        while True:
            try:
                stack.enter_context(one_at_a_time(path, refusal))
                break
            except RunFailedError as error:
                if error is not refusal:
                    raise
            holder = _holder(path)
            if counted is None:
                log.warning("%s is computing these scores: waiting for it, and computing what it leaves", holder)
            if counted is None or time.monotonic() - counted >= _COUNT_S:
                n = int(job.data["n_samples"])
                job.report(f"waiting for {holder}", n - look_up(job)[1], n)
                counted = time.monotonic()
            time.sleep(_LOOK_S)
        path.write_text(str(os.getpid()), encoding="ascii")
        yield


def _holder(path: Path) -> str:
    try:
        return f"process {int(path.read_text(encoding='ascii'))}"
    except (OSError, ValueError):
        # it has only just begun, or ended
        return "another process"
