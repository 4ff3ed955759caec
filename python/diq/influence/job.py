"""One scoring of influence, whatever the method: its names, its samples as tokens, and its rows in the store."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from diq.base.options import Turns
from diq.base.progress import Progress
from diq.base.sample import Message
from diq.gradient_index.options import Element
from diq.gradients.engine import EngineFacts, EngineSettings, Result
from diq.gradients.engines import Engines
from diq.gradients.validation import ValidationFacts, ValidationTokens
from diq.influence.partial import Aim
from diq.influence.stored import NO_ANSWER, no_dot_reason
from diq.models.source import ModelSource
from diq.models.tokens import Template, TokenFile, Tokenization, Tokens, load_tokenization
from diq.scoring.harness import Batch, Scorer
from diq.scoring.job import RunModel, ScoreJob
from diq.scoring.summary import ScoreSummary
from diq.store.connection import WAIT_S
from diq.store.store import Store

log = logging.getLogger(__name__)


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
    template_kwargs: tuple[str, ...]
    turns: Turns
    devices: int
    element: Element
    index: Path | None
    factor_samples: int
    aim: Aim | None
    cascade: tuple[int, float] | None
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
        return load_tokenization(
            self.settings.model,
            max_length=self.max_length,
            template=self.template,
            template_kwargs=self.template_kwargs,
            turns=self.turns,
        )

    def validation(self, tokenization: Tokenization) -> list[ValidationTokens]:
        """The validation sets as tokens."""
        return [
            ValidationTokens(one["name"], tokenization.encode_validation_set(one["name"], conversations))
            for one, conversations in zip(self.sets, self.conversations, strict=True)
        ]

    def of_dots(self, settings: Mapping[str, Any], *, label: str = "scoring") -> ScoreJob:
        """The run of dots that has these settings."""
        return ScoreJob(
            store=self.store,
            data=self.data,
            kind="influence",
            method=self.settings.method,
            model_id=self.target.model_id,
            settings=settings,
            missing="store/samples_missing_influence",
            params={"validation_set_ids": self.set_ids},
            reasons="store/influence_reasons",
            label=label,
            set_ids=self.set_ids,
            progress=self.progress,
        )

    def run_model(self, facts: EngineFacts) -> RunModel:
        """What is recorded of the model or checkpoint."""
        target = self.target
        return RunModel(target.model_id, target.name, target.source, facts.architecture, facts.n_parameters)


def environment_of(facts: EngineFacts) -> dict[str, Any]:
    """What is recorded of the machine and the model beside the settings of a run."""
    return facts.environment | {"modules": sorted(facts.weights), "weights": asdict(facts.coverage)}


def keep_facts(job: Job, run_id: int, facts: Mapping[str, ValidationFacts]) -> None:
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


def tell_of_dots(job: Job, summary: ScoreSummary) -> None:
    """What the summary tells of the dots in the store."""
    with Store(job.store, read_only=True, wait_s=WAIT_S) as opened:
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
        "modules": len(facts.weights),
        "parameters": facts.coverage.covered,
        "covers": str(facts.coverage),
        "dtype": facts.dtype,
        "template": tokenization.template_name,
        "folds": job.settings.folds,
    }


# samples and rows -------------------------------------------------------------------------------------------------


class EngineScorer(Scorer):
    """Engines, and the samples of the dataset as tokens on disk; what becomes of the numbers is another's to say.

    Args:
        job: the request.
        engines: loaded.
        tokenization: how samples become tokens.
        tokens: an empty file, which takes every sample of the dataset in order.
    """

    # the batches of a whole dataset are planned together
    block_reads = None

    def __init__(self, job: Job, engines: Engines, tokenization: Tokenization, tokens: TokenFile) -> None:
        self.job, self.engines, self.tokens = job, engines, tokens
        self.model = job.run_model(engines.facts)
        self.environment = environment_of(engines.facts)
        if problem := engines.facts.coverage.problem(job.settings.params):
            log.warning("%s", problem)
        self.token_budget = engines.token_budget
        self.packed = job.settings.packed
        self.rope_change = engines.rope_change
        self._tokenization = tokenization

    def read(self, conversations: Sequence[Sequence[Message]]) -> tuple[npt.NDArray[np.int64], dict[int, str]]:
        """See ``Scorer``."""
        nothing = Tokens(np.zeros(0, np.int32), 0)
        lengths, refused = np.zeros(len(conversations), np.int64), {}
        for i, one in enumerate(self._tokenization.encode(conversations)):
            if isinstance(one, Tokens) and one.answer_tokens:
                self.tokens.append(one)
                lengths[i] = len(one.ids)
            else:
                # it has its place too, so that places are those of the dataset
                self.tokens.append(nothing)
                refused[i] = NO_ANSWER if isinstance(one, Tokens) else one
        return lengths, refused

    def score(self, batches: Iterator[Batch]) -> Iterator[tuple[Batch, Result]]:
        """See ``Scorer``."""
        self._tokenization.say(f"dataset `{self.job.data['name']}`")
        if self.packed:
            self.engines.ask("check_packing")
        return self.engines.score((batch, [self.tokens[int(i)] for i in batch.wanted]) for batch in batches)


def dot_rows(
    run_id: int,
    set_ids: Sequence[int],
    facts: Sequence[ValidationFacts],
    ids: pa.Array,
    columns: npt.NDArray[np.floating[Any]],
    losses: npt.NDArray[np.float64],
    counts: npt.NDArray[np.int64],
    norms: npt.NDArray[np.float64] | None = None,
) -> pa.Table:
    """Rows of ``influence_scores``, one a validation set of each sample in turn; a sample without a dot has a reason.

    Args:
        run_id: of the run.
        set_ids: validation sets, k of them.
        facts: of each set.
        ids: of the samples, m of them.
        columns: ``[m, folds]`` dots with the folds of each set in turn.
        losses: ``[m]`` nats.
        counts: ``[m]`` answer tokens.
        norms: ``[m]`` gradient norms.
    """
    folds = columns.astype(np.float64)
    dots = pool_folds(folds, facts)
    values = dots if norms is None else np.column_stack([dots, norms])
    reasons = [
        no_dot_reason(loss, count, row)
        for loss, count, row in zip(losses.tolist(), counts.tolist(), values.tolist(), strict=True)
    ]
    ends = np.cumsum([len(one.fold_sizes) for one in facts])
    lists = [
        None if reason else part.tolist()
        for row, reason in zip(folds, reasons, strict=True)
        for part in np.split(row, ends[:-1])
    ]
    return _influence_rows(run_id, set_ids, ids, reasons, counts, dots=dots, lists=lists, losses=losses, norms=norms)


def rows_without_dots(
    run_id: int, set_ids: Sequence[int], ids: pa.Array, reasons: Sequence[str], counts: npt.NDArray[np.int64]
) -> pa.Table:
    """Rows of ``influence_scores`` of samples without a dot."""
    return _influence_rows(run_id, set_ids, ids, reasons, counts)


def _influence_rows(
    run_id: int,
    set_ids: Sequence[int],
    ids: pa.Array,
    reasons: Sequence[str | None],
    counts: npt.NDArray[np.int64],
    *,
    dots: npt.NDArray[np.float64] | None = None,
    lists: Sequence[list[float] | None] | None = None,
    losses: npt.NDArray[np.float64] | None = None,
    norms: npt.NDArray[np.float64] | None = None,
) -> pa.Table:
    m, k = len(ids), len(set_ids)
    refused = np.repeat(np.asarray([one is not None for one in reasons], np.bool_), k)

    def doubles(values: npt.NDArray[np.float64] | None) -> pa.Array:
        return pa.nulls(m * k, pa.float64()) if values is None else pa.array(values, pa.float64(), mask=refused)

    return pa.table(
        {
            "run_id": pa.array(np.full(m * k, run_id)),
            "sample_id": ids.take(pa.array(np.repeat(np.arange(m), k))),
            "validation_set_id": pa.array(np.tile(np.asarray(set_ids, np.int32), m)),
            "dot": doubles(None if dots is None else dots.ravel()),
            "fold_dots": pa.array(lists or [None] * (m * k), pa.list_(pa.float64())),
            "gradient_norm": doubles(None if norms is None else np.repeat(norms, k)),
            "loss": doubles(None if losses is None else np.repeat(losses, k)),
            "answer_tokens": pa.array(np.repeat(counts, k), pa.int32()),
            "reason": pa.array([one for one in reasons for _ in range(k)], pa.string()),
        }
    )


def pool_folds(columns: npt.NDArray[np.float64], facts: Sequence[ValidationFacts]) -> npt.NDArray[np.float64]:
    """Dots ``[m, k]`` with each set from those with its folds in turn: their mean, weighted by the fold sizes."""
    dots = np.zeros((len(columns), len(facts)))
    at = 0
    for number, one in enumerate(facts):
        total = sum(one.fold_sizes)
        for size in one.fold_sizes:
            dots[:, number] += size / total * columns[:, at]
            at += 1
    return dots
