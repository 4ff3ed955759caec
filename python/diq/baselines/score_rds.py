"""RDS+ embeddings of the samples of a dataset, and of validation sets, that lack one.

They are kept as unit rows in a gradient index of kind ``rds`` (docs/formats.md), known by the sample, whether it is of
the dataset or of a validation set: a further set costs its own samples, and no selection runs a model.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import orjson
import pyarrow as pa

from diq.base.errors import UsageError
from diq.base.options import verb
from diq.base.sample import Message
from diq.baselines.language_model import ModelScorer, ScoringModel
from diq.baselines.options import ScoreRdsOptions
from diq.baselines.rds import weighted_states
from diq.baselines.text_scores import INSERT, text_job, text_rows
from diq.encoders.embeddings import NO_DIRECTION, unit
from diq.gradient_index.index import GradientIndex
from diq.gradient_index.kept import folder_of, forget_broken, gradient_rows, note_index, write_rows
from diq.models.tokens import Tokenization, Tokens, plan_batches
from diq.scoring.harness import Batch, score_samples
from diq.scoring.job import (
    Request,
    ScoreJob,
    cached,
    column_of_ids,
    computing,
    finish,
    look_up,
    open_run,
    read_request,
)
from diq.scoring.summary import ScoreSummary
from diq.store.connection import WAIT_S
from diq.store.store import Store

METHOD = "position-weighted"
KIND = "rds"
EMPTY = "the text has no token"


@verb(ScoreRdsOptions)
def score_rds(options: ScoreRdsOptions) -> ScoreSummary:
    """Compute the missing RDS+ embeddings of a dataset and of validation sets (docs/method.md has the formula).

    Raises:
        UsageError: unknown names, an empty dataset, no validation set with samples, or a maximum length below 2.
        ModelError: the model cannot be used.
        RunFailedError: one sample alone does not fit into memory, or the disk is full.
        StoreError: the store is held by another process.
    """
    request = read_request(options.store_file, options.dataset, options.validation_set)
    model = ScoringModel.of(options)
    tokenization = model.tokenization()
    job = text_job(
        options,
        request.data,
        kind=KIND,
        method=METHOD,
        model_id=model.target.model_id,
        settings={"dtype": model.dtype, **tokenization.settings()},
    )
    # whole samples are embedded, whatever they are compared with; which sets there are is noted all the same
    job = replace(job, set_ids=[int(one["validation_set_id"]) for one in request.sets])
    folder = _folder(job)
    summary = None if _forget_broken(job, folder) or _missing(job)[1] else cached(job)
    if summary is None:
        # whoever adds to the index has it for itself, whatever the dataset
        with computing(job, job.fingerprint[:12]):
            summary = None if _missing(job)[1] else cached(job)
            if summary is None:
                summary = _score_missing(job, request, model, tokenization, folder)
    summary.details |= model.describe(tokenization) | {
        "index": str(folder),
        "validation_sets": [one["name"] for one in request.sets],
    }
    return summary


def _score_missing(
    job: ScoreJob, request: Request, model: ScoringModel, tokenization: Tokenization, folder: Path
) -> ScoreSummary:
    scorer = _Scorer(model, tokenization)
    run_id = open_run(job, scorer.model, scorer.environment)
    dim = int(scorer.network.get_output_embeddings().weight.shape[-1])
    identity = {
        "model_id": model.target.model_id,
        "model": model.target.name,
        "method": METHOD,
        "settings": dict(job.settings),
        "dim": dim,
    }
    scorer.index, scorer.run_id = GradientIndex.create(folder, identity, element="float16"), run_id
    note_index(job.store, run_id, scorer.index, KIND)
    summary = ScoreSummary(run_id, job.data["name"], job.data["n_samples"])
    started = time.monotonic()
    names = {int(one["validation_set_id"]): str(one["name"]) for one in request.sets}
    for done, (set_id, rows) in enumerate(_missing(job)[0].items()):
        job.report("validation embeddings", done, len(names))
        _embed(job, scorer, names[set_id], rows)
    job.report("validation embeddings", len(names), len(names))
    score_samples(job, run_id, scorer, summary)
    tokenization.say(f"dataset `{job.data['name']}`")
    summary.seconds = time.monotonic() - started
    finish(job, summary)
    return summary


def _missing(job: ScoreJob) -> tuple[dict[int, list[dict[str, Any]]], int]:
    """The samples of each validation set of the request, and how many of them the run lacks."""
    run_id, _ = look_up(job)
    found: dict[int, list[dict[str, Any]]] = {}
    with Store(job.store, read_only=True, wait_s=WAIT_S) as opened:
        rows = opened.rows(
            "baselines/validation_samples_missing_text_scores", run_id=run_id, validation_set_ids=list(job.set_ids)
        )
        known = {row["validation_set_id"] for row in opened.rows("store/validation_sets_of_run", run_id=run_id)}
    for row in rows:
        found.setdefault(row["validation_set_id"], []).append(row)
    # a set of known samples alone is not noted yet
    return found, sum(row["missing"] for row in rows) + len(set(job.set_ids) - known)


def _embed(job: ScoreJob, scorer: _Scorer, name: str, rows: Sequence[Mapping[str, Any]]) -> None:
    """Embed what the run lacks of a validation set, in the batches of the whole set.

    Raises:
        UsageError: no sample of it can be embedded.
    """
    lengths, refused = scorer.read([orjson.loads(row["messages"]) for row in rows])
    if len(refused) == len(rows):
        raise UsageError(
            f"no sample of the validation set `{name}` can be used: {refused[0]}",
            "check the chat template and the tokenizer, or try --template none",
        )
    scorer.tokenization.say(f"validation set `{name}`")
    missing = np.asarray([row["missing"] for row in rows], np.bool_)
    ids = np.frombuffer(b"".join(row["sample_id"] for row in rows), np.uint8).reshape(-1, 16)
    usable = np.ones(len(rows), np.bool_)
    usable[list(refused)] = False
    made = []
    wanted = np.asarray([i for i in refused if missing[i]], np.int64)
    if len(wanted):
        made.append(scorer.refused(scorer.run_id, column_of_ids(ids[wanted]), [refused[int(i)] for i in wanted]))
    for planned in plan_batches(lengths, token_budget=scorer.token_budget, change=scorer.rope_change):
        batch = planned[usable[planned]]
        if missing[batch].any():
            ((_, result),) = scorer.score(iter([Batch(batch, missing[batch])]))
            made.append(scorer.rows(scorer.run_id, column_of_ids(ids[batch[missing[batch]]]), result))
    if made:
        scorer.write(job.store, made)


def _folder(job: ScoreJob) -> Path:
    run_id, _ = look_up(job)
    with Store(job.store, read_only=True, wait_s=WAIT_S) as opened:
        return folder_of(opened, job.store, run_id, job.fingerprint)


def _forget_broken(job: ScoreJob, folder: Path) -> int:
    """Samples whose embedding is damaged are missing again; how many are."""
    run_id, _ = look_up(job)
    n_lost = 0 if run_id is None else forget_broken(job.store, run_id, folder)
    if n_lost:
        with Store(job.store, wait_s=WAIT_S) as opened, opened.transaction():
            opened.run("baselines/delete_lost_text_scores", run_id=run_id)
    return n_lost


@dataclass(frozen=True, slots=True)
class _Embedded:
    """Rows of ``text_scores`` and of ``gradient_rows``, and the unit embeddings of those that have one."""

    scores: pa.Table
    places: pa.Table
    embeddings: npt.NDArray[np.float32]

    @property
    def nbytes(self) -> int:
        return int(self.embeddings.nbytes + self.scores.nbytes + self.places.nbytes)


class _Scorer(ModelScorer):
    """A loaded model and the tokens of a block.

    Attributes:
        index: what takes the embeddings; set once the model is loaded.
        run_id: its run.
    """

    index: GradientIndex
    run_id: int

    def read(self, conversations: Sequence[Sequence[Message]]) -> tuple[npt.NDArray[np.int64], dict[int, str]]:
        """See ``Scorer``."""
        self._tokens = self.tokenization.encode(conversations)
        refused = {i: one for i, one in enumerate(self._tokens) if isinstance(one, str)}
        lengths = np.asarray([0 if isinstance(one, str) else len(one.ids) for one in self._tokens], np.int64)
        refused |= {int(i): EMPTY for i in np.flatnonzero(lengths == 0) if int(i) not in refused}
        return lengths, refused

    def score(self, batches: Iterator[Batch]) -> Iterator[tuple[Batch, tuple[list[int], npt.NDArray[np.float64]]]]:
        """See ``Scorer``: tokens of each sample, and their embeddings."""
        for batch in batches:
            samples = [one for i in batch.wanted if isinstance(one := self._tokens[i], Tokens)]
            yield batch, ([len(one.ids) for one in samples], self.in_parts(samples, self._embed))

    def _embed(self, samples: Sequence[Tokens]) -> npt.NDArray[np.float64]:
        return weighted_states(self.network, samples)

    def rows(self, run_id: int, ids: pa.Array, result: tuple[list[int], npt.NDArray[np.float64]]) -> _Embedded:
        """See ``Scorer``."""
        n_tokens, embeddings = result
        units = unit(embeddings)
        usable = np.asarray(units.any(axis=1), np.bool_)
        reasons = [None if one else NO_DIRECTION for one in usable]
        norms = np.linalg.norm(embeddings, axis=1)
        value = [float(norm) if one else None for norm, one in zip(norms, usable, strict=True)]
        scores = text_rows(run_id, ids, value=value, n_tokens=n_tokens, reasons=reasons)
        # an embedding has no loss
        places = gradient_rows(run_id, ids, reasons, np.asarray(n_tokens), np.zeros(len(ids)))
        return _Embedded(scores, places, units[usable].astype(np.float32))

    def refused(self, run_id: int, ids: pa.Array, reasons: Sequence[str]) -> _Embedded:
        """See ``Scorer``."""
        places = gradient_rows(run_id, ids, reasons, np.zeros(len(ids), np.int64))
        nothing = np.zeros((0, self.index.dim), np.float32)
        return _Embedded(text_rows(run_id, ids, reasons=reasons), places, nothing)

    def write(self, store: Path, pending: Sequence[_Embedded]) -> None:
        """Write a shard and its places, then the scores: a sample with a score has an embedding, whatever kills it."""
        places = pa.concat_tables([one.places for one in pending])
        embeddings = np.concatenate([one.embeddings for one in pending])
        write_rows(store, self.run_id, self.index, places, embeddings)
        with Store(store, wait_s=WAIT_S) as opened, opened.transaction():
            opened.insert(INSERT, pa.concat_tables([one.scores for one in pending]))
