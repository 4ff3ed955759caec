"""Rows of ``text_scores``, and the job of a score that is kept there."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from diq.base.options import InStore
from diq.scoring.job import ScoreJob

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
