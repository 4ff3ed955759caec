"""Influence through a gradient index: projected gradients are kept, so a new validation set costs no pass over data.

The index is a run of kind ``gradients``, of everything that decides a projected gradient. The dots are a run of their
own, of all that and of the folds of the validation sets: other folds are other dots, from the same index.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from diq.base.config import WAIT_S
from diq.base.errors import UsageError
from diq.base.files import check_folder
from diq.base.fingerprint import begun, canonical_json, run_fingerprint
from diq.gradient_index.index import BASIS_FILE, INDEX_FILE, BrokenShard, GradientIndex, ShardRecord
from diq.gradients.engine import EngineFacts, common_settings
from diq.gradients.engines import Engines
from diq.gradients.validation import ValidationFacts, ValidationTokens, fold_sizes
from diq.influence.job import (
    Job,
    Row,
    Scores,
    add_model,
    check_packing,
    commit,
    count_missing,
    describe,
    environment_of,
    finish,
    keep_facts,
    missing_batches,
    no_scores,
    open_run,
    pool_folds,
    tokenize,
)
from diq.influence.stored import no_dot_reason
from diq.models.tokens import TokenFile, Tokenization
from diq.scoring import summary as shards
from diq.scoring.summary import ScoreSummary
from diq.store.store import Store, now

log = logging.getLogger(__name__)

# a shard is also written when it holds as much as one likes to hold in memory
_SHARD_BYTES = 256 << 20


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
    method, model_id = job.settings.method, job.target.model_id
    gradients = fingerprint = run_fingerprint("influence", method, model_id, settings)
    of_dots = settings | {"folds": job.settings.folds, "gradients": gradients}
    with Store(job.store, read_only=True, wait_s=WAIT_S) as opened:
        owner = opened.row("store/get_run_by_fingerprint", fingerprint=gradients)
        if owner is not None and _holds_dots(opened, owner, job.settings.folds):
            of_dots = settings
        else:
            fingerprint = run_fingerprint("influence", method, model_id, of_dots)
        known = opened.row("store/get_run_by_fingerprint", fingerprint=fingerprint)
        folder = _folder(opened, job, owner, gradients)
    if known is not None:
        with Store(job.store, read_only=True, wait_s=WAIT_S) as opened:
            missing = count_missing(opened, job, known["run_id"])
        if not missing:
            summary = ScoreSummary(known["run_id"], job.data["name"], job.data["n_samples"])
            summary.n_cached = summary.n_samples
            finish(job, summary)
            summary.details |= _describe_index(job, folder, settings)
            return summary
    if not (folder / INDEX_FILE).exists():
        check_folder(folder)
    if owner is not None:
        # only now: checksums read the whole index
        _forget_broken(job, owner["run_id"], folder)
    if job.settings.kind == "subspace" and (folder / BASIS_FILE).exists():
        job = replace(job, settings=replace(job.settings, basis=GradientIndex.open(folder).read_basis()))
    with Engines(job.settings, devices=job.devices) as engines:
        engines.prepare(validation if job.settings.kind == "subspace" and job.settings.basis is None else [])
        index_run_id = _open_index_run(job, engines.facts, settings, gradients)
        run_id = open_run(job, engines.facts, of_dots, fingerprint)
        identity = {
            "model_id": job.target.model_id,
            "model": job.target.name,
            "method": job.settings.method,
            "settings": settings,
            "modules": {name: list(shape) for name, shape in engines.facts.modules.items()},
            "dim": engines.ask("dim"),
        }
        index = GradientIndex.create(folder, identity, element=job.element)
        if job.settings.kind == "subspace" and job.settings.basis is None:
            index.write_basis(engines.ask("basis_arrays"))
        _note_index(job, index_run_id, index, identity)
        if not build:
            _adopt_shards(job, index_run_id, index)
        summary = ScoreSummary(run_id, job.data["name"], job.data["n_samples"])
        started = time.monotonic()
        if build:
            _build(job, index_run_id, index, tokenization, engines, summary)
        _dots(job, run_id, index_run_id, index, validation, engines, summary)
        summary.seconds = time.monotonic() - started
        facts = engines.facts
    left = _count_missing_gradients(job, index_run_id)
    finish(job, summary, complete=not left)
    if left:
        log.warning(
            "%d of %d samples are not in the gradient index and have no dot: the same command with --method projected "
            "--index in place of --from-index adds them",
            left, job.data["n_samples"],
        )  # fmt: skip
    summary.n_cached = summary.n_samples - summary.n_scored - left
    summary.details |= describe(job, facts, tokenization) | _describe_index(job, folder, settings)
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


def _open_index_run(job: Job, facts: EngineFacts, settings: Mapping[str, Any], fingerprint: str) -> int:
    with Store(job.store, wait_s=WAIT_S) as opened, opened.transaction():
        add_model(opened, job, facts)
        return opened.open_run(
            kind="gradients",
            method=job.settings.method,
            model_id=job.target.model_id,
            fingerprint=fingerprint,
            settings=settings,
            environment=environment_of(facts),
        )


def _folder(opened: Store, job: Job, owner: dict[str, Any] | None, fingerprint: str) -> Path:
    """Where the index lies, or shall lie.

    Raises:
        UsageError: the store knows of an index that is no longer where it was.
    """
    if job.index is not None:
        return job.index
    beside = Path(f"{job.store}.gradients") / fingerprint[:12]
    noted = opened.row("influence/get_gradient_index", run_id=owner["run_id"]) if owner else None
    # a store that was moved together with its indexes finds them again
    if noted is None or (beside / INDEX_FILE).exists():
        return beside
    folder = Path(noted["folder"])
    if owner is not None and not (folder / INDEX_FILE).exists() and _records(opened, owner["run_id"]):
        raise UsageError(
            f"the gradient index of run {owner['run_id']} is no longer in `{folder}`",
            "name its new place with --index DIR; an empty DIR builds it again",
        )
    return folder


def _note_index(job: Job, run_id: int, index: GradientIndex, identity: Mapping[str, Any]) -> None:
    with Store(job.store, wait_s=WAIT_S) as opened, opened.transaction():
        noted = opened.row("influence/get_gradient_index", run_id=run_id)
        if noted is not None and Path(noted["folder"]).resolve() != index.folder.resolve():
            log.info("the gradient index of run %d moved from %s to %s", run_id, noted["folder"], index.folder)
        opened.run(
            "influence/insert_gradient_index",
            run_id=run_id,
            folder=str(index.folder.resolve()),
            kind=job.settings.kind,
            dim=identity["dim"],
            element=index.element,
            created_at=now(),
        )


def _records(opened: Store, run_id: int) -> dict[int, ShardRecord]:
    return {
        row["shard"]: ShardRecord(row["shard"], row["file"], row["n_rows"], row["n_bytes"], row["content_hash"])
        for row in opened.rows("influence/list_gradient_shards", run_id=run_id)
    }


def _forget_broken(job: Job, run_id: int, folder: Path) -> None:
    """Check every shard against its checksum; the samples of one that fails are missing again."""
    with Store(job.store, read_only=True, wait_s=WAIT_S) as opened:
        records = _records(opened, run_id)
    index = GradientIndex.open(folder) if (folder / INDEX_FILE).exists() else None
    for record in records.values():
        problem = f"`{folder / record.file}` is missing" if index is None else index.shard_problem(record)
        if problem is None:
            continue
        log.warning("%s: its %d samples are scored again", problem, record.n_rows)
        with Store(job.store, wait_s=WAIT_S) as opened, opened.transaction():
            opened.run("influence/delete_gradient_rows", run_id=run_id, shard=record.shard)
            opened.run("influence/delete_gradient_shard", run_id=run_id, shard=record.shard)


def _adopt_shards(job: Job, run_id: int, index: GradientIndex) -> None:
    """Enter the shards of an index that came from elsewhere."""
    with Store(job.store, read_only=True, wait_s=WAIT_S) as opened:
        known = _records(opened, run_id)
    for found in index.shards_on_disk(known=known):
        if isinstance(found, BrokenShard):
            log.warning("%s of the gradient index cannot be used: %s", found.file, found.problem)
            continue
        rows = range(found.record.n_rows)
        _commit_rows(
            job,
            run_id,
            found.record,
            [
                (sample_id, found.record.shard, row, float(loss), int(count), None)
                for sample_id, row, loss, count in zip(
                    found.sample_ids, rows, found.losses, found.answer_tokens, strict=True
                )
            ],
        )


def _build(
    job: Job, run_id: int, index: GradientIndex, tokenization: Tokenization, engines: Engines, summary: ScoreSummary
) -> None:
    if not _count_missing_gradients(job, run_id):
        return
    with TokenFile() as tokens:
        rows = tokenize(job, run_id, tokenization, tokens)
        check_packing(job, rows, tokens, engines)
        lengths = tokens.lengths()
        total = sum(int(lengths[row.index]) for row in rows if row.missing and row.index >= 0)
        writer = _Writer(job, run_id, index)
        writer.without = [
            (row.sample_id, None, None, None, 0, row.reason) for row in rows if row.missing and row.index < 0
        ]
        for chosen, result in engines.score(missing_batches(job, rows, tokens, engines.token_budget)):
            writer.add(chosen, result.values.astype(np.float32, copy=False), result.losses, result.counts)
            summary.tokens += sum(int(lengths[row.index]) for row in chosen)
            job.report("projecting", summary.tokens, total)
        writer.flush()


class _Writer:
    """Collects projected gradients, and writes a shard every few seconds or when it is large."""

    def __init__(self, job: Job, run_id: int, index: GradientIndex) -> None:
        self._job, self._run_id, self._index = job, run_id, index
        with Store(job.store, read_only=True, wait_s=WAIT_S) as opened:
            known = _records(opened, run_id)
        # a shard that a killed run wrote and did not enter keeps its number, and is nobody's
        self._next = max([*known, *index.numbers_on_disk(), -1]) + 1
        self._gradients: list[npt.NDArray[np.float32]] = []
        self._rows: list[tuple[str, float, int]] = []
        self._last = time.monotonic()
        self.without: list[tuple[Any, ...]] = []

    def add(
        self,
        chosen: Sequence[Row],
        gradients: npt.NDArray[np.float32],
        losses: npt.NDArray[np.float64],
        counts: npt.NDArray[np.int64],
    ) -> None:
        """Take the samples of a batch."""
        lengths = np.linalg.norm(gradients.astype(np.float64), axis=1)
        keep = np.zeros(len(chosen), bool)
        for i, row in enumerate(chosen):
            loss, count = float(losses[i]), int(counts[i])
            reason = no_dot_reason(loss, count, [float(lengths[i])])
            if reason is None and self._job.settings.method == "less" and lengths[i] == 0:
                reason = "the gradient is zero, so it has no direction"
            if reason is not None:
                self.without.append((row.sample_id, None, None, None, count, reason))
                continue
            keep[i] = True
            self._rows.append((row.sample_id, loss, count))
        kept = gradients[keep]
        if self._job.settings.method == "less":
            # the dot with a normalised row is the cosine
            kept = (kept / lengths[keep, None]).astype(np.float32)
        self._gradients.append(kept)
        size = sum(one.nbytes for one in self._gradients)
        if size >= _SHARD_BYTES or time.monotonic() - self._last >= shards.SHARD_SECONDS:
            self.flush()

    def flush(self) -> None:
        """Write what there is: first the file, then its rows in the store."""
        record = None
        if self._rows:
            record = self._index.write_shard(
                self._next,
                np.ascontiguousarray(np.concatenate(self._gradients)),
                [sample_id for sample_id, _, _ in self._rows],
                [loss for _, loss, _ in self._rows],
                [count for _, _, count in self._rows],
            )
            self._next += 1
        entries: list[tuple[Any, ...]] = list(self.without)
        if record is not None:
            entries += [
                (sample_id, record.shard, i, loss, count, None) for i, (sample_id, loss, count) in enumerate(self._rows)
            ]
        _commit_rows(self._job, self._run_id, record, entries)
        self._gradients, self._rows, self.without, self._last = [], [], [], time.monotonic()


def _commit_rows(job: Job, run_id: int, record: ShardRecord | None, entries: Sequence[tuple[Any, ...]]) -> None:
    if not entries:
        return
    columns = list(zip(*entries, strict=True))
    incoming = pa.table(
        {
            "run_id": pa.array([run_id] * len(entries), pa.int64()),
            "sample_id": pa.array(columns[0], pa.string()),
            "shard": pa.array(columns[1], pa.int32()),
            "row": pa.array(columns[2], pa.int32()),
            "loss": pa.array(columns[3], pa.float64()),
            "answer_tokens": pa.array(columns[4], pa.int32()),
            "reason": pa.array(columns[5], pa.string()),
        }
    )
    with Store(job.store, wait_s=WAIT_S) as opened, opened.transaction():
        if record is not None:
            opened.run(
                "influence/insert_gradient_shard",
                run_id=run_id,
                shard=record.shard,
                file=record.file,
                n_rows=record.n_rows,
                n_bytes=record.n_bytes,
                content_hash=record.content_hash,
                written_at=now(),
            )
        opened.insert("influence/insert_gradient_rows", incoming)


# dots --------------------------------------------------------------------------------------------------------------


def _count_missing_gradients(job: Job, index_run_id: int) -> int:
    with Store(job.store, read_only=True, wait_s=WAIT_S) as opened:
        (found,) = opened.rows(
            "influence/count_missing_gradients", dataset_id=job.data["dataset_id"], index_run_id=index_run_id
        )
    return int(found["n"])


@dataclass(frozen=True, slots=True)
class _Wanted:
    """A sample of the index that lacks a dot."""

    row: int
    sample_id: str
    loss: float
    answer_tokens: int


def _dots(
    job: Job,
    run_id: int,
    index_run_id: int,
    index: GradientIndex,
    validation: Sequence[ValidationTokens],
    engines: Engines,
    summary: ScoreSummary,
) -> None:
    wanted: dict[int, list[_Wanted]] = {}
    without: list[Scores] = []
    with Store(job.store, read_only=True, wait_s=WAIT_S) as opened:
        records = _records(opened, index_run_id)
        table = opened.arrow(
            "influence/gradient_rows_missing_dots",
            dataset_id=job.data["dataset_id"],
            index_run_id=index_run_id,
            run_id=run_id,
            validation_set_ids=job.set_ids,
        )
    for shard, row, sample_id, loss, count, reason in zip(*(one.to_pylist() for one in table.columns), strict=True):
        if shard is None:
            without.append(no_scores(sample_id, len(job.sets), reason, count))
        else:
            wanted.setdefault(shard, []).append(_Wanted(row, sample_id, loss, count))
    if not wanted and not without:
        return
    vectors, facts = [], []
    for done, one in enumerate(validation):
        job.report("validation gradients", done, len(validation))
        vectors.append(np.asarray(engines.ask("validation_vectors", one), np.float32))
        facts.append(engines.ask("facts").validation[one.name])
    job.report("validation gradients", len(validation), len(validation))
    keep_facts(job, run_id, {one.name: fact for one, fact in zip(validation, facts, strict=True)})
    stacked = np.ascontiguousarray(np.concatenate(vectors))
    pending, last = without, time.monotonic()
    for done, (shard, rows) in enumerate(wanted.items()):
        dots = index.dots(records[shard], stacked)
        pending.extend(_scores_of(rows, dots, facts))
        if time.monotonic() - last >= shards.SHARD_SECONDS:
            summary.n_scored += commit(job, run_id, pending)
            pending, last = [], time.monotonic()
        job.report("dots", done + 1, len(wanted))
    summary.n_scored += commit(job, run_id, pending)


def _scores_of(
    rows: Sequence[_Wanted], dots: npt.NDArray[np.float32], facts: Sequence[ValidationFacts]
) -> Iterator[Scores]:
    for one in rows:
        pooled, folds = pool_folds(dots[one.row].tolist(), facts)
        reason = no_dot_reason(one.loss, one.answer_tokens, pooled)
        if reason:
            yield no_scores(one.sample_id, len(facts), reason, one.answer_tokens)
        else:
            yield Scores(one.sample_id, list(pooled), list(folds), None, one.loss, one.answer_tokens, None)
