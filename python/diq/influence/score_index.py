"""Influence through a gradient index: projected gradients are kept, so a new validation set costs no pass over data.

The index is a run of kind ``gradients``, of everything that decides a projected gradient. The dots are a run of their
own, of all that and of the folds of the validation sets: other folds are other dots, from the same index.
"""

from __future__ import annotations

import json
import logging
import time
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from diq.base.arrow import numbers
from diq.base.errors import UsageError
from diq.base.files import check_folder
from diq.base.fingerprint import begun, canonical_json
from diq.base.text import amount
from diq.gradient_index.index import BASIS_FILE, INDEX_FILE, BrokenShard, GradientIndex
from diq.gradient_index.kept import (
    INSERT_ROWS,
    commit_rows,
    folder_of,
    forget_broken,
    gradient_rows,
    note_index,
    records_of,
    write_rows,
)
from diq.gradients.engine import EngineFacts, Result, common_settings
from diq.gradients.engines import Engines
from diq.gradients.validation import ValidationTokens, fold_sizes
from diq.influence.job import (
    EngineScorer,
    Job,
    describe,
    dot_rows,
    environment_of,
    keep_facts,
    rows_without_dots,
    tell_of_dots,
)
from diq.influence.stored import no_dot_reason
from diq.models.tokens import TokenFile, Tokenization
from diq.scoring.harness import Shards, score_samples
from diq.scoring.job import ScoreJob, bytes_of_ids, cached, column_of_ids, computing, finish, look_up, open_run
from diq.scoring.summary import ScoreSummary
from diq.store.connection import WAIT_S
from diq.store.store import Store

log = logging.getLogger(__name__)


def score_projected(job: Job) -> ScoreSummary:
    """Bring the gradient index of the run up to date with the dataset, then compute the missing dots from it."""
    tokenization = job.tokenization()
    validation = job.validation(tokenization)
    settings = common_settings(job.settings, tokenization) | _projection_settings(job, validation)
    return _score(job, tokenization, validation, settings, build=True)


def adopt(job: Job, folder: Path, asked: Mapping[str, Any]) -> ScoreSummary:
    """Score new validation sets from an index that exists, also one that was made with another store.

    Args:
        job: the request; what decides the numbers is taken from the index.
        folder: of the index.
        asked: settings that the user named; they must be those of the index.

    Raises:
        UsageError: the index was made for another model, or with other settings than asked.
        InputError: there is no index.
    """
    index = GradientIndex.open(folder)
    identity = index.identity
    kept = identity["settings"]
    flat = {**kept, **kept["projection"], "model_id": identity["model_id"]}
    wanted = {"model_id": job.target.model_id, **asked}
    different = [
        f"{name} is {flat.get(name)!r} there, {value!r} asked"
        for name, value in wanted.items()
        if flat.get(name) != value
    ]
    if different:
        raise UsageError(
            f"the gradient index `{folder}` (model `{identity['model']}`) cannot be used: {'; '.join(different)}",
            "ask for the settings of the index, or make another index with --method projected",
        )
    projection = kept["projection"]
    job = replace(
        job,
        index=folder,
        element=index.element,
        max_length=kept["max_length"],
        template="none" if kept["template"] == "none" else "auto",
        template_kwargs=tuple(
            f"{key}={json.dumps(value)}" for key, value in kept.get("template_variables", {}).items()
        ),
        turns=kept.get("turns", "last"),
        settings=replace(
            job.settings,
            method="projected",
            params=kept["parameters"],
            reduction=kept["loss_reduction"],
            dtype=kept["dtype"],
            kind=projection["kind"],
            dim=projection["dim"],
            seed=projection["seed"] or 0,
        ),
    )
    tokenization = job.tokenization()
    found = common_settings(job.settings, tokenization)
    changed = [name for name, value in found.items() if kept[name] != value]
    if changed:
        raise UsageError(
            f"the gradient index `{folder}` was made with another {changed[0]}: {kept[changed[0]]} there, "
            f"{found[changed[0]]} here",
            "use the tokenizer and template that the index was made with",
        )
    return _score(job, tokenization, job.validation(tokenization), kept, build=False)


def _projection_settings(job: Job, validation: Sequence[ValidationTokens]) -> dict[str, Any]:
    settings = job.settings
    projection: dict[str, Any] = {"kind": settings.kind, "dim": settings.dim, "seed": settings.seed}
    if settings.kind == "subspace":
        # the basis comes from the validation sets, not from a seed
        digest = begun()
        for one in sorted(validation, key=lambda one: one.name):
            digest.update(canonical_json([one.name, [sample.ids.tolist() for sample in one.samples]]).encode())
        projection |= {"seed": None, "basis": digest.hexdigest()}
    if settings.method == "less":
        projection["formula"] = settings.formula
    return {"projection": projection, "element": job.element}


def _score(
    job: Job,
    tokenization: Tokenization,
    validation: Sequence[ValidationTokens],
    settings: dict[str, Any],
    *,
    build: bool,
) -> ScoreSummary:
    gradients = _gradients_job(job, settings)
    found = _look_up(job, gradients)
    summary = cached(found.dots)
    if summary is None:
        # a process that adds to the index has it for itself, whatever the dataset: none computes what another does
        with computing(found.dots, gradients.fingerprint[:12]):
            found = _look_up(job, gradients)
            summary = cached(found.dots)
            if summary is None:
                return _score_missing(job, tokenization, validation, gradients, found, build=build)
    tell_of_dots(job, summary)
    summary.details |= _describe_index(job, found.folder, settings)
    return summary


def _gradients_job(job: Job, settings: Mapping[str, Any]) -> ScoreJob:
    """The run of the index, which has the name that the first release gave to the run of index and dots together."""
    return ScoreJob(
        store=job.store,
        data=job.data,
        kind="influence",
        method=job.settings.method,
        model_id=job.target.model_id,
        settings=settings,
        missing="influence/samples_missing_gradients",
        reasons="store/influence_reasons",
        label="projecting",
        progress=job.progress,
    )


@dataclass(frozen=True, slots=True)
class _Found:
    """What the store knows of a scoring: its dots, the run of the index, if there is one, and where the index lies."""

    dots: ScoreJob
    index_run_id: int | None
    folder: Path


def _look_up(job: Job, gradients: ScoreJob) -> _Found:
    with Store(job.store, read_only=True, wait_s=WAIT_S) as opened:
        owner = opened.row("store/get_run_by_fingerprint", fingerprint=gradients.fingerprint)
        folder = _folder(opened, job, owner, gradients.fingerprint)
        if owner is not None and _holds_dots(opened, owner, job.settings.folds):
            of_dots = gradients.settings
        else:
            of_dots = {**gradients.settings, "folds": job.settings.folds, "gradients": gradients.fingerprint}
    return _Found(job.of_dots(of_dots), None if owner is None else owner["run_id"], folder)


def _score_missing(
    job: Job,
    tokenization: Tokenization,
    validation: Sequence[ValidationTokens],
    gradients: ScoreJob,
    found: _Found,
    *,
    build: bool,
) -> ScoreSummary:
    folder = found.folder
    if not (folder / INDEX_FILE).exists():
        check_folder(folder)
    if found.index_run_id is not None:
        # only now: checksums read the whole index
        forget_broken(job.store, found.index_run_id, folder)
    if job.settings.kind == "subspace" and (folder / BASIS_FILE).exists():
        job = replace(job, settings=replace(job.settings, basis=GradientIndex.open(folder).read_basis()))
    with Engines(job.settings, devices=job.devices) as engines:
        engines.prepare(validation if job.settings.kind == "subspace" and job.settings.basis is None else [])
        index_run_id = _open_index_run(job, engines.facts, gradients)
        run_id = open_run(found.dots, job.run_model(engines.facts), environment_of(engines.facts))
        identity = {
            "model_id": job.target.model_id,
            "model": job.target.name,
            "method": job.settings.method,
            "settings": gradients.settings,
            "modules": {name: list(shape) for name, shape in engines.facts.weights.items()},
            "dim": engines.ask("dim"),
        }
        index = GradientIndex.create(folder, identity, element=job.element)
        if job.settings.kind == "subspace" and job.settings.basis is None:
            index.write_basis(engines.ask("basis_arrays"))
        note_index(job.store, index_run_id, index, job.settings.kind)
        if not build:
            _adopt_shards(job, index_run_id, index)
        summary = ScoreSummary(run_id, job.data["name"], job.data["n_samples"])
        started = time.monotonic()
        if build and look_up(gradients)[1]:
            with TokenFile() as tokens:
                scorer = _GradientScorer(job, engines, tokenization, tokens, index_run_id, index)
                score_samples(gradients, index_run_id, scorer, summary)
        _dots(job, run_id, index_run_id, index, validation, engines, summary)
        summary.seconds = time.monotonic() - started
        facts = engines.facts
    left = look_up(gradients)[1]
    finish(found.dots, summary, complete=not left)
    tell_of_dots(job, summary)
    if left:
        log.warning(
            "%d of %s are not in the gradient index and have no dot: the same command with --method projected --index "
            "in place of --from-index adds them",
            left, amount(job.data["n_samples"], "sample"),
        )  # fmt: skip
    summary.n_cached = summary.n_samples - summary.n_scored - left
    summary.details |= describe(job, facts, tokenization) | _describe_index(job, folder, gradients.settings)
    if left:
        summary.details["not_in_the_index"] = left
    return summary


def _describe_index(job: Job, folder: Path, settings: Mapping[str, Any]) -> dict[str, Any]:
    projection = settings["projection"]
    rank = {"rank": projection["dim"]} if projection["kind"] == "subspace" else {}
    # all dots may be in the store, and the index gone
    numbers = {"dim": GradientIndex.open(folder).dim} if (folder / INDEX_FILE).exists() else {}
    return {"index": str(folder), "kind": projection["kind"], **rank, **numbers, "element": job.element}


# the index ---------------------------------------------------------------------------------------------------------


def _holds_dots(opened: Store, owner: Mapping[str, Any], folds: int) -> bool:
    """Whether the run of an index is also the run of its dots with so many folds, as in stores of the first release.

    There folds were no part of what names a run, so it stands for those that it recorded.
    """
    if owner["kind"] != "influence":
        return False
    recorded = [row["fold_sizes"] for row in opened.rows("influence/facts_of_run", run_id=owner["run_id"])]
    if any(sizes is not None and sizes != fold_sizes(sum(sizes), folds) for sizes in recorded):
        return False
    # one that was asked for other folds later holds lists of both lengths
    (other,) = opened.rows("influence/count_other_folds", run_id=owner["run_id"])
    return not other["n"]


def _open_index_run(job: Job, facts: EngineFacts, gradients: ScoreJob) -> int:
    with Store(job.store, wait_s=WAIT_S) as opened, opened.transaction():
        opened.add_model(**asdict(job.run_model(facts)))
        return opened.open_run(
            kind="gradients",
            method=gradients.method,
            model_id=gradients.model_id,
            fingerprint=gradients.fingerprint,
            settings=gradients.settings,
            environment=environment_of(facts),
        )


def _folder(opened: Store, job: Job, owner: dict[str, Any] | None, fingerprint: str) -> Path:
    """Where the index lies, or shall lie.

    Raises:
        UsageError: the store knows of an index that is no longer where it was.
    """
    if job.index is not None:
        return job.index
    run_id = None if owner is None else int(owner["run_id"])
    moved = "name its new place with --index DIR; an empty DIR builds it again"
    return folder_of(opened, job.store, run_id, fingerprint, moved=moved)


def _adopt_shards(job: Job, index_run_id: int, index: GradientIndex) -> None:
    """Enter the shards of an index that came from elsewhere."""
    with Store(job.store, read_only=True, wait_s=WAIT_S) as opened:
        known = records_of(opened, index_run_id)
    for found in index.shards_on_disk(known=known):
        if isinstance(found, BrokenShard):
            log.warning("%s of the gradient index cannot be used: %s", found.file, found.problem)
            continue
        ids = np.frombuffer(b"".join(uuid.UUID(one).bytes for one in found.sample_ids), np.uint8).reshape(-1, 16)
        rows = gradient_rows(index_run_id, column_of_ids(ids), [None] * len(ids), found.answer_tokens, found.losses)
        commit_rows(job.store, index_run_id, found.record, rows)


@dataclass(frozen=True, slots=True)
class _Projected:
    """Rows of ``gradient_rows``, and the gradients of those that have one, in their order."""

    rows: pa.Table
    gradients: npt.NDArray[np.float32]

    @property
    def nbytes(self) -> int:
        return int(self.gradients.nbytes + self.rows.nbytes)


class _GradientScorer(EngineScorer):
    """Engines that project gradients; they go to the shards of an index."""

    insert = INSERT_ROWS

    def __init__(
        self,
        job: Job,
        engines: Engines,
        tokenization: Tokenization,
        tokens: TokenFile,
        index_run_id: int,
        index: GradientIndex,
    ) -> None:
        super().__init__(job, engines, tokenization, tokens)
        self._index_run_id, self._index = index_run_id, index

    def rows(self, run_id: int, ids: pa.Array, result: Result) -> _Projected:
        """See ``Scorer``."""
        gradients = result.values.astype(np.float32, copy=False)
        lengths = np.linalg.norm(gradients.astype(np.float64), axis=1)
        reasons = []
        for loss, count, length in zip(result.losses.tolist(), result.counts.tolist(), lengths.tolist(), strict=True):
            reason = no_dot_reason(loss, count, [length])
            if reason is None and self.job.settings.method == "less" and length == 0:
                reason = "the gradient is zero, so it has no direction"
            reasons.append(reason)
        keep = np.asarray([one is None for one in reasons], np.bool_)
        kept = gradients[keep]
        if self.job.settings.method == "less":
            # the dot with a normalised row is the cosine
            kept = (kept / lengths[keep, None]).astype(np.float32)
        return _Projected(gradient_rows(run_id, ids, reasons, result.counts, result.losses), kept)

    def refused(self, run_id: int, ids: pa.Array, reasons: Sequence[str]) -> _Projected:
        """See ``Scorer``."""
        nothing = np.zeros((0, self._index.dim), np.float32)
        return _Projected(gradient_rows(run_id, ids, reasons, np.zeros(len(ids), np.int64)), nothing)

    def write(self, store: Path, pending: Sequence[_Projected]) -> None:
        """Write a shard, then its rows in the store."""
        table = pa.concat_tables([one.rows for one in pending])
        gradients = np.concatenate([one.gradients for one in pending])
        write_rows(store, self._index_run_id, self._index, table, gradients)


# dots --------------------------------------------------------------------------------------------------------------


def _dots(
    job: Job,
    run_id: int,
    index_run_id: int,
    index: GradientIndex,
    validation: Sequence[ValidationTokens],
    engines: Engines,
    summary: ScoreSummary,
) -> None:
    """Compute the dots that the index can give; a sample takes 37 bytes of memory meanwhile."""
    with Store(job.store, read_only=True, wait_s=WAIT_S) as opened:
        records = records_of(opened, index_run_id)
        table = opened.arrow(
            "influence/gradient_rows_missing_dots",
            dataset_id=job.data["dataset_id"],
            index_run_id=index_run_id,
            run_id=run_id,
            validation_set_ids=job.set_ids,
        )
    if not len(table):
        return
    vectors, facts = [], []
    for done, one in enumerate(validation):
        job.report("validation gradients", done, len(validation))
        vectors.append(np.asarray(engines.ask("validation_vectors", one), np.float32))
        facts.append(engines.ask("facts").validation[one.name])
    job.report("validation gradients", len(validation), len(validation))
    keep_facts(job, run_id, {one.name: fact for one, fact in zip(validation, facts, strict=True)})
    stacked = np.ascontiguousarray(np.concatenate(vectors))

    def write(pending: list[Any]) -> None:
        with Store(job.store, wait_s=WAIT_S) as opened, opened.transaction():
            opened.insert("influence/insert_influence_scores", pa.concat_tables(pending))

    n_without = table.column("shard").null_count
    # in the order of the shards; those without a gradient come first
    shard_of = numbers(table.column("shard").slice(n_without))
    firsts = n_without + np.flatnonzero(np.diff(shard_of, prepend=-1))
    with Shards(write) as waiting:
        if n_without:
            part = table.slice(0, n_without).combine_chunks()
            waiting.add(
                rows_without_dots(
                    run_id,
                    job.set_ids,
                    _fixed(part),
                    part.column("reason").to_pylist(),
                    numbers(part.column("answer_tokens")),
                ),
                n_without,
            )
        for done, (first, last) in enumerate(zip(firsts, [*firsts[1:], len(table)], strict=True)):
            part = table.slice(first, last - first).combine_chunks()
            dots = index.dots(records[part.column("shard")[0].as_py()], stacked)[numbers(part.column("row"))]
            losses, counts = numbers(part.column("loss")), numbers(part.column("answer_tokens"))
            waiting.add(dot_rows(run_id, job.set_ids, facts, _fixed(part), dots, losses, counts), len(part))
            job.report("dots", done + 1, len(firsts))
    summary.n_scored = waiting.n


def _fixed(part: pa.Table) -> pa.Array:
    return column_of_ids(bytes_of_ids(part.column("sample_id").combine_chunks()))
