"""Difficulty by a classifier: its run, and its rows in the store."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import torch

from diq.base.config import DIFFICULTY_DIMENSIONS, LIKERT_LEVELS
from diq.base.progress import Progress
from diq.base.sample import prompt_text
from diq.difficulty.classifier import DifficultyClassifier, find_classifier, likert
from diq.models.device import describe_environment, pick_device, pick_dtype
from diq.scoring.encoder import EncoderScorer
from diq.scoring.harness import score_missing
from diq.scoring.job import RunModel, ScoreJob
from diq.scoring.summary import ScoreSummary

log = logging.getLogger(__name__)


def score_classifier(
    store: Path,
    data: Mapping[str, Any],
    classifier: str,
    *,
    device: str,
    dtype: str,
    token_budget: int | None,
    progress: Progress | None,
) -> tuple[ScoreSummary, dict[str, Any]]:
    """Rate the samples of a dataset that lack a rating of a classifier; returns also what the summary tells of it.

    Raises:
        ModelError: the classifier cannot be used.
    """
    source = find_classifier(classifier)
    place = pick_device(device)
    precision = pick_dtype(dtype, place)
    network = DifficultyClassifier(source, device=place, dtype=getattr(torch, precision))
    if len(network.dimensions) < len(DIFFICULTY_DIMENSIONS):
        log.warning("the classifier rates %s alone: the other dimensions stay empty", " and ".join(network.dimensions))
    job = ScoreJob(
        store=store,
        data=data,
        kind="difficulty",
        method="classifier",
        model_id=source.model_id,
        settings={"text": "prompt", "max_length": network.max_length, "dtype": precision},
        missing="difficulty/samples_missing_difficulty",
        reasons="store/difficulty_reasons",
        label="difficulty",
        progress=progress,
    )
    scorer = EncoderScorer(
        network,
        model=RunModel(source.model_id, source.name, source.source, network.architecture, network.n_parameters),
        environment=describe_environment(place),
        device=place,
        token_budget=token_budget,
        text_of=prompt_text,
        shape=(len(network.dimensions), LIKERT_LEVELS),
        insert="difficulty/insert_difficulty_scores",
        table=partial(_table, network.dimensions),
    )
    summary = score_missing(job, lambda: nullcontext(scorer))
    summary.details |= scorer.tell_of_cuts(summary.n_scored)
    return summary, {"classifier": source.name, "model_id": source.model_id, "dtype": precision}


def _table(
    dimensions: Sequence[str],
    run_id: int,
    ids: pa.Array,
    logits: npt.NDArray[np.float64],
    reasons: Sequence[str | None],
) -> pa.Table:
    """Rows of ``difficulty_scores`` from logits ``[m, d, 5]``; null for a dimension that is not rated."""
    found = likert(logits)
    refused = np.asarray([one is not None for one in reasons], np.bool_)
    columns: dict[str, Any] = {
        "run_id": pa.array(np.full(len(ids), run_id)),
        "sample_id": ids,
        "reason": pa.array(reasons, pa.string()),
    }
    for dimension in DIFFICULTY_DIMENSIONS:
        if dimension in dimensions:
            i = dimensions.index(dimension)
            columns[dimension] = pa.array(found.expected[:, i], pa.float64(), mask=refused)
            columns[f"{dimension}_level"] = pa.array(found.level[:, i], pa.uint8(), mask=refused)
        else:
            columns[dimension] = pa.nulls(len(refused), pa.float64())
            columns[f"{dimension}_level"] = pa.nulls(len(refused), pa.uint8())
    return pa.table(columns)
