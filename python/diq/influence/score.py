"""Influence of the samples that lack it, by any method of the engine."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from diq.base.config import MAX_LENGTH, WAIT_S
from diq.base.errors import UsageError
from diq.base.fingerprint import run_fingerprint
from diq.base.options import verb
from diq.gradients.adam_state import read_learning_rate
from diq.gradients.engine import EngineSettings, Result, common_settings
from diq.gradients.engines import Engines
from diq.gradients.projections import default_dim
from diq.gradients.validation import ValidationFacts
from diq.influence.job import (
    Job,
    Row,
    Scores,
    check_packing,
    commit,
    count_missing,
    describe,
    finish,
    keep_facts,
    missing_batches,
    no_scores,
    open_run,
    pool_folds,
    read_request,
    tokenize,
)
from diq.influence.options import ScoreInfluenceOptions
from diq.influence.score_index import adopt, score_projected
from diq.influence.stored import no_dot_reason
from diq.models.device import describe_environment, pick_device, pick_dtype
from diq.models.source import ModelSource, find_adapter, find_model
from diq.models.tokens import TokenFile
from diq.scoring import summary as shards
from diq.scoring.summary import ScoreSummary
from diq.store.store import Store

log = logging.getLogger(__name__)

DEFAULT_FOLDS = 2
_SUBSPACE_RANK = 8
_LESS_DIM = 8192  # arXiv 2402.04333, section 4.1


@verb(ScoreInfluenceOptions)
def score_influence(options: ScoreInfluenceOptions) -> ScoreSummary:
    """Compute the missing dots of a dataset with one or several validation sets (Eq. 3 and 4).

    Raises:
        UsageError: unknown names, options that do not go together, an empty dataset or no validation set.
        ModelError: the model cannot be used.
        RunFailedError: the scoring cannot be finished.
        StoreError: the store is held by another process.
    """
    if options.from_index is not None and options.method == "exact":
        options = replace(options, method="projected")
    _check_together(options)
    request = read_request(options.store_file, options.dataset, options.validation_set)
    source = find_model(options.model, name=options.model_name)
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
        folds=options.folds or (1 if options.method in ("forward", "central") else DEFAULT_FOLDS),
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
    )
    job = Job(
        store=options.store_file,
        data=request.data,
        sets=request.sets,
        conversations=request.conversations,
        settings=settings,
        max_length=options.max_length or MAX_LENGTH,
        template=options.template or "auto",
        devices=options.devices,
        element=options.element or "float16",
        index=None if options.index is None else Path(options.index),
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
        }
        return adopt(job, Path(options.from_index), {name: value for name, value in asked.items() if value is not None})
    if not options.checkpoint:
        return _score(job)
    return _score_checkpoints(job, list(map(str, options.checkpoint)))


# the request -------------------------------------------------------------------------------------------------------


def _check_together(options: ScoreInfluenceOptions) -> None:
    """Refuse options that do not go together."""
    indexed = options.method in ("projected", "less")
    wrong: list[tuple[bool, str, str]] = [
        (options.kind is not None and options.method != "projected", "--kind", "--method projected"),
        (options.dim is not None and not indexed, "--dim", "--method projected or less"),
        (options.dim is not None and options.kind == "subspace", "--dim", "a random kind; subspace takes --rank"),
        (options.index is not None and not indexed, "--index", "--method projected or less"),
        (options.seed is not None and not indexed, "--seed", "--method projected or less"),
        (options.seed is not None and options.kind == "subspace", "--seed", "a random kind; a subspace has none"),
        (options.element is not None and not indexed, "--element", "--method projected or less"),
        (options.from_index is not None and options.method != "projected", "--from-index", "--method projected"),
        (
            options.from_index is not None and options.index is not None,
            "--from-index",
            "no --index beside it: the index exists",
        ),
        (options.from_index is not None and bool(options.checkpoint), "--from-index", "one model"),
        (options.formula is not None and options.method != "less", "--formula", "--method less"),
        (options.norms and options.method in ("forward", "central", "less", "projected"), "--norms", "--method exact"),
        (
            options.rank is not None and options.method != "exact" and options.kind != "subspace",
            "--rank",
            "--method exact, or --method projected --kind subspace",
        ),
        (
            options.method == "less" and not options.checkpoint,
            "--method less",
            "--checkpoint DIR, a checkpoint with optimizer state",
        ),
    ]
    for failed, option, needed in wrong:
        if failed:
            raise UsageError(f"{option} goes with {needed}", "see `diq score influence --help`")


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
    summaries = [_score(replace(job, settings=replace(job.settings, checkpoint=checkpoint))) for checkpoint, _ in parts]
    return _combine(job, parts, summaries)


def _folders(texts: Sequence[str]) -> Iterator[tuple[str, float | None]]:
    """Folders and weights; a pattern such as ``out/checkpoint-*`` stands for all that it matches, in order of steps."""
    for text in texts:
        folder, weight = _split_weight(text)
        place = Path(folder).expanduser()
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
        settings = {"checkpoints": described}
        opened.add_model(
            model_id=source.model_id, name=source.name, source=source.source, architecture=None, n_parameters=None
        )
        run_id = opened.open_run(
            kind="influence",
            method=job.settings.method,
            model_id=source.model_id,
            fingerprint=run_fingerprint("influence", job.settings.method, source.model_id, settings),
            settings=settings,
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
        missing = count_missing(opened, job, run_id)
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
    finish(job, combined)
    combined.details |= {
        "model": source.name,
        "checkpoints": {checkpoint.name: f"weight {weight:g}" for checkpoint, weight in parts},
        "runs of the checkpoints": [one.run_id for one in summaries],
    }
    return combined


# one run -----------------------------------------------------------------------------------------------------------


def _score(job: Job) -> ScoreSummary:
    if job.settings.method in ("projected", "less"):
        return score_projected(job)
    tokenization = job.tokenization()
    settings = common_settings(job.settings, tokenization) | {"folds": job.settings.folds, "norms": job.settings.norms}
    if job.settings.rank is not None:
        settings["rank"] = job.settings.rank
    fingerprint = run_fingerprint("influence", job.settings.method, job.target.model_id, settings)
    with Store(job.store, read_only=True, wait_s=WAIT_S) as opened:
        known = opened.row("store/get_run_by_fingerprint", fingerprint=fingerprint)
        missing = job.data["n_samples"] if known is None else count_missing(opened, job, known["run_id"])
    if known is not None and not missing:
        summary = ScoreSummary(known["run_id"], job.data["name"], job.data["n_samples"], n_cached=job.data["n_samples"])
        finish(job, summary)
        return summary
    # before anything is computed: a validation set without a usable sample should not cost the loading of a model
    validation = job.validation(tokenization)
    with Engines(job.settings, devices=job.devices) as engines:
        run_id = open_run(job, engines.facts, settings, fingerprint)
        summary = ScoreSummary(run_id, job.data["name"], job.data["n_samples"])
        summary.n_cached = summary.n_samples - missing
        with TokenFile() as tokens:
            rows = tokenize(job, run_id, tokenization, tokens)
            started = time.monotonic()
            job.report("validation gradients", 0, len(validation))
            engines.prepare(validation)
            job.report("validation gradients", len(validation), len(validation))
            keep_facts(job, run_id, engines.facts.validation)
            _score_shards(job, run_id, rows, tokens, engines, summary)
            summary.seconds = time.monotonic() - started
        facts = engines.facts
    finish(job, summary)
    summary.details |= describe(job, facts, tokenization)
    return summary


# shards ------------------------------------------------------------------------------------------------------------


def _score_shards(
    job: Job, run_id: int, rows: Sequence[Row], tokens: TokenFile, engines: Engines, summary: ScoreSummary
) -> None:
    check_packing(job, rows, tokens, engines)
    lengths = tokens.lengths()
    total = sum(int(lengths[row.index]) for row in rows if row.missing and row.index >= 0)
    facts = [engines.facts.validation[one["name"]] for one in job.sets]
    n = len(job.sets)
    shard = [no_scores(row.sample_id, n, row.reason) for row in rows if row.missing and row.index < 0]
    last = time.monotonic()
    for chosen, result in engines.score(missing_batches(job, rows, tokens, engines.token_budget)):
        shard.extend(_scores_of(chosen, result, facts))
        summary.tokens += sum(int(lengths[row.index]) for row in chosen)
        if time.monotonic() - last >= shards.SHARD_SECONDS:
            summary.n_scored += commit(job, run_id, shard)
            shard, last = [], time.monotonic()
        job.report("scoring", summary.tokens, total)
    summary.n_scored += commit(job, run_id, shard)


def _scores_of(chosen: Sequence[Row], result: Result, facts: Sequence[ValidationFacts]) -> Iterator[Scores]:
    for i, row in enumerate(chosen):
        loss, count = float(result.losses[i]), int(result.counts[i])
        norm = None if result.norms is None else float(result.norms[i])
        dots, folds = pool_folds(result.values[i].tolist(), facts)
        reason = no_dot_reason(loss, count, dots if norm is None else [*dots, norm])
        if reason:
            yield no_scores(row.sample_id, len(facts), reason, count)
        else:
            yield Scores(row.sample_id, list(dots), list(folds), norm, loss, count, None)
