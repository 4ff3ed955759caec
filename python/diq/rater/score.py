"""Influence that a rater predicts, for the samples that lack it."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from functools import partial
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import torch

from diq.base.errors import ModelError, UsageError
from diq.base.options import verb
from diq.base.sample import Message
from diq.base.text import amount
from diq.encoders.embeddings import text_of
from diq.influence.stored import RATER
from diq.models.device import describe_environment, pick_device, pick_dtype
from diq.models.source import ModelSource, fingerprint_folder
from diq.rater.model import RatedSet, Rater, RaterRecord, digest_of, predicted_dots
from diq.rater.options import ScoreRaterOptions
from diq.scoring.encoder import EncoderScorer
from diq.scoring.harness import score_missing
from diq.scoring.job import RunModel, ScoreJob, check_name, read_dataset
from diq.scoring.summary import ScoreSummary
from diq.store.connection import WAIT_S
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
    learnt = ModelSource(record.model_source, Path(record.model_source), record.model_name, record.model_id)
    check_name(options.store_file, learnt, "score some samples with that model itself first, with --model-name NAME")
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
    set_ids = _make_sets(options.store_file, record)
    job = ScoreJob(
        store=options.store_file,
        data=data,
        kind="influence",
        method=RATER,
        model_id=record.model_id,
        settings=settings,
        missing="store/samples_missing_influence",
        params={"validation_set_ids": set_ids},
        reasons="store/influence_reasons",
        label="predicting",
        set_ids=set_ids,
        progress=options.progress,
    )
    scorer = EncoderScorer(
        network,
        model=RunModel(record.model_id, record.model_name, record.model_source, None, None),
        environment=describe_environment(place),
        device=place,
        token_budget=options.batch_tokens,
        text_of=_text_of,
        shape=(len(record.sets),),
        insert="rater/insert_predicted_influence",
        table=partial(_table, set_ids, record.sets),
    )
    summary = score_missing(job, lambda: nullcontext(scorer))
    summary.details |= scorer.tell_of_cuts(summary.n_scored) | {
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
    place = Path(asked)
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
            f"the validation set `{rated.name}` of this store ({amount(row['n_samples'], 'sample')}) is not the one "
            f"that the rater predicts dots with ({amount(rated.n_samples or 0, 'sample')})",
            "predict in a store that has no other validation set of that name",
        )
    return set_id


def _make_sets(store: Path, record: RaterRecord) -> list[int]:
    """Numbers of the rater's validation sets, in the order of its outputs; those that the store lacks are made."""
    with Store(store, wait_s=WAIT_S) as opened, opened.transaction():
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
            set_ids.append(number)
    return set_ids


def _table(
    set_ids: Sequence[int],
    sets: Sequence[RatedSet],
    run_id: int,
    ids: pa.Array,
    targets: npt.NDArray[np.float64],
    reasons: Sequence[str | None],
) -> pa.Table:
    """Rows of ``influence_scores`` from predictions ``[m, k]`` on the scale of the targets."""
    found = predicted_dots(targets, sets)
    n, k = len(ids), len(set_ids)
    refused = np.repeat([one is not None for one in reasons], k)
    return pa.table(
        {
            "run_id": pa.array(np.full(n * k, run_id)),
            "sample_id": ids.take(pa.array(np.repeat(np.arange(n), k))),
            "validation_set_id": pa.array(np.tile(np.asarray(set_ids, np.int32), n)),
            "dot": pa.array(found.dot.ravel(), pa.float64(), mask=refused),
            "dot_low": pa.array(found.low.ravel(), pa.float64(), mask=refused),
            "dot_high": pa.array(found.high.ravel(), pa.float64(), mask=refused),
            "reason": pa.array([one for one in reasons for _ in range(k)], pa.string()),
        }
    )
