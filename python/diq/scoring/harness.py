"""One scoring of texts, perplexity or similarity: what is missing, its batches, its rows in the store.

The dataset is read in blocks of ``READ_ROWS`` samples in its order, and batches are planned over all samples of a
block, also those that are known: so the batches, and with them the last bits, do not depend on how far an earlier run
came. Blocks in which nothing is missing are not read.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import orjson
import pyarrow as pa

from diq.base.config import WAIT_S
from diq.base.fingerprint import run_fingerprint
from diq.base.progress import Progress
from diq.base.sample import Message
from diq.models.source import ModelSource
from diq.models.tokens import plan_batches
from diq.scoring import summary as shards
from diq.scoring.summary import ScoreSummary
from diq.store.store import Store


@dataclass(frozen=True, slots=True)
class TextScore:
    """A row of ``text_scores`` without its run."""

    sample_id: str
    validation_set_id: int | None = None
    perplexity: float | None = None
    similarity: float | None = None
    n_tokens: int | None = None
    reason: str | None = None


@dataclass(frozen=True, slots=True)
class TextJob:
    """One call, its names looked up.

    Attributes:
        store: the store file.
        data: row of the dataset.
        kind: of the run: ``perplexity`` or ``similarity``.
        method: of the run.
        source: model or encoder.
        settings: everything else that changes a score.
        set_ids: validation sets of a similarity; empty for a perplexity.
        progress: called with the samples done and to do.
    """

    store: Path
    data: Mapping[str, Any]
    kind: str
    method: str
    source: ModelSource
    settings: dict[str, Any]
    set_ids: list[int]
    progress: Progress | None


class Scorer(Protocol):
    """A loaded model that scores the samples of a block.

    Attributes:
        architecture: class of the model.
        n_parameters: its parameters.
        environment: versions and hardware.
        token_budget: padded tokens a batch.
    """

    architecture: str
    n_parameters: int
    environment: dict[str, str]
    token_budget: int

    def read(self, conversations: Sequence[Sequence[Message]]) -> tuple[npt.NDArray[np.int64], dict[int, str]]:
        """Take the samples of a block; returns their tokens ``[n]``, and why some cannot be scored, by index."""
        ...

    def score(self, chosen: Sequence[int], ids: Sequence[str]) -> list[TextScore]:
        """Rows of some samples of the block, computed as one batch."""
        ...


def score_missing(job: TextJob, load: Callable[[], Scorer]) -> ScoreSummary:
    """Score what the run lacks on the dataset; the model is loaded only where something is missing."""
    fingerprint = run_fingerprint(job.kind, job.method, job.source.model_id, job.settings)
    with Store(job.store, read_only=True, wait_s=WAIT_S) as opened:
        known = opened.row("store/get_run_by_fingerprint", fingerprint=fingerprint)
        missing = job.data["n_samples"] if known is None else _count_missing(opened, job, known["run_id"])
    if known is not None and not missing:
        summary = ScoreSummary(known["run_id"], job.data["name"], job.data["n_samples"], n_cached=job.data["n_samples"])
        _finish(job, summary)
        return summary
    scorer = load()
    run_id = _open_run(job, scorer, fingerprint)
    summary = ScoreSummary(run_id, job.data["name"], job.data["n_samples"])
    summary.n_cached = summary.n_samples - missing
    started = last = time.monotonic()
    pending: list[TextScore] = []
    done = 0
    for rows, n in _scores(job, run_id, scorer, summary):
        pending.extend(rows)
        done += n
        if time.monotonic() - last >= shards.SHARD_SECONDS:
            _commit(job, run_id, pending)
            summary.n_scored, pending, last = done, [], time.monotonic()
        if job.progress:
            job.progress(job.kind, done, missing)
    _commit(job, run_id, pending)
    summary.n_scored = done
    summary.seconds = time.monotonic() - started
    _finish(job, summary)
    return summary


def _scores(job: TextJob, run_id: int, scorer: Scorer, summary: ScoreSummary) -> Iterator[tuple[list[TextScore], int]]:
    """Rows of the missing samples batch by batch, and of how many samples they are."""
    for ids, missing, conversations in _blocks(job, run_id):
        lengths, refused = scorer.read(conversations)
        unusable = [i for i in refused if missing[i]]
        if unusable:
            yield [row for i in unusable for row in without_score(ids[i], job.set_ids, refused[i])], len(unusable)
        for batch in plan_batches(lengths, token_budget=scorer.token_budget):
            chosen = [int(i) for i in batch if missing[i] and int(i) not in refused]
            if chosen:
                summary.tokens += int(lengths[chosen].sum())
                yield scorer.score(chosen, [ids[i] for i in chosen]), len(chosen)


def without_score(sample_id: str, set_ids: Sequence[int], reason: str) -> list[TextScore]:
    """The rows of a sample without a score, one a validation set, and why."""
    if not set_ids:
        return [TextScore(sample_id, reason=reason)]
    return [TextScore(sample_id, number, reason=reason) for number in set_ids]


def _blocks(job: TextJob, run_id: int) -> Iterator[tuple[list[str], list[bool], list[list[Message]]]]:
    """Ids, whether they are missing, and messages of each block of the dataset in which something is missing."""
    names = {"dataset_id": job.data["dataset_id"], "run_id": run_id, "validation_set_ids": job.set_ids}
    with Store(job.store, read_only=True, wait_s=WAIT_S) as opened:
        table = opened.arrow("scoring/samples_missing_text_scores", **names)
    for first in range(0, len(table), shards.READ_ROWS):
        part = table.slice(first, shards.READ_ROWS)
        ids, missing = part.column("sample_id").to_pylist(), part.column("missing").to_pylist()
        if not any(missing):
            continue
        with Store(job.store, read_only=True, wait_s=WAIT_S) as opened:
            found = opened.arrow("store/messages_of_samples", sample_ids=ids)
        texts = dict(zip(found.column("sample_id").to_pylist(), found.column("messages").to_pylist(), strict=True))
        yield ids, missing, [orjson.loads(texts[one]) for one in ids]


def _count_missing(opened: Store, job: TextJob, run_id: int) -> int:
    (found,) = opened.rows(
        "scoring/count_missing_text_scores",
        dataset_id=job.data["dataset_id"],
        run_id=run_id,
        validation_set_ids=job.set_ids,
    )
    return int(found["n"])


def _open_run(job: TextJob, scorer: Scorer, fingerprint: str) -> int:
    with Store(job.store, wait_s=WAIT_S) as opened, opened.transaction():
        opened.add_model(
            model_id=job.source.model_id,
            name=job.source.name,
            source=job.source.source,
            architecture=scorer.architecture,
            n_parameters=scorer.n_parameters,
        )
        run_id = opened.open_run(
            kind=job.kind,
            method=job.method,
            model_id=job.source.model_id,
            fingerprint=fingerprint,
            settings=job.settings,
            environment=scorer.environment,
        )
        for number in job.set_ids:
            opened.run("store/insert_run_validation_set", run_id=run_id, validation_set_id=number)
        opened.start_scoring(run_id, job.data["dataset_id"])
    return run_id


def _commit(job: TextJob, run_id: int, rows: Sequence[TextScore]) -> None:
    if not rows:
        return
    incoming = pa.table(
        {
            "run_id": pa.array([run_id] * len(rows), pa.int64()),
            "sample_id": pa.array([one.sample_id for one in rows], pa.string()),
            "validation_set_id": pa.array([one.validation_set_id for one in rows], pa.int32()),
            "perplexity": pa.array([one.perplexity for one in rows], pa.float64()),
            "similarity": pa.array([one.similarity for one in rows], pa.float64()),
            "n_tokens": pa.array([one.n_tokens for one in rows], pa.int32()),
            "reason": pa.array([one.reason for one in rows], pa.string()),
        }
    )
    with Store(job.store, wait_s=WAIT_S) as opened, opened.transaction():
        opened.insert("scoring/insert_text_scores", incoming)


def _finish(job: TextJob, summary: ScoreSummary) -> None:
    """Seal the run on the dataset and count what has no score."""
    with Store(job.store, wait_s=WAIT_S) as opened:
        with opened.transaction():
            opened.seal(summary.run_id, job.data["dataset_id"])
        for row in opened.rows("scoring/text_score_reasons", run_id=summary.run_id, dataset_id=job.data["dataset_id"]):
            summary.reasons[row["reason"]] = row["n"]
    summary.n_no_score = sum(summary.reasons.values())
