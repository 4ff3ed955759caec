"""Rows of ``text_scores``, and the job of a perplexity or similarity."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow as pa

INSERT = "baselines/insert_text_scores"
MISSING = "baselines/samples_missing_text_scores"
REASONS = "baselines/text_score_reasons"


def text_rows(
    run_id: int,
    ids: pa.Array,
    *,
    validation_set_ids: Sequence[int] = (),
    perplexity: Sequence[float | None] | None = None,
    similarity: Sequence[float | None] | None = None,
    n_tokens: Sequence[int] | None = None,
    reasons: Sequence[str | None],
) -> pa.Table:
    """Rows of some samples, one a sample, or one a validation set of each in turn.

    Args:
        run_id: of the run.
        ids: of the samples, n of them.
        validation_set_ids: of a similarity, k of them; empty for a perplexity.
        perplexity: of each sample.
        similarity: of each row, n times k.
        n_tokens: tokens that a perplexity covers.
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
            "n_tokens": pa.nulls(n * k, pa.int32()) if n_tokens is None else pa.array(n_tokens, pa.int32()),
            "reason": pa.array([one for one in reasons for _ in range(k)], pa.string()),
        }
    )
