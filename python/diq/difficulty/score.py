"""Difficulty of the samples that lack it, from a classifier or from columns that came with the data."""

from __future__ import annotations

import hashlib
import logging
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch

from diq.base.config import DIFFICULTY_DIMENSIONS, LIKERT_LEVELS, WAIT_S
from diq.base.errors import UsageError
from diq.base.fingerprint import run_fingerprint
from diq.base.progress import Progress
from diq.base.sample import prompt_text
from diq.base.text import did_you_mean
from diq.difficulty.classifier import DifficultyClassifier, likert, model_folders
from diq.models.device import describe_environment, pick_device, pick_dtype
from diq.models.source import ModelSource, find_model, fingerprint_folder
from diq.scoring.encoder import EncoderJob, Outputs, score_missing
from diq.scoring.harness import check_budget, read_dataset
from diq.scoring.summary import ScoreSummary
from diq.store.store import Store

log = logging.getLogger(__name__)

# the counts of the query difficulty_ties, for expected values and for levels
_TIES = ("distinct_values", "on_the_median_value", "on_the_commonest_value")


def score_difficulty(
    dataset: str,
    *,
    store: Path,
    classifier: str | None = None,
    columns: dict[str, str] | None = None,
    device: str = "auto",
    dtype: str = "auto",
    token_budget: int | None = None,
    progress: Progress | None = None,
) -> ScoreSummary:
    """Give every sample of a dataset its difficulty, from a classifier or from columns that came with the data.

    Args:
        dataset: name of a dataset in the store.
        store: the store file.
        classifier: folder or hub id of a sequence classifier (see ``diq.difficulty``).
        columns: dimension to the name of a numeric attribute of the samples, instead of a classifier.
        device: ``auto``, ``cpu``, ``cuda``, ...
        dtype: ``auto``, ``float32`` or ``bfloat16``.
        token_budget: padded tokens a batch; None takes the default.
        progress: called now and then with the samples done and to do.

    Raises:
        UsageError: neither or both of classifier and columns, or unknown names.
        ModelError: the classifier cannot be used.
    """
    if (classifier is None) == (not columns):
        raise UsageError(
            "difficulty comes from one of a classifier and columns", "give --model FOLDER or --columns overall=NAME"
        )
    check_budget(token_budget)
    data = read_dataset(store, dataset)
    if columns:
        return _difficulty_from_columns(store, data, columns)
    assert classifier is not None
    source = find_classifier(classifier)
    place = pick_device(device)
    precision = pick_dtype(dtype, place)
    network = DifficultyClassifier(source, device=place, dtype=getattr(torch, precision))
    settings = {"text": "prompt", "max_length": network.max_length, "dtype": precision}
    run_id = _open_run(store, data, "classifier", settings, describe_environment(place), network)
    summary = ScoreSummary(run_id, dataset, data["n_samples"])
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
    _finish(store, data, summary)
    summary.details |= {"classifier": source.name, "model_id": source.model_id, "dtype": precision}
    return summary


def find_classifier(source: str) -> ModelSource:
    """Find a classifier in either of its two forms."""
    parts = model_folders(Path(source).expanduser())
    if not parts:
        return find_model(source)
    found = {dimension: fingerprint_folder(part) for dimension, part in parts.items()}
    complete = len(found) == len(DIFFICULTY_DIMENSIONS)
    together = "\n".join(one if complete else f"{dimension}:{one}" for dimension, one in found.items())
    path = Path(source).expanduser().resolve()
    return ModelSource(source, path, path.name, hashlib.blake2b(together.encode(), digest_size=16).hexdigest())


def _open_run(
    store: Path,
    data: dict[str, Any],
    method: str,
    settings: dict[str, Any],
    environment: dict[str, str],
    network: DifficultyClassifier | None = None,
) -> int:
    source = network.source if network else None
    model_id = source.model_id if source else None
    with Store(store, wait_s=WAIT_S) as opened, opened.transaction():
        if source and network:
            opened.add_model(
                model_id=source.model_id,
                name=source.name,
                source=source.source,
                architecture=network.architecture,
                n_parameters=network.n_parameters,
            )
        run_id = opened.open_run(
            kind="difficulty",
            method=method,
            model_id=model_id,
            fingerprint=run_fingerprint("difficulty", method, model_id, settings),
            settings=settings,
            environment=environment,
        )
        opened.start_scoring(run_id, data["dataset_id"])
    return run_id


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


def _finish(store: Path, data: dict[str, Any], summary: ScoreSummary) -> None:
    """Seal the run on the dataset, and count what has no score and what ties."""
    with Store(store, wait_s=WAIT_S) as opened:
        with opened.transaction():
            opened.seal(summary.run_id, data["dataset_id"])
        for row in opened.rows("difficulty/difficulty_reasons", run_id=summary.run_id, dataset_id=data["dataset_id"]):
            summary.reasons[row["reason"]] = row["n"]
        ties = opened.rows("difficulty/difficulty_ties", run_id=summary.run_id, dataset_id=data["dataset_id"])
    summary.n_no_score = sum(summary.reasons.values())
    for count in _TIES:
        for scale in ("value", "level"):
            found = {row["dimension"]: row[count] for row in ties if row["scale"] == scale}
            if found:
                summary.details[count.replace("value", scale)] = found


def _difficulty_from_columns(store: Path, data: dict[str, Any], columns: dict[str, str]) -> ScoreSummary:
    with Store(store, read_only=True, wait_s=WAIT_S) as opened:
        attributes = [row["name"] for row in opened.rows("difficulty/list_attributes", dataset_id=data["dataset_id"])]
    for dimension, column in columns.items():
        if dimension not in DIFFICULTY_DIMENSIONS:
            raise UsageError(
                f"`{dimension}` is not a dimension of difficulty", did_you_mean(dimension, DIFFICULTY_DIMENSIONS)
            )
        if column not in attributes:
            raise UsageError(
                f"the samples of `{data['name']}` have no column `{column}`",
                did_you_mean(column, attributes) or "the dataset came without further columns",
            )
    settings = {"columns": columns, "dataset": data["name"]}
    run_id = _open_run(store, data, "columns", settings, {})
    summary = ScoreSummary(run_id, data["name"], data["n_samples"])
    started = time.monotonic()
    with Store(store, wait_s=WAIT_S) as opened, opened.transaction():
        summary.n_scored = opened.execute_count(
            "difficulty/insert_difficulty_from_columns",
            run_id=run_id,
            dataset_id=data["dataset_id"],
            **{name: columns.get(name) for name in DIFFICULTY_DIMENSIONS},
        )
    summary.n_cached = summary.n_samples - summary.n_scored
    summary.seconds = time.monotonic() - started
    _finish(store, data, summary)
    return summary
