"""Rows of ``text_scores``, and the job of a score that is kept there."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pyarrow as pa

from diq.base.options import InStore
from diq.base.sample import Message
from diq.scoring import summary as shards
from diq.scoring.job import ScoreJob
from diq.store.connection import WAIT_S
from diq.store.store import Store

log = logging.getLogger(__name__)

INSERT = "baselines/insert_text_scores"
MISSING = "baselines/samples_missing_text_scores"
REASONS = "baselines/text_score_reasons"


def text_job(
    options: InStore,
    data: Mapping[str, Any],
    *,
    kind: str,
    method: str,
    model_id: str | None,
    settings: Mapping[str, Any],
    set_ids: Sequence[int] = (),
) -> ScoreJob:
    """The job of a score that is kept in ``text_scores``; the arguments are those of ``ScoreJob``."""
    return ScoreJob(
        store=options.store_file,
        data=data,
        kind=kind,
        method=method,
        model_id=model_id,
        settings=settings,
        missing=MISSING,
        params={"validation_set_ids": list(set_ids)},
        reasons=REASONS,
        label=kind,
        set_ids=set_ids,
        progress=options.progress,
    )


def text_rows(
    run_id: int,
    ids: pa.Array,
    *,
    validation_set_ids: Sequence[int] = (),
    perplexity: Sequence[float | None] | None = None,
    similarity: Sequence[float | None] | None = None,
    value: Sequence[float | None] | None = None,
    n_tokens: Sequence[int] | None = None,
    reasons: Sequence[str | None],
) -> pa.Table:
    """Rows of some samples, one a sample, or one a validation set of each in turn.

    Args:
        run_id: of the run.
        ids: of the samples, n of them.
        validation_set_ids: that the scores are with, k of them; empty for scores of none.
        perplexity: of each sample.
        similarity: of each row, n times k.
        value: score of another kind, of each row.
        n_tokens: tokens that a score covers.
        reasons: of each sample, None for one that has a score.
    """
    n, k = len(ids), max(len(validation_set_ids), 1)
    sets = np.tile(np.asarray(validation_set_ids, np.int32), n) if validation_set_ids else None
    return pa.table(
        {
            "run_id": pa.array(np.full(n * k, run_id)),
            "sample_id": ids.take(pa.array(np.repeat(np.arange(n), k))),
            "validation_set_id": pa.nulls(n, pa.int32()) if sets is None else pa.array(sets),
            "perplexity": pa.nulls(n * k, pa.float64()) if perplexity is None else pa.array(perplexity, pa.float64()),
            "similarity": pa.nulls(n * k, pa.float64()) if similarity is None else pa.array(similarity, pa.float64()),
            "value": pa.nulls(n * k, pa.float64()) if value is None else pa.array(value, pa.float64()),
            "n_tokens": pa.nulls(n * k, pa.int32()) if n_tokens is None else pa.array(n_tokens, pa.int32()),
            "reason": pa.array([one for one in reasons for _ in range(k)], pa.string()),
        }
    )


def count_above(job: ScoreJob, run_id: int, most: float) -> int:
    """Samples of the dataset whose score is above a border."""
    ids = {"run_id": run_id, "dataset_id": job.data["dataset_id"]}
    with Store(job.store, read_only=True, wait_s=WAIT_S) as opened:
        (found,) = opened.rows("store/count_outside", **ids, least=None, most=most)
    return int(found["n"])


def digest_of(store: Path, data: Mapping[str, Any]) -> str:
    """A text that names the samples which a dataset holds."""
    with Store(store, read_only=True, wait_s=WAIT_S) as opened:
        (found,) = opened.rows("baselines/digest_dataset", dataset_id=data["dataset_id"])
    return str(found["digest"])


def read_conversations(job: ScoreJob) -> Iterator[list[list[Message]]]:
    """All samples of the dataset in its order, some at a time."""
    whole = {"dataset_id": job.data["dataset_id"], "first": 0, "last": 1 << 62}
    with (
        Store(job.store, read_only=True, wait_s=WAIT_S) as opened,
        opened.batches("store/messages_in_order", rows=shards.READ_ROWS, **whole) as batches,
    ):
        for batch in batches:
            yield [orjson.loads(one) for one in batch.column("messages").to_pylist()]


def replace_older(job: ScoreJob, run_id: int, setting: str) -> None:
    """Take the dataset from the runs that differ in one setting: their scores stay, but no selection means them.

    Args:
        job: of the scoring.
        run_id: the run that takes their place.
        setting: what names the samples that the dataset held when a run scored it.
    """
    dataset_id = job.data["dataset_id"]
    with Store(job.store, wait_s=WAIT_S) as opened, opened.transaction():
        for one in opened.rows("store/candidate_runs", kind=job.kind, dataset_id=dataset_id, model=None):
            other = opened.row("store/get_run", run_id=one["run_id"])
            if one["run_id"] == run_id or other is None:
                continue
            if json.loads(other["config"]) | {setting: job.settings[setting]} == dict(job.settings):
                opened.run("store/delete_run_dataset", run_id=one["run_id"], dataset_id=dataset_id)
                log.warning(
                    "the dataset `%s` has other samples than when run %d scored it: run %d takes its place",
                    job.data["name"], one["run_id"], run_id,
                )  # fmt: skip
