"""Influence that a rater predicts, for the samples that lack it."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch

from diq.base.config import WAIT_S
from diq.base.errors import ModelError, UsageError
from diq.base.fingerprint import run_fingerprint
from diq.base.options import verb
from diq.base.sample import Message
from diq.encoders.embeddings import text_of
from diq.influence.stored import RATER
from diq.models.device import describe_environment, pick_device, pick_dtype
from diq.models.source import fingerprint_folder
from diq.rater.model import RatedSet, Rater, RaterRecord, digest_of, predicted_dots
from diq.rater.options import ScoreRaterOptions
from diq.scoring.encoder import EncoderJob, Outputs, score_missing
from diq.scoring.job import read_dataset
from diq.scoring.summary import ScoreSummary
from diq.store.store import Store, now


@verb(ScoreRaterOptions)
def score_rater(options: ScoreRaterOptions) -> ScoreSummary:
    """Predict the missing dots of a dataset with the validation sets of a rater.

    They are a run of their own, method ``rater``, of the language model that the rater was trained for.

    Raises:
        UsageError: unknown names, an empty dataset, or a validation set of that name with other samples.
        ModelError: the folder is no rater, or one that was trained for another model.
        StoreError: the store is held by another process.
    """
    folder = Path(options.rater)
    data = read_dataset(options.store_file, options.dataset)
    record = RaterRecord.read(folder)
    if options.model is not None:
        _check_model(options.store_file, options.model, folder, record)
    with Store(options.store_file, read_only=True, wait_s=WAIT_S) as opened:
        for one in record.sets:
            _find_set(opened, one)
    place = pick_device(options.device)
    precision = pick_dtype(options.dtype, place)
    network = Rater(folder, device=place, dtype=getattr(torch, precision))
    settings = {
        "rater": record.fingerprint(folder),
        "trained_on": record.trained_on,
        "target": record.target,
        "coverage": record.coverage,
        "spearman": record.spearman,
        "text": "full",
        "max_length": network.max_length,
        "dtype": precision,
    }
    run_id, set_ids = _open_run(options.store_file, data, record, settings, describe_environment(place))
    summary = ScoreSummary(run_id, options.dataset, data["n_samples"])
    job = EncoderJob(
        store=options.store_file,
        data=data,
        label="predicting",
        missing="rater/samples_missing_predictions",
        params={"dataset_id": data["dataset_id"], "run_id": run_id, "n_sets": len(set_ids)},
        insert="rater/insert_predicted_influence",
        rows=partial(_rows, run_id, set_ids, record.sets),
        text_of=_text_of,
        shape=(len(record.sets),),
        token_budget=options.batch_tokens,
        progress=options.progress,
    )
    score_missing(job, network, place, summary)
    with Store(options.store_file, wait_s=WAIT_S) as opened:
        with opened.transaction():
            opened.seal(run_id, data["dataset_id"])
        for row in opened.rows("store/influence_reasons", run_id=run_id, dataset_id=data["dataset_id"]):
            summary.reasons[row["reason"]] = row["n"]
    summary.n_no_score = sum(summary.reasons.values())
    summary.details |= {
        "model": record.model_name,
        "model_id": record.model_id,
        "method": RATER,
        "validation_sets": [one.name for one in record.sets],
        "held_out_spearman": record.spearman,
        "interval_coverage": record.coverage,
        "dtype": precision,
    }
    return summary


def _text_of(messages: Sequence[Message]) -> str:
    return text_of(messages, "full")


def _check_model(store: Path, asked: str, folder: Path, record: RaterRecord) -> None:
    """Refuse a rater of another model than the one that is asked for.

    Raises:
        ModelError: the rater was trained for another model.
    """
    place = Path(asked).expanduser()
    if (place / "config.json").is_file():
        ids = [fingerprint_folder(place)]
    else:
        with Store(store, read_only=True, wait_s=WAIT_S) as opened:
            ids = [row["model_id"] for row in opened.rows("store/list_models") if row["name"] == asked]
        if not ids and asked == record.model_name:
            return
    if record.model_id not in ids:
        known = f" ({ids[-1][:12]})" if ids else ""
        raise ModelError(
            f"the rater `{folder}` was trained for model `{record.model_name}` ({record.model_id[:12]}), "
            f"not for `{asked}`{known}",
            "leave out --model, or train a rater on the dots of that model",
        )


def _find_set(opened: Store, rated: RatedSet) -> int | None:
    """Number of the validation set in the store; None where there is none of that name.

    Raises:
        UsageError: the one of that name holds other samples.
    """
    row = opened.row("store/get_validation_set", name=rated.name)
    if row is None:
        return None
    set_id = int(row["validation_set_id"])
    ids = [str(one["sample_id"]) for one in opened.rows("rater/samples_of_validation_set", validation_set_id=set_id)]
    here = digest_of(ids)
    if rated.digest and here:
        same = rated.digest == here
    else:
        # one of the two came without samples: all that can be compared is their number
        same = row["n_samples"] == rated.n_samples or None in (row["n_samples"], rated.n_samples)
    if not same:
        raise UsageError(
            f"the validation set `{rated.name}` of this store ({row['n_samples']} samples) is not the one that the "
            f"rater predicts dots with ({rated.n_samples} samples)",
            "predict in a store that has no other validation set of that name",
        )
    return set_id


def _open_run(
    store: Path, data: dict[str, Any], record: RaterRecord, settings: dict[str, Any], environment: dict[str, str]
) -> tuple[int, list[int]]:
    """Record the model, the run and its validation sets; returns their numbers, in the order of the outputs."""
    with Store(store, wait_s=WAIT_S) as opened, opened.transaction():
        opened.add_model(
            model_id=record.model_id,
            name=record.model_name,
            source=record.model_source,
            architecture=None,
            n_parameters=None,
        )
        run_id = opened.open_run(
            kind="influence",
            method=RATER,
            model_id=record.model_id,
            fingerprint=run_fingerprint("influence", RATER, record.model_id, settings),
            settings=settings,
            environment=environment,
        )
        set_ids = []
        for one in record.sets:
            number = _find_set(opened, one)
            if number is None:
                # its name and size are known, its samples are not: like a set of scores computed elsewhere
                row = opened.row(
                    "store/insert_validation_set",
                    name=one.name,
                    dataset_id=None,
                    n_samples=one.n_samples,
                    seed=None,
                    created_at=now(),
                )
                assert row is not None
                number = int(row["validation_set_id"])
            opened.run("store/insert_run_validation_set", run_id=run_id, validation_set_id=number)
            set_ids.append(number)
        opened.start_scoring(run_id, data["dataset_id"])
    return run_id, set_ids


def _rows(run_id: int, set_ids: Sequence[int], sets: Sequence[RatedSet], outputs: Outputs) -> pa.Table:
    """Rows of ``influence_scores`` from predictions ``[m, k]`` on the scale of the targets."""
    found = predicted_dots(outputs.values, sets)
    k = len(set_ids)
    reasons = [reason for reason in outputs.reasons for _ in range(k)]
    refused = np.asarray([one is not None for one in reasons], np.bool_)
    return pa.table(
        {
            "run_id": pa.array([run_id] * len(reasons), pa.int64()),
            "sample_id": pa.array([one for one in outputs.sample_ids for _ in range(k)], pa.string()),
            "validation_set_id": pa.array(list(set_ids) * len(outputs.sample_ids), pa.int32()),
            "dot": pa.array(found.dot.ravel(), pa.float64(), mask=refused),
            "dot_low": pa.array(found.low.ravel(), pa.float64(), mask=refused),
            "dot_high": pa.array(found.high.ravel(), pa.float64(), mask=refused),
            "reason": pa.array(reasons, pa.string()),
        }
    )
