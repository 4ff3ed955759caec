"""One scoring of a dataset: what is missing, its batches, its rows in the store.

A scoring says what names its run and which query lists what is missing (``ScoreJob``), and how its model reads samples,
scores a batch and makes rows of it (``Scorer``). Everything else is here, once.

The dataset is taken in its order, in blocks. A block is planned over all its samples, also those that are known, so the
batches, and with them the last bits, do not depend on how far an earlier run came. Blocks in which nothing is missing
are left out. The texts are copied to a temporary file in one pass over the store, which is free while they are scored.

Where a ``Choice`` says so, only a part of a dataset is scored, in rounds: each may depend on the scores of those before
it. Its batches are planned over the samples of the round alone.

A sample of the dataset takes 25 bytes of memory (``Samples``), where it is tokenised to disk 12 more (``TokenFile``),
and 24 more while the batches are planned; texts and tokens are on disk, but for those of one block.
"""

from __future__ import annotations

import tempfile
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import orjson
import pyarrow as pa

from diq.base.sample import Message
from diq.models.architecture import RopeChange
from diq.models.tokens import plan_batches, temporary_disk
from diq.scoring import summary as shards
from diq.scoring.job import (
    RunModel,
    Samples,
    ScoreJob,
    cached,
    column_of_ids,
    computing,
    finish,
    look_up,
    open_run,
    read_samples,
)
from diq.scoring.summary import ScoreSummary
from diq.store.connection import WAIT_S
from diq.store.store import Store


@dataclass(frozen=True, slots=True)
class Batch:
    """Samples of a block that were planned together, longest first.

    Attributes:
        rows: ``[m]`` their places in the block.
        missing: ``[m]`` which of them the run lacks, at least one.
    """

    rows: npt.NDArray[np.int64]
    missing: npt.NDArray[np.bool_]

    @property
    def wanted(self) -> npt.NDArray[np.int64]:
        """Places of those that the run lacks."""
        return self.rows[self.missing]


class Scorer(ABC):
    """A loaded model that scores the samples of a block.

    Attributes:
        model: what is recorded of it; None where no model scores.
        environment: versions and hardware.
        token_budget: tokens a batch, padding included unless ``packed``.
        packed: whether batches have no padding.
        rope_change: where the model sees samples otherwise, which then are in batches of their own.
        block_reads: a block is so many times ``READ_ROWS`` samples; None: it is the whole dataset, which is read in
            parts of ``READ_ROWS``.
        insert: query that adds rows, except those that are there.
    """

    model: RunModel | None
    environment: Mapping[str, Any]
    token_budget: int
    packed: bool = False
    rope_change: RopeChange | None = None
    block_reads: int | None = 1
    insert: str

    def begin(self, run_id: int) -> None:  # noqa: B027  (most have nothing to do)
        """Do what comes before the samples; called once the run is open."""

    @abstractmethod
    def read(self, conversations: Sequence[Sequence[Message]]) -> tuple[npt.NDArray[np.int64], dict[int, str]]:
        """Take the samples of a block, or the next part of the one block.

        Returns:
            Their tokens ``[n]``, 0 for those that cannot be scored, and by index why those cannot.
        """

    @abstractmethod
    def score(self, batches: Iterator[Batch]) -> Iterator[tuple[Batch, Any]]:
        """Score batches of the block; the results come in any order."""

    @abstractmethod
    def rows(self, run_id: int, ids: pa.Array, result: Any) -> Any:
        """The rows of a result, one or several for each wanted sample: what ``write`` takes; it has ``nbytes``."""

    @abstractmethod
    def refused(self, run_id: int, ids: pa.Array, reasons: Sequence[str]) -> Any:
        """The rows of samples that cannot be scored."""

    def write(self, store: Path, pending: Sequence[Any]) -> None:
        """Write rows in one transaction."""
        table = pa.concat_tables(pending)
        with Store(store, wait_s=WAIT_S) as opened, opened.transaction():
            opened.insert(self.insert, table)


class Choice(ABC):
    """Which samples of a dataset are scored, where not all are."""

    @abstractmethod
    def settled(self, job: ScoreJob) -> ScoreSummary | None:
        """The summary where the store has enough already; None where something must be scored."""

    @abstractmethod
    def next(self, run_id: int, samples: Samples, usable: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_] | None:
        """The samples of the next round, ``[n]``, those that the store has included; None ends the scoring.

        Args:
            run_id: run.
            samples: of the dataset; ``missing`` is as it is in the store.
            usable: ``[n]`` which can be scored.
        """

    @abstractmethod
    def tell(self, summary: ScoreSummary) -> None:
        """Tell the summary what the scores of a part are good for."""


def score_missing(
    job: ScoreJob, load: Callable[[], AbstractContextManager[Scorer]], choice: Choice | None = None
) -> ScoreSummary:
    """Score what the run lacks on the dataset; a model is loaded only where something is missing.

    Of several processes that ask for the same, one computes, and the others wait for it.

    Args:
        job: what is scored.
        load: makes the scorer.
        choice: which samples; None: all.
    """

    def known() -> ScoreSummary | None:
        return cached(job) or (None if choice is None else choice.settled(job))

    summary = known()
    if summary is not None:
        return summary
    with computing(job, f"{job.fingerprint[:12]}-{job.data['dataset_id']}"):
        summary = known()
        if summary is not None:
            return summary
        with load() as scorer:
            run_id = open_run(job, scorer.model, scorer.environment)
            summary = ScoreSummary(run_id, job.data["name"], job.data["n_samples"])
            started = time.monotonic()
            scorer.begin(run_id)
            score_samples(job, run_id, scorer, summary, choice)
            summary.seconds = time.monotonic() - started
        complete = choice is None or not look_up(job)[1]
        finish(job, summary, complete=complete)
        if choice is not None and not complete:
            choice.tell(summary)
    return summary


def score_samples(
    job: ScoreJob, run_id: int, scorer: Scorer, summary: ScoreSummary, choice: Choice | None = None
) -> None:
    """Score what a run lacks on the dataset, block by block, and tell the summary."""
    # a choice is made among all samples
    assert choice is None or scorer.block_reads is None
    with Store(job.store, read_only=True, wait_s=WAIT_S) as opened:
        samples = read_samples(opened, job, run_id)
        n_missing = int(samples.missing.sum())
        summary.n_cached = summary.n_samples - n_missing
        n = len(samples.missing)
        size = n if scorer.block_reads is None else shards.READ_ROWS * scorer.block_reads
        part = shards.READ_ROWS if scorer.block_reads is None else size
        texts = _Texts(opened, job, samples, block=max(size, 1), part=part)
    with texts, Shards(lambda pending: scorer.write(job.store, pending)) as waiting:
        for first in range(0, n, max(size, 1)):
            block = slice(first, first + size)
            if not samples.missing[block].any():
                continue
            lengths, refused = _read(job, scorer, texts, range(first, min(first + size, n), part), samples)
            missing, ids = samples.missing[block], samples.ids[block]
            _refuse(run_id, scorer, ids, missing, refused, waiting)
            # what is counted: tokens where all are known, else samples, of which the longest come first
            weights = lengths if scorer.block_reads is None else np.ones(len(lengths), np.int64)
            total = int(weights[missing].sum()) if scorer.block_reads is None else n_missing
            done = 0 if scorer.block_reads is None else waiting.n
            usable = np.ones(len(lengths), np.bool_)
            usable[list(refused)] = False
            for chosen in _rounds(choice, run_id, samples, usable, waiting):
                if choice is not None:
                    total = done + int(weights[missing & chosen].sum())
                for batch, result in scorer.score(_batches(scorer, lengths, missing, chosen)):
                    wanted = batch.wanted
                    waiting.add(scorer.rows(run_id, column_of_ids(ids[wanted]), result), len(wanted))
                    summary.tokens += int(lengths[wanted].sum())
                    done += int(weights[wanted].sum())
                    job.report(job.label, done, total)
    summary.n_scored = waiting.n


def _read(
    job: ScoreJob, scorer: Scorer, texts: _Texts, parts: Sequence[int], samples: Samples
) -> tuple[npt.NDArray[np.int64], dict[int, str]]:
    """Tokens of the samples of a block, and by index why some cannot be scored."""
    lengths: list[npt.NDArray[np.int64]] = []
    refused: dict[int, str] = {}
    at = 0
    for first in parts:
        counts, reasons = scorer.read(texts.read(first))
        refused |= {at + i: reason for i, reason in reasons.items()}
        lengths.append(counts)
        at += len(counts)
        if len(parts) > 1:
            job.report("tokenizing", at, len(samples.missing))
    return np.concatenate(lengths), refused


def _refuse(
    run_id: int,
    scorer: Scorer,
    ids: npt.NDArray[np.uint8],
    missing: npt.NDArray[np.bool_],
    refused: Mapping[int, str],
    waiting: Shards,
) -> None:
    rows = np.asarray([i for i in refused if missing[i]], np.int64)
    if len(rows):
        reasons = [refused[int(i)] for i in rows]
        waiting.add(scorer.refused(run_id, column_of_ids(ids[rows]), reasons), len(rows))


def _rounds(
    choice: Choice | None, run_id: int, samples: Samples, usable: npt.NDArray[np.bool_], waiting: Shards
) -> Iterator[npt.NDArray[np.bool_]]:
    """The samples of each round: all that can be scored at once, where no choice is made."""
    if choice is None:
        yield usable
        return
    # those that cannot be scored have their reasons by now
    samples.missing[~usable] = False
    while True:
        # the next round depends on what this one wrote
        waiting.flush()
        part = choice.next(run_id, samples, usable)
        if part is None:
            return
        yield part
        samples.missing[part] = False


def _batches(
    scorer: Scorer, lengths: npt.NDArray[np.int64], missing: npt.NDArray[np.bool_], part: npt.NDArray[np.bool_]
) -> Iterator[Batch]:
    """Batches of a part of a block.

    The plan is made over all samples of the part, so that it does not depend on which of them are known.
    """
    among = np.flatnonzero(part)
    plan = plan_batches(
        lengths[among], token_budget=scorer.token_budget, packed=scorer.packed, change=scorer.rope_change
    )
    for planned in plan:
        rows = among[planned]
        if missing[rows].any():
            yield Batch(rows, missing[rows])


class Shards:
    """Rows that wait for their transaction: one every ``SHARD_SECONDS``, or when they are large; the rest at the end.

    Attributes:
        n: samples so far.
    """

    def __init__(self, write: Callable[[list[Any]], None]) -> None:
        self.n = 0
        self._write = write
        self._pending: list[Any] = []
        self._nbytes = 0
        self._last = time.monotonic()

    def __enter__(self) -> Shards:
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        # what was computed before an error is less than a shard: the next run computes it again
        if kind is None:
            self.flush()

    def add(self, rows: Any, n_samples: int) -> None:
        """Take the rows of some samples."""
        self._pending.append(rows)
        self.n += n_samples
        self._nbytes += rows.nbytes
        if time.monotonic() - self._last >= shards.SHARD_SECONDS or self._nbytes >= shards.SHARD_BYTES:
            self.flush()

    def flush(self) -> None:
        """Write what waits."""
        if self._pending:
            self._write(self._pending)
        self._pending, self._nbytes, self._last = [], 0, time.monotonic()


class _Texts:
    """Messages of the samples that will be read, in a temporary file that vanishes with the process.

    Args:
        opened: the store, which is read once, in the order of the dataset.
        job: what is scored.
        samples: the samples, and which are missing.
        block: samples of a block; one in which nothing is missing is not copied.
        part: samples that are read at once, a divisor of ``block`` or of nothing.
    """

    def __init__(self, opened: Store, job: ScoreJob, samples: Samples, *, block: int, part: int) -> None:
        self._file = tempfile.TemporaryFile(prefix="diq-texts-")  # noqa: SIM115  (closed at the end of the block)
        self._places: dict[int, tuple[int, int]] = {}
        missing = samples.missing
        wanted = [first for first in range(0, len(missing), block) if missing[first : first + block].any()]
        if not wanted:
            return
        begin, end = wanted[0], min(wanted[-1] + block, len(missing))
        needed = set(wanted)
        names = {"first": int(samples.positions[begin]), "last": int(samples.positions[end - 1])}
        at = begin
        with opened.batches("store/messages_in_order", dataset_id=job.data["dataset_id"], **names) as batches:
            for batch in batches:
                lines = batch.column("messages").to_pylist()
                done = 0
                while done < len(lines):
                    first = at - at % part
                    n = min(first + part - at, len(lines) - done)
                    if at - at % block in needed:
                        self._append(first, lines[done : done + n])
                    done, at = done + n, at + n
        assert at == end, "a sample has no text"
        with temporary_disk("the texts"):
            self._file.flush()

    def _append(self, first: int, lines: Sequence[str]) -> None:
        begin = self._places.setdefault(first, (self._file.tell(), 0))[0]
        with temporary_disk("the texts"):
            self._file.write(b"".join(line.encode() + b"," for line in lines))
        self._places[first] = begin, self._file.tell()

    def read(self, first: int) -> list[list[Message]]:
        """Messages of the samples of a part, by the place of its first."""
        begin, end = self._places[first]
        self._file.seek(begin)
        # without the last comma, the elements of one JSON array
        found: list[list[Message]] = orjson.loads(b"[%s]" % self._file.read(end - begin)[:-1])
        return found

    def __enter__(self) -> _Texts:
        return self

    def __exit__(self, *_: object) -> None:
        # after a full disk there is something left that cannot be written, and nobody needs it
        with suppress(OSError):
            self._file.close()
