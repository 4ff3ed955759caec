"""Influence of the samples that lack it, by any method of the engine."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from diq.base.config import MAX_LENGTH
from diq.base.errors import UsageError
from diq.base.options import verb
from diq.base.text import Ratio
from diq.gradients.adam_state import read_learning_rate
from diq.gradients.engine import EngineSettings, Result, common_settings
from diq.gradients.engines import Engines
from diq.gradients.projections import default_dim
from diq.gradients.validation import ValidationFacts, ValidationTokens
from diq.influence.cascade import Cascade, read_cheap
from diq.influence.factors import Factors, find_factors, make_factors
from diq.influence.job import (
    EngineScorer,
    Job,
    describe,
    dot_rows,
    keep_facts,
    rows_without_dots,
    tell_of_dots,
)
from diq.influence.options import FOLDS, FOLDS_OF_A_PASS, ScoreInfluenceOptions
from diq.influence.partial import Aim, ForRatio
from diq.influence.score_index import adopt, score_projected
from diq.models.device import describe_environment, pick_device, pick_dtype
from diq.models.source import ModelSource, find_adapter, find_model
from diq.models.tokens import TokenFile, Tokenization
from diq.scoring.harness import score_missing
from diq.scoring.job import ScoreJob, check_name, finish, read_request, read_samples
from diq.scoring.summary import ScoreSummary
from diq.store.connection import WAIT_S
from diq.store.store import Store

log = logging.getLogger(__name__)

_SUBSPACE_RANK = 8
_LESS_DIM = 8192  # arXiv 2402.04333, section 4.1
_DAMPING = 0.1  # arXiv 2308.03296, section 2.2
_FACTOR_SAMPLES = 2000


@verb(ScoreInfluenceOptions)
def score_influence(options: ScoreInfluenceOptions) -> ScoreSummary:
    """Compute the missing dots of a dataset with one or several validation sets (Eq. 3 and 4).

    Raises:
        UsageError: unknown names, options that do not go together, an empty dataset or no validation set.
        ModelError: the model cannot be used.
        RunFailedError: the scoring cannot be finished.
        StoreError: the store is held by another process.
    """
    request = read_request(options.store_file, options.dataset, options.validation_set)
    source = find_model(options.model, name=options.model_name)
    check_name(options.store_file, source)
    params_or_default = options.params or ("lora" if options.method == "less" else "qkv")
    # LESS is defined with a dense projection
    kind_or_default = options.kind or ("rademacher" if options.method == "less" else "sparse")
    default = _LESS_DIM if options.method == "less" else default_dim(kind_or_default, params_or_default)
    settings = EngineSettings(
        model=source,
        method=options.method,
        params=params_or_default,
        reduction=options.loss_reduction or "mean",
        dtype=pick_dtype(options.dtype, pick_device(options.device)),
        device=options.device,
        folds=options.folds or (FOLDS_OF_A_PASS if options.method in ("forward", "central") else FOLDS),
        rank=options.rank if options.method == "exact" else None,
        norms=options.norms,
        checkpointing=options.checkpointing,
        packed=options.packed,
        attention=options.attention,
        token_budget=options.batch_tokens,
        kind=kind_or_default,
        dim=(options.rank or _SUBSPACE_RANK) if options.kind == "subspace" else options.dim or default,
        seed=options.seed or 0,
        formula=options.formula or "code",
        precondition=options.precondition,
        damping=_DAMPING if options.damping is None else options.damping,
    )
    job = Job(
        store=options.store_file,
        data=request.data,
        sets=request.sets,
        conversations=request.conversations,
        settings=settings,
        max_length=options.max_length or MAX_LENGTH,
        template=options.template or "auto",
        template_kwargs=tuple(options.chat_template_kwargs),
        turns=options.turns,
        devices=options.devices,
        element=options.element or "float16",
        index=None if options.index is None else Path(options.index),
        factor_samples=options.factor_samples or _FACTOR_SAMPLES,
        aim=None
        if options.for_ratio is None
        else Aim(
            Ratio.parse(options.for_ratio),
            difficulty=options.difficulty,
            percentile=options.difficulty_percentile,
            threshold=options.difficulty_threshold,
            difficulty_run=options.difficulty_run,
            norms=options.norms,
        ),
        cascade=None if options.cascade is None else (options.cascade, options.recall),
        progress=options.progress,
    )
    if options.from_index is not None:
        asked = {
            "parameters": options.params,
            "loss_reduction": options.loss_reduction,
            "dtype": None if options.dtype == "auto" else options.dtype,
            "max_length": options.max_length,
            "kind": options.kind,
            # a subspace's dim is its rank
            "dim": options.rank if options.kind == "subspace" else options.dim,
            "seed": options.seed,
            "element": options.element,
            # auto takes whatever template the tokenizer has, and that is compared as well
            "template": None if options.template == "auto" else options.template,
            "turns": None if options.turns == "last" else options.turns,
        }
        return adopt(job, Path(options.from_index), {name: value for name, value in asked.items() if value is not None})
    if not options.checkpoint:
        return _score(job)
    return _score_checkpoints(job, list(map(str, options.checkpoint)))


# checkpoints -------------------------------------------------------------------------------------------------------


def _score_checkpoints(job: Job, texts: Sequence[str]) -> ScoreSummary:
    """Score at every checkpoint, each a run of its own, and add them up in the store (TracIn)."""
    parts: list[tuple[ModelSource, float]] = []
    for folder, weight in _folders(texts):
        checkpoint = find_adapter(folder, job.settings.model)
        if checkpoint.model_id in [one.model_id for one, _ in parts]:
            raise UsageError(f"the checkpoint `{folder}` is given twice", "give each once, as DIR or DIR:WEIGHT")
        if weight is None:
            weight = read_learning_rate(checkpoint.path)
            if weight is None:
                weight = 1.0
                log.warning("the checkpoint `%s` tells no learning rate: its weight is 1", folder)
        parts.append((checkpoint, weight))
    if job.settings.method == "less":
        # cosines weighted by shares stay within -1 and 1
        total = sum(weight for _, weight in parts)
        parts = [(checkpoint, weight / total) for checkpoint, weight in parts]
    indexes = _indexes(job.index, [checkpoint for checkpoint, _ in parts])
    summaries = [
        _score(replace(job, settings=replace(job.settings, checkpoint=checkpoint), index=index))
        for (checkpoint, _), index in zip(parts, indexes, strict=True)
    ]
    return _combine(job, parts, summaries)


def _indexes(folder: Path | None, checkpoints: Sequence[ModelSource]) -> list[Path | None]:
    """Where the index of each checkpoint lies: several have a folder each in the one that was named."""
    if folder is None or len(checkpoints) == 1:
        return [folder] * len(checkpoints)
    names = [one.path.name for one in checkpoints]
    if len(set(names)) < len(names):
        names = [f"{one.path.parent.name}-{one.path.name}-{one.model_id[:8]}" for one in checkpoints]
    return [folder / name for name in names]


def _folders(texts: Sequence[str]) -> Iterator[tuple[str, float | None]]:
    """Folders and weights; a pattern such as ``out/checkpoint-*`` stands for all that it matches, in order of steps."""
    for text in texts:
        folder, weight = _split_weight(text)
        place = Path(folder)
        if "*" not in place.name:
            yield folder, weight
            continue
        found = sorted((str(one) for one in place.parent.glob(place.name)), key=lambda one: (len(one), one))
        if not found:
            raise UsageError(f"no folder matches --checkpoint `{folder}`", "name a folder that a trainer saved")
        for one in found:
            yield one, weight


def _split_weight(text: str) -> tuple[str, float | None]:
    folder, colon, number = text.rpartition(":")
    if colon and folder:
        try:
            weight = float(number)
        except ValueError:
            return text, None
        if not (weight > 0 and np.isfinite(weight)):
            raise UsageError(f"the weight `{number}` of `{folder}` is not a positive number", "write DIR:1e-5")
        return folder, weight
    return text, None


def _combine(job: Job, parts: Sequence[tuple[ModelSource, float]], summaries: Sequence[ScoreSummary]) -> ScoreSummary:
    source = job.settings.model
    with Store(job.store, wait_s=WAIT_S) as opened, opened.transaction():
        described = []
        for (checkpoint, weight), summary in zip(parts, summaries, strict=True):
            run = opened.row("store/get_run", run_id=summary.run_id)
            assert run is not None
            described.append({"checkpoint": checkpoint.name, "fingerprint": run["fingerprint"], "weight": weight})
        score_job = job.of_dots({"checkpoints": described})
        opened.add_model(
            model_id=source.model_id, name=source.name, source=source.source, architecture=None, n_parameters=None
        )
        run_id = opened.open_run(
            kind="influence",
            method=job.settings.method,
            model_id=source.model_id,
            fingerprint=score_job.fingerprint,
            settings=score_job.settings,
            environment=describe_environment(),
        )
        for (_, weight), summary in zip(parts, summaries, strict=True):
            opened.run("influence/insert_run_part", run_id=run_id, part_run_id=summary.run_id, weight=weight)
        facts = {
            row["validation_set_id"]: row for row in opened.rows("influence/facts_of_run", run_id=summaries[-1].run_id)
        }
        for number in job.set_ids:
            opened.run("store/insert_run_validation_set", run_id=run_id, validation_set_id=number)
            opened.run(
                "influence/update_run_validation_set",
                run_id=run_id,
                validation_set_id=number,
                fold_sizes=facts[number]["fold_sizes"],
                gradient_norm=None,
                kept_share=None,
            )
        opened.start_scoring(run_id, job.data["dataset_id"])
        missing = int(read_samples(opened, score_job, run_id).missing.sum())
        opened.run(
            "influence/insert_combined_influence",
            run_id=run_id,
            dataset_id=job.data["dataset_id"],
            validation_set_ids=job.set_ids,
        )
    combined = ScoreSummary(run_id, job.data["name"], job.data["n_samples"])
    combined.n_scored, combined.n_cached = missing, combined.n_samples - missing
    combined.seconds = sum(one.seconds for one in summaries)
    combined.tokens = sum(one.tokens for one in summaries)
    finish(score_job, combined)
    tell_of_dots(job, combined)
    combined.details |= {
        "model": source.name,
        "checkpoints": {checkpoint.name: f"weight {weight:g}" for checkpoint, weight in parts},
        "runs of the checkpoints": [one.run_id for one in summaries],
    }
    # all of them have the same modules; one whose dots were all stored loaded no model
    combined.details |= next(({"covers": one.details["covers"]} for one in summaries if "covers" in one.details), {})
    return combined


# one run -----------------------------------------------------------------------------------------------------------


def _score(job: Job) -> ScoreSummary:
    if job.settings.method in ("projected", "less"):
        return score_projected(job)
    tokenization = job.tokenization()
    settings = common_settings(job.settings, tokenization) | {"folds": job.settings.folds, "norms": job.settings.norms}
    if job.settings.rank is not None:
        settings["rank"] = job.settings.rank
    factors = None
    if (kind := job.settings.precondition) != "none":
        factors = find_factors(job, tokenization, kind, job.factor_samples)
        settings |= {"precondition": kind, "damping": job.settings.damping, "factors": factors.identity}
        job = replace(job, settings=replace(job.settings, factors=factors.folder))
    described: dict[str, Any] = {}

    @contextmanager
    def load() -> Iterator[_DotScorer]:
        # first: a validation set without a usable sample should not cost the loading of a model
        validation = job.validation(tokenization)
        with Engines(job.settings, devices=job.devices) as engines, TokenFile() as tokens:
            yield _DotScorer(job, engines, tokenization, tokens, validation, factors)
            described.update(describe(job, engines.facts, tokenization))

    dots = job.of_dots(settings)
    summary = score_missing(dots, load, _choice(job, dots))
    partial = summary.details
    tell_of_dots(job, summary)
    summary.details |= described | partial
    return summary


def _choice(job: Job, dots: ScoreJob) -> ForRatio | None:
    """Which samples are scored, where not all are."""
    if job.aim is None:
        return None
    if job.cascade is None:
        return ForRatio.of(dots, job.aim)
    run_id, recall = job.cascade
    return Cascade.of(dots, job.aim, read_cheap(dots, run_id), recall)


class _DotScorer(EngineScorer):
    """Engines that hold the validation gradients; what they give of a sample is its dots."""

    insert = "influence/insert_influence_scores"

    def __init__(
        self,
        job: Job,
        engines: Engines,
        tokenization: Tokenization,
        tokens: TokenFile,
        validation: Sequence[ValidationTokens],
        factors: Factors | None,
    ) -> None:
        super().__init__(job, engines, tokenization, tokens)
        self._validation = validation
        self._factors = factors
        self._facts: list[ValidationFacts] = []

    def begin(self, run_id: int) -> None:
        """Compute the validation gradients, and before them the factors that they are preconditioned by."""
        if self._factors is not None:
            make_factors(self.job, self._factors, self.engines, self._tokenization, self.job.factor_samples)
        n = len(self._validation)
        self.job.report("validation gradients", 0, n)
        self.engines.prepare(self._validation)
        self.job.report("validation gradients", n, n)
        facts = self.engines.facts.validation
        keep_facts(self.job, run_id, facts)
        self._facts = [facts[one["name"]] for one in self.job.sets]

    def rows(self, run_id: int, ids: pa.Array, result: Result) -> pa.Table:
        """See ``Scorer``."""
        return dot_rows(
            run_id, self.job.set_ids, self._facts, ids, result.values, result.losses, result.counts, result.norms
        )

    def refused(self, run_id: int, ids: pa.Array, reasons: Sequence[str]) -> pa.Table:
        """See ``Scorer``."""
        return rows_without_dots(run_id, self.job.set_ids, ids, reasons, np.zeros(len(ids), np.int64))
