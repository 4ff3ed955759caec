"""One scoring of influence, whatever the method: its names, its tokens, its batches and its rows in the store."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson
import pyarrow as pa

from diq.base.config import WAIT_S
from diq.base.errors import UsageError
from diq.base.progress import Progress
from diq.gradient_index.options import Element
from diq.gradients.engine import EngineFacts, EngineSettings
from diq.gradients.engines import Engines
from diq.gradients.validation import ValidationFacts, ValidationTokens
from diq.models.source import ModelSource
from diq.models.tokens import Template, TokenFile, Tokenization, Tokens, load_tokenization, plan_batches
from diq.scoring import summary as shards
from diq.scoring.summary import ScoreSummary
from diq.store.store import Store


@dataclass(frozen=True, slots=True)
class Request:
    """A dataset, its validation sets and their samples, as they are in the store."""

    data: dict[str, Any]
    sets: list[dict[str, Any]]
    conversations: list[list[Any]]


def read_request(store: Path, dataset: str, validation_sets: Sequence[str]) -> Request:
    """Look up the names of a request; no name of a validation set means all of the store.

    Raises:
        UsageError: an unknown name, an empty dataset, or no validation set with samples.
    """
    with Store(store, read_only=True) as opened:
        data = opened.dataset(dataset)
        # a set that came with scores computed elsewhere has a name, but no samples here
        here = [one["name"] for one in opened.rows("store/list_validation_sets") if one["dataset_id"] is not None]
        names = list(dict.fromkeys(validation_sets)) or here
        if not names:
            raise UsageError(
                f"there is no validation set in `{store}`",
                "make one with `diq ingest FILE --dataset NAME --validation --sample 20`",
            )
        sets = [opened.validation_set(name) for name in names]
        empty = [name for name in names if name not in here]
        if empty:
            raise UsageError(
                f"the validation set `{empty[0]}` has no samples in the store", "ingest its samples with --validation"
            )
        if data["n_samples"] == 0:
            raise UsageError(f"the dataset `{dataset}` has no samples", "see `diq sql 'from rejects'`")
        conversations = [
            [
                orjson.loads(row["messages"])
                for row in opened.rows("store/validation_messages", validation_set_id=one["validation_set_id"])
            ]
            for one in sets
        ]
    return Request(data, sets, conversations)


@dataclass(frozen=True, slots=True)
class Job:
    """One call of ``score_influence``, its names looked up."""

    store: Path
    data: dict[str, Any]
    sets: list[dict[str, Any]]
    conversations: list[list[Any]]
    settings: EngineSettings
    max_length: int
    template: Template
    devices: int
    element: Element
    index: Path | None
    progress: Progress | None

    @property
    def set_ids(self) -> list[int]:
        """Ids of the validation sets."""
        return [int(one["validation_set_id"]) for one in self.sets]

    @property
    def target(self) -> ModelSource:
        """What the scores belong to: the checkpoint, or the model itself."""
        return self.settings.checkpoint or self.settings.model

    def report(self, what: str, done: int, total: int) -> None:
        """Tell the caller how far it is."""
        if self.progress:
            self.progress(what, done, total)

    def tokenization(self) -> Tokenization:
        """How samples become tokens."""
        return load_tokenization(self.settings.model, max_length=self.max_length, template=self.template)

    def validation(self, tokenization: Tokenization) -> list[ValidationTokens]:
        """The validation sets as tokens."""
        return [
            ValidationTokens(one["name"], tokenization.encode_validation_set(one["name"], conversations))
            for one, conversations in zip(self.sets, self.conversations, strict=True)
        ]


def count_missing(opened: Store, job: Job, run_id: int) -> int:
    """Samples of the dataset that lack a row for any of the validation sets."""
    (found,) = opened.rows(
        "influence/count_missing_influence",
        dataset_id=job.data["dataset_id"],
        run_id=run_id,
        validation_set_ids=job.set_ids,
    )
    return int(found["n"])


def add_model(opened: Store, job: Job, facts: EngineFacts) -> None:
    """Record what the scores belong to."""
    target = job.target
    opened.add_model(
        model_id=target.model_id,
        name=target.name,
        source=target.source,
        architecture=facts.architecture,
        n_parameters=facts.n_parameters,
    )


def environment_of(facts: EngineFacts) -> dict[str, Any]:
    """What is recorded of the machine and the model beside the settings of a run."""
    return facts.environment | {"modules": sorted(facts.modules)}


def open_run(job: Job, facts: EngineFacts, settings: dict[str, Any], fingerprint: str) -> int:
    """Record the model, the run and its validation sets, and mark the run open on the dataset."""
    with Store(job.store, wait_s=WAIT_S) as opened, opened.transaction():
        add_model(opened, job, facts)
        run_id = opened.open_run(
            kind="influence",
            method=job.settings.method,
            model_id=job.target.model_id,
            fingerprint=fingerprint,
            settings=settings,
            environment=environment_of(facts),
        )
        for number in job.set_ids:
            opened.run("store/insert_run_validation_set", run_id=run_id, validation_set_id=number)
        opened.start_scoring(run_id, job.data["dataset_id"])
    return run_id


def keep_facts(job: Job, run_id: int, facts: dict[str, ValidationFacts]) -> None:
    """Store what was found out about the validation sets."""
    with Store(job.store, wait_s=WAIT_S) as opened, opened.transaction():
        for one in job.sets:
            if one["name"] in facts:
                found = facts[one["name"]]
                opened.run(
                    "influence/update_run_validation_set",
                    run_id=run_id,
                    validation_set_id=one["validation_set_id"],
                    fold_sizes=list(found.fold_sizes),
                    gradient_norm=found.gradient_norm,
                    kept_share=found.kept_share,
                )


def finish(job: Job, summary: ScoreSummary, *, complete: bool = True) -> None:
    """Seal the run on the dataset (unless samples are left) and count what has no dot."""
    with Store(job.store, wait_s=WAIT_S) as opened:
        if complete:
            with opened.transaction():
                opened.seal(summary.run_id, job.data["dataset_id"])
        for row in opened.rows("store/influence_reasons", run_id=summary.run_id, dataset_id=job.data["dataset_id"]):
            summary.reasons[row["reason"]] = row["n"]
        summary.n_no_score = sum(summary.reasons.values())
        (meter,) = opened.rows("influence/length_bias", run_id=summary.run_id, dataset_id=job.data["dataset_id"])
        facts = opened.rows("influence/facts_of_run", run_id=summary.run_id)
    kept = {row["name"]: row["kept_share"] for row in facts if row["kept_share"] is not None}
    summary.details = {
        "model": job.target.name,
        "model_id": job.target.model_id,
        "method": job.settings.method,
        "validation_sets": [one["name"] for one in job.sets],
        "dot_length_correlation": meter["correlation"],
    }
    if kept:
        # what the rank or basis leaves out of each validation gradient
        summary.details["residual_share"] = {name: round(1 - share, 4) for name, share in kept.items()}


def describe(job: Job, facts: EngineFacts, tokenization: Tokenization) -> dict[str, Any]:
    """What the summary tells of the model."""
    return {
        "modules": len(facts.modules),
        "parameters": sum(rows * columns for rows, columns in facts.modules.values()),
        "dtype": facts.dtype,
        "template": "chat template" if tokenization.uses_template else "Question/Answer",
        "folds": job.settings.folds,
    }


# samples and rows -------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class Row:
    """A sample of the dataset while it is scored; ``index`` is its place in the token file, -1 without tokens."""

    sample_id: str
    missing: bool
    index: int
    reason: str | None


def tokenize(job: Job, run_id: int, tokenization: Tokenization, tokens: TokenFile) -> list[Row]:
    """Tokenise every sample of the dataset; whether it is missing is the index's or the scores' to say.

    Every sample, also those with scores: the batches must not depend on how far an earlier run came.
    """
    rows: list[Row] = []
    with Store(job.store, read_only=True, wait_s=WAIT_S) as opened:
        stream = (
            opened.batches(
                "influence/samples_missing_gradients",
                rows=shards.READ_ROWS,
                dataset_id=job.data["dataset_id"],
                index_run_id=run_id,
            )
            if job.settings.method in ("projected", "less")
            else opened.batches(
                "influence/samples_missing_influence",
                rows=shards.READ_ROWS,
                dataset_id=job.data["dataset_id"],
                run_id=run_id,
                validation_set_ids=job.set_ids,
            )
        )
        with stream as batches:
            for batch in batches:
                ids, texts, missing = (batch.column(name).to_pylist() for name in ("sample_id", "messages", "missing"))
                encoded = tokenization.encode([orjson.loads(text) for text in texts])
                for sample_id, lacks, one in zip(ids, missing, encoded, strict=True):
                    if isinstance(one, str):
                        rows.append(Row(sample_id, lacks, -1, one))
                        continue
                    rows.append(Row(sample_id, lacks, len(tokens), None))
                    tokens.append(one)
                job.report("tokenizing", len(rows), job.data["n_samples"])
    return rows


def missing_batches(
    job: Job, rows: Sequence[Row], tokens: TokenFile, token_budget: int
) -> Iterator[tuple[list[Row], list[Tokens]]]:
    """The batches of the dataset, each without the samples that have their numbers already."""
    by_index = {row.index: row for row in rows if row.index >= 0}
    for batch in plan_batches(tokens.lengths(), token_budget=token_budget, packed=job.settings.packed):
        chosen = [by_index[int(i)] for i in batch if by_index[int(i)].missing]
        if chosen:
            yield chosen, [tokens[row.index] for row in chosen]


def check_packing(job: Job, rows: Sequence[Row], tokens: TokenFile, engines: Engines) -> None:
    """Refuse packed batches where the attention does not keep samples apart."""
    if job.settings.packed:
        shortest = sorted((row.index for row in rows if row.index >= 0), key=lambda i: len(tokens[i].ids))
        usable = [tokens[i] for i in shortest if tokens[i].answer_tokens > 0]
        engines.ask("check_packing", usable[:2])


@dataclass(slots=True)
class Scores:
    """Influence of one sample: a dot and the dots of the folds for each validation set."""

    sample_id: str
    dots: list[float | None]
    folds: list[list[float] | None]
    norm: float | None
    loss: float | None
    answer_tokens: int
    reason: str | None


def no_scores(sample_id: str, n_sets: int, reason: str | None, answer_tokens: int = 0) -> Scores:
    """A sample without a dot, and why."""
    return Scores(sample_id, [None] * n_sets, [None] * n_sets, None, None, answer_tokens, reason)


def pool_folds(columns: Sequence[float], facts: Sequence[ValidationFacts]) -> tuple[list[float], list[list[float]]]:
    """Dots with the folds in turn, as the dot with each set (the mean weighted by fold sizes) and its folds."""
    dots, folds = [], []
    at = 0
    for one in facts:
        mine = list(columns[at : at + len(one.fold_sizes)])
        at += len(one.fold_sizes)
        total = sum(one.fold_sizes)
        dots.append(sum(size / total * dot for size, dot in zip(one.fold_sizes, mine, strict=True)))
        folds.append(mine)
    return dots, folds


def commit(job: Job, run_id: int, shard: Sequence[Scores]) -> int:
    """Write the scores of some samples in one transaction; returns how many samples."""
    if not shard:
        return 0
    n = len(job.sets)
    incoming = pa.table(
        {
            "run_id": pa.array([run_id] * (len(shard) * n), pa.int64()),
            "sample_id": pa.array([one.sample_id for one in shard for _ in range(n)], pa.string()),
            "validation_set_id": pa.array(job.set_ids * len(shard), pa.int32()),
            "dot": pa.array([dot for one in shard for dot in one.dots], pa.float64()),
            "fold_dots": pa.array([folds for one in shard for folds in one.folds], pa.list_(pa.float64())),
            "gradient_norm": pa.array([one.norm for one in shard for _ in range(n)], pa.float64()),
            "loss": pa.array([one.loss for one in shard for _ in range(n)], pa.float64()),
            "answer_tokens": pa.array([one.answer_tokens for one in shard for _ in range(n)], pa.int32()),
            "reason": pa.array([one.reason for one in shard for _ in range(n)], pa.string()),
        }
    )
    with Store(job.store, wait_s=WAIT_S) as opened, opened.transaction():
        opened.insert("influence/insert_influence_scores", incoming)
    return len(shard)
