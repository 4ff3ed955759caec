"""Scores that were computed elsewhere enter the store."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from diq.base.errors import UsageError
from diq.base.fingerprint import run_fingerprint
from diq.base.progress import Progress
from diq.formats.scores import ScoreReader
from diq.samples.batches import Memory
from diq.samples.options import EXTERNAL
from diq.samples.sources import Entry, IngestSummary, SourceSummary, make_entry, match_recorded, record_source
from diq.store.store import Store, now

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _Group:
    """Scores that share a run.

    Attributes:
        name: as in the columns of ``count_resolved_scores``.
        kind: kind of the run.
        key: kind in the fingerprint of the run, where that is another: stores from before the kinds were told apart
            keep their runs.
        scores: columns of the file.
        delete: query that forgets the rows which are about to be written again.
        insert: query that writes them.
        of_model: whether the run belongs to the model that ``--model`` names.
        of_set: whether the scores belong to a validation set.
    """

    name: str
    kind: str
    scores: tuple[str, ...]
    delete: str
    insert: str
    of_model: bool = False
    of_set: bool = False
    key: str | None = None


_GROUPS = (
    # difficulty is the data's, not the model's: it has no model, whatever --model says of the dots beside it
    _Group(
        "difficulty",
        "difficulty",
        ("knowledge", "reasoning", "overall"),
        delete="samples/delete_replaced_difficulty",
        insert="samples/insert_resolved_difficulty",
    ),
    _Group(
        "influence",
        "influence",
        ("dot",),
        delete="samples/delete_replaced_influence",
        insert="samples/insert_resolved_influence",
        of_model=True,
        of_set=True,
    ),
    _Group(
        "perplexity",
        "perplexity",
        ("perplexity",),
        delete="samples/delete_replaced_perplexity",
        insert="samples/insert_resolved_perplexity",
        of_model=True,
        key="text",
    ),
    _Group(
        "similarity",
        "similarity",
        ("similarity",),
        delete="samples/delete_replaced_similarity",
        insert="samples/insert_resolved_similarity",
        of_set=True,
        key="text",
    ),
)


def ingest_scores(
    readers: Sequence[ScoreReader],
    dataset: str,
    store: Path,
    *,
    model: str | None,
    validation_set: str | None,
    replace: bool,
    report: Progress,
) -> IngestSummary:
    for reader in readers:
        for group in _GROUPS:
            if group.of_model and model is None and set(group.scores) & set(reader.scores):
                raise UsageError(
                    f"`{reader.source.path}` has {group.scores[0]}, which belongs to a model", "name it with --model"
                )
    summary = IngestSummary(dataset, "scores", warnings=[text for reader in readers for text in reader.warnings])
    for text in summary.warnings:
        log.warning(text)
    options = {"model": model, "validation_set": validation_set, "replace": replace}
    entries = [make_entry(reader.source, "scores", options | {"columns": dict(reader.columns)}) for reader in readers]
    with Store(store) as opened:
        dataset_id = opened.dataset(dataset)["dataset_id"]
        recorded = opened.rows("store/list_sources", dataset_id=dataset_id)
        _match_scores(entries, recorded, replace=replace)
        if not all(entry.known for entry in entries):
            Memory(opened)
            with opened.transaction():
                for reader, entry in zip(readers, entries, strict=True):
                    one = entry.summary()
                    if not one.unchanged:
                        _write_scores(
                            opened, dataset_id, reader, entry, one, model, validation_set or EXTERNAL, replace, report
                        )
                    summary.sources.append(one)
        else:
            summary.sources = [entry.summary() for entry in entries]
    return summary


def _match_scores(entries: Sequence[Entry], recorded: Sequence[dict[str, Any]], *, replace: bool) -> None:
    """Find the score files that were ingested before and would fare the same today."""
    last_samples = max((row["source_id"] for row in recorded if row["kind"] == "samples"), default=0)
    files = [row for row in recorded if row["kind"] == "scores"]
    # rejects may have found their sample since, when the dataset grew
    match_recorded(entries, [row for row in files if row["source_id"] > last_samples or not row["n_rejects"]])
    if replace:
        # a later file may have overwritten an earlier one, so only the latest files, in the same order, stand
        latest = [row["source_id"] for row in files][-len(entries) :]
        if [entry.known["source_id"] if entry.known else None for entry in entries] != latest:
            for entry in entries:
                entry.known = None


def _write_scores(
    store: Store,
    dataset_id: int,
    reader: ScoreReader,
    entry: Entry,
    counts: SourceSummary,
    model: str | None,
    validation_set: str,
    replace: bool,
    report: Progress,
) -> None:
    source = store.row("samples/next_source_id")
    assert source is not None
    store.run("samples/create_incoming_scores")
    for table in reader.tables():
        counts.n_rows += store.insert("samples/insert_incoming_scores", table)
        done, total = entry.source.meter.done, entry.source.meter.total
        report(counts.path, counts.n_rows, counts.n_rows * total // done if done else 0)
    entry.check_unchanged()

    model_id = _model_id(store, model) if model else None
    found = store.row("store/get_validation_set", name=validation_set)
    set_id = found["validation_set_id"] if found else None
    runs: dict[str, int | None] = {}
    for group in _GROUPS:
        known = store.row("store/get_run_by_fingerprint", fingerprint=external_fingerprint(group, model_id))
        runs[group.name] = known["run_id"] if known else None
    store.run("samples/create_resolved_scores")
    store.run(
        "samples/resolve_scores",
        dataset_id=dataset_id,
        validation_set_id=set_id,
        replace=replace,
        **{f"{name}_run": run_id for name, run_id in runs.items()},
    )
    result = store.row("samples/count_resolved_scores")
    assert result is not None
    for name in ("n_rows", "n_samples", "n_duplicates", "n_rejects"):
        setattr(counts, name, result[name])
    for group in _GROUPS:
        if result[group.name]:
            set_id = _write_group(store, dataset_id, group, model, model_id, validation_set, set_id)
    ids = {"dataset_id": dataset_id, "source_id": source["source_id"]}
    store.run("samples/insert_score_rejects", **ids, source=entry.source.path)
    record_source(store, ids, "scores", entry, counts, None)


def _write_group(
    store: Store,
    dataset_id: int,
    group: _Group,
    model: str | None,
    model_id: str | None,
    validation_set: str,
    set_id: int | None,
) -> int | None:
    """Write the scores of one run and seal it on the dataset; returns the validation set, made when it is new."""
    if group.of_model:
        assert model is not None
        assert model_id is not None
        store.add_model(model_id=model_id, name=model, source=EXTERNAL, architecture=None, n_parameters=None)
    if group.of_set and set_id is None:
        row = store.row(
            "store/insert_validation_set",
            name=validation_set,
            dataset_id=None,
            n_samples=None,
            seed=None,
            created_at=now(),
        )
        assert row is not None
        set_id = int(row["validation_set_id"])
    run_id = store.open_run(
        kind=group.kind,
        method=EXTERNAL,
        model_id=model_id if group.of_model else None,
        fingerprint=external_fingerprint(group, model_id),
        settings={"scores": group.scores},
        environment={},
    )
    store.start_scoring(run_id, dataset_id)
    ids: dict[str, Any] = {"run_id": run_id}
    if group.of_set:
        ids["validation_set_id"] = set_id
        store.run("store/insert_run_validation_set", **ids)
    store.run(group.delete, **ids)
    store.run(group.insert, **ids)
    store.seal(run_id, dataset_id)
    return set_id


def _model_id(store: Store, name: str) -> str:
    row = store.row("samples/find_model", name=name)
    return str(row["model_id"]) if row else f"{EXTERNAL}:{name}"


def external_fingerprint(group: _Group, model_id: str | None) -> str:
    """The same for every score file of one model, so that several files fill one run."""
    owner = model_id if group.of_model else None
    return run_fingerprint(group.key or group.kind, EXTERNAL, owner, {"scores": list(group.scores)})
