"""Difficulty of the samples that lack it, from a classifier or from columns that came with the data."""

from __future__ import annotations

import hashlib
import logging
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import orjson
import pyarrow as pa
import torch

from diq import models
from diq.config import DIFFICULTY_DIMENSIONS, WAIT_S
from diq.difficulty import DifficultyClassifier, three_folders
from diq.errors import UsageError
from diq.records import Progress, did_you_mean, prompt_text, run_fingerprint
from diq.samples import plan_batches
from diq.score import summary as summaries
from diq.score.summary import ScoreSummary
from diq.store import Store

log = logging.getLogger(__name__)


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
    with Store(store, read_only=True) as opened:
        data = opened.dataset(dataset)
        attributes = [row["name"] for row in opened.rows("list_attributes", dataset_id=data["dataset_id"])]
    if columns:
        return _difficulty_from_columns(store, data, columns, attributes)
    assert classifier is not None
    source = find_classifier(classifier)
    place = models.pick_device(device)
    precision = models.pick_dtype(dtype, place)
    network = DifficultyClassifier(source, device=place, dtype=getattr(torch, precision))
    settings = {"text": "prompt", "max_length": network.max_length, "dtype": precision}
    run_id = _open_difficulty_run(store, data, "classifier", source, settings, models.environment(place))
    summary = ScoreSummary(run_id, dataset, data["n_samples"])
    started = time.monotonic()
    n_cut = 0
    with Store(store, read_only=True, wait_s=WAIT_S) as opened:
        missing = opened.arrow("samples_missing_difficulty", dataset_id=data["dataset_id"], run_id=run_id)
    ids = missing.column("sample_id").to_pylist()
    summary.n_cached = summary.n_samples - len(ids)
    for first in range(0, len(ids), summaries.READ_ROWS):
        with Store(store, read_only=True, wait_s=WAIT_S) as opened:
            block = opened.arrow("messages_of_samples", sample_ids=ids[first : first + summaries.READ_ROWS])
        texts = [prompt_text(orjson.loads(text)) for text in block.column("messages").to_pylist()]
        encoded, cut = network.encode(texts)
        n_cut += sum(cut)
        expected = np.empty((len(texts), len(DIFFICULTY_DIMENSIONS)))
        level = np.empty((len(texts), len(DIFFICULTY_DIMENSIONS)), np.uint8)
        lengths = np.asarray([len(one) for one in encoded], np.int64)
        for batch in plan_batches(lengths, token_budget=token_budget or (32768 if place.type == "cuda" else 4096)):
            found = network.predict([encoded[i] for i in batch])
            expected[batch], level[batch] = found.expected, found.level
        _commit_difficulty(store, run_id, block.column("sample_id").to_pylist(), expected, level)
        summary.n_scored += len(texts)
        summary.tokens += int(lengths.sum())
        if progress:
            progress("difficulty", summary.n_scored, len(ids))
    summary.seconds = time.monotonic() - started
    _finish_difficulty(store, data, summary)
    summary.details |= {"classifier": source.name, "n_truncated": n_cut}
    if n_cut:
        log.warning("%d prompts are longer than the classifier's %d tokens and were cut", n_cut, network.max_length)
    return summary


def find_classifier(source: str) -> models.ModelSource:
    """Find a classifier in either of its two forms."""
    parts = three_folders(Path(source).expanduser())
    if parts is None:
        return models.find_model(source)
    together = "\n".join(models.fingerprint_folder(part) for part in parts)
    path = Path(source).expanduser().resolve()
    return models.ModelSource(source, path, path.name, hashlib.blake2b(together.encode(), digest_size=16).hexdigest())


def _open_difficulty_run(
    store: Path,
    data: dict[str, Any],
    method: str,
    source: models.ModelSource | None,
    settings: dict[str, Any],
    environment: dict[str, str],
) -> int:
    model_id = source.model_id if source else None
    with Store(store, wait_s=WAIT_S) as opened, opened.transaction():
        if source:
            opened.add_model(
                model_id=source.model_id, name=source.name, source=source.source, architecture=None, n_parameters=None
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


def _commit_difficulty(
    store: Path,
    run_id: int,
    ids: Sequence[str],
    expected: npt.NDArray[np.float64],
    level: npt.NDArray[np.uint8],
) -> None:
    columns: dict[str, Any] = {
        "run_id": pa.array([run_id] * len(ids), pa.int64()),
        "sample_id": pa.array(ids, pa.string()),
    }
    for i, dimension in enumerate(DIFFICULTY_DIMENSIONS):
        columns[dimension] = pa.array(expected[:, i], pa.float64())
        columns[f"{dimension}_level"] = pa.array(level[:, i], pa.uint8())
    with Store(store, wait_s=WAIT_S) as opened, opened.transaction():
        opened.insert("insert_difficulty_scores", pa.table(columns))


def _finish_difficulty(store: Path, data: dict[str, Any], summary: ScoreSummary) -> None:
    with Store(store, wait_s=WAIT_S) as opened:
        with opened.transaction():
            opened.seal(summary.run_id, data["dataset_id"])
        for row in opened.rows("difficulty_reasons", run_id=summary.run_id, dataset_id=data["dataset_id"]):
            summary.reasons[row["reason"]] = row["n"]
        (ties,) = opened.rows("difficulty_ties", run_id=summary.run_id, dataset_id=data["dataset_id"])
    summary.n_no_score = sum(summary.reasons.values())
    summary.details = {"distinct_values": ties}


def _difficulty_from_columns(
    store: Path, data: dict[str, Any], columns: dict[str, str], attributes: Sequence[str]
) -> ScoreSummary:
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
    run_id = _open_difficulty_run(store, data, "columns", None, settings, {})
    summary = ScoreSummary(run_id, data["name"], data["n_samples"])
    started = time.monotonic()
    with Store(store, wait_s=WAIT_S) as opened, opened.transaction():
        summary.n_scored = opened.execute_count(
            "insert_difficulty_from_columns",
            run_id=run_id,
            dataset_id=data["dataset_id"],
            **{name: columns.get(name) for name in DIFFICULTY_DIMENSIONS},
        )
    summary.n_cached = summary.n_samples - summary.n_scored
    summary.seconds = time.monotonic() - started
    _finish_difficulty(store, data, summary)
    return summary
