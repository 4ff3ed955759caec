"""Difficulty by a classifier: its run, and its rows in the store."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch

from diq.base.config import DIFFICULTY_DIMENSIONS, LIKERT_LEVELS
from diq.base.progress import Progress
from diq.base.sample import prompt_text
from diq.difficulty.classifier import DifficultyClassifier, find_classifier, likert
from diq.models.device import describe_environment, pick_device, pick_dtype
from diq.scoring.encoder import EncoderJob, Outputs, score_missing
from diq.scoring.job import RunModel, open_run
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
    run_id = open_run(
        store,
        data,
        kind="difficulty",
        method="classifier",
        model=RunModel(source.model_id, source.name, source.source, network.architecture, network.n_parameters),
        settings={"text": "prompt", "max_length": network.max_length, "dtype": precision},
        environment=describe_environment(place),
    )
    summary = ScoreSummary(run_id, data["name"], data["n_samples"])
    job = EncoderJob(
        store=store,
        data=data,
        label="difficulty",
        missing="difficulty/samples_missing_difficulty",
        params={"dataset_id": data["dataset_id"], "run_id": run_id},
        insert="difficulty/insert_difficulty_scores",
        rows=partial(_rows, run_id, network.dimensions),
        text_of=prompt_text,
        shape=(len(network.dimensions), LIKERT_LEVELS),
        token_budget=token_budget,
        progress=progress,
    )
    if len(network.dimensions) < len(DIFFICULTY_DIMENSIONS):
        log.warning("the classifier rates %s alone: the other dimensions stay empty", " and ".join(network.dimensions))
    score_missing(job, network, place, summary)
    return summary, {"classifier": source.name, "model_id": source.model_id, "dtype": precision}


def _rows(run_id: int, dimensions: Sequence[str], outputs: Outputs) -> pa.Table:
    """Rows of ``difficulty_scores`` from logits ``[m, d, 5]``; null for a dimension that is not rated."""
    found = likert(outputs.values)
    columns: dict[str, Any] = {
        "run_id": pa.array([run_id] * len(outputs.sample_ids), pa.int64()),
        "sample_id": pa.array(outputs.sample_ids, pa.string()),
        "reason": pa.array(outputs.reasons, pa.string()),
    }
    refused = np.asarray([one is not None for one in outputs.reasons], np.bool_)
    for dimension in DIFFICULTY_DIMENSIONS:
        if dimension in dimensions:
            i = dimensions.index(dimension)
            columns[dimension] = pa.array(found.expected[:, i], pa.float64(), mask=refused)
            columns[f"{dimension}_level"] = pa.array(found.level[:, i], pa.uint8(), mask=refused)
        else:
            columns[dimension] = pa.nulls(len(refused), pa.float64())
            columns[f"{dimension}_level"] = pa.nulls(len(refused), pa.uint8())
    return pa.table(columns)
