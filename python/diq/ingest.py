"""The stage ``diq ingest``: samples, validation sets and scores enter the store, each call in one transaction.

A call that fails or is killed leaves nothing behind; the same call again reads nothing twice.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import orjson
import pyarrow as pa

from diq import _core
from diq.errors import InputError, UsageError
from diq.formats import BadRow, Parsed, Reader, find_sources, open_sources
from diq.formats.scores import ScoreReader, open_scores
from diq.formats.sources import Source
from diq.records import Progress, Sample, run_fingerprint
from diq.store import Store, now

BATCH_ROWS = 10_000
BATCH_BYTES = 16 << 20  # of text; rows are written when either is reached
EXTERNAL = "external"  # method of runs that were computed elsewhere, and the validation set of their dots

_log = logging.getLogger("diq.ingest")


@dataclass(slots=True)
class SourceSummary:
    """What became of the rows of one source; ``n_rows`` is the sum of the other three."""

    path: str
    layout: str
    n_rows: int = 0
    n_samples: int = 0
    n_duplicates: int = 0
    n_rejects: int = 0
    unchanged: bool = False


@dataclass(slots=True)
class IngestSummary:
    """What became of all rows of a call.

    Attributes:
        dataset: its name.
        kind: training, validation or scores.
        sources: one entry a source, in the order of the call.
        validation_set: name, n_samples and seed of the validation set that was made; None when none was.
        warnings: what may not be as meant.
    """

    dataset: str
    kind: str
    sources: list[SourceSummary] = field(default_factory=list)
    validation_set: dict[str, Any] | None = None
    warnings: list[str] = field(default_factory=list)

    @property
    def n_rows(self) -> int:
        """Rows read."""
        return sum(source.n_rows for source in self.sources)

    @property
    def n_samples(self) -> int:
        """Rows that became a sample (or a score) of the dataset."""
        return sum(source.n_samples for source in self.sources)

    @property
    def n_duplicates(self) -> int:
        """Rows that repeat what the dataset (or the run) has."""
        return sum(source.n_duplicates for source in self.sources)

    @property
    def n_rejects(self) -> int:
        """Rows that cannot be used."""
        return sum(source.n_rejects for source in self.sources)

    def to_dict(self) -> dict[str, Any]:
        """As ``diq ingest --json`` prints it."""
        return {
            "dataset": self.dataset,
            "kind": self.kind,
            "n_rows": self.n_rows,
            "n_samples": self.n_samples,
            "n_duplicates": self.n_duplicates,
            "n_rejects": self.n_rejects,
            "sources": [asdict(source) for source in self.sources],
            "validation_set": self.validation_set,
            "warnings": self.warnings,
        }


def run(
    sources: Sequence[str | os.PathLike[str]] | str | os.PathLike[str],
    *,
    dataset: str,
    store: str | os.PathLike[str],
    format: str | None = None,
    map: Mapping[str, str] | None = None,
    split: str | None = None,
    validation: bool = False,
    sample: int | None = None,
    seed: int = 0,
    drop_reasoning: bool = False,
    scores: bool = False,
    model: str | None = None,
    validation_set: str | None = None,
    replace: bool = False,
    progress: Progress | None = None,
) -> IngestSummary:
    """Read files, folders or hub ids into a dataset, a validation set, or the scores of a dataset.

    Args:
        sources: files, globs, folders, saved dataset folders or hub ids.
        dataset: name of the dataset; made when it is new.
        store: the DuckDB file; made when it is new.
        format: layout of the rows; detected when None.
        map: role to column (``{"prompt": "frage", "answer": "antwort"}``), in place of a layout.
        split: split of dataset folders and hub ids; also recorded with the samples (default train).
        validation: make a validation set of the same name.
        sample: size of the validation set, drawn by ``seed``; all samples when None.
        seed: of the draw, which depends on it and on the samples' ids alone.
        drop_reasoning: the question-and-answer variant: no reasoning, no leading ``<think>...</think>``.
        scores: the sources are scores of the dataset that were computed elsewhere.
        model: model that dots and perplexities belong to.
        validation_set: validation set that dots and similarities belong to.
        replace: take the new value of a score that the store has otherwise.
        progress: called after every batch.

    Raises:
        UsageError: the request is wrong; nothing is written.
        InputError: a source cannot be read as a whole; nothing of the call is written.
        StoreError: the store cannot be opened or written; nothing of the call is written.
    """
    if isinstance(sources, (str, os.PathLike)):
        sources = [sources]
    _check_request(
        dataset, format, split, validation, sample, seed, drop_reasoning, scores, model, validation_set, replace
    )
    report = progress or (lambda *_: None)
    if scores:
        readers = [open_scores(source, map) for source in find_sources(sources, split=split)]
        return _ingest_scores(
            readers, dataset, Path(store), model=model, validation_set=validation_set, replace=replace, report=report
        )
    return _ingest_samples(
        open_sources(sources, format=format, map=map, split=split, drop_reasoning=drop_reasoning),
        dataset,
        Path(store),
        options={"map": dict(map) if map else None, "split": split, "drop_reasoning": drop_reasoning},
        draw=_Draw(sample, seed) if validation else None,
        split="unused" if validation else split or "train",
        report=report,
    )


@dataclass(frozen=True, slots=True)
class _Draw:
    """How a validation set is drawn; the seed means nothing when every sample is taken."""

    n: int | None
    seed: int


def _check_request(
    dataset: str,
    format: str | None,
    split: str | None,
    validation: bool,
    sample: int | None,
    seed: int,
    drop_reasoning: bool,
    scores: bool,
    model: str | None,
    validation_set: str | None,
    replace: bool,
) -> None:
    if not dataset.strip():
        raise UsageError("the dataset has no name", "name it with --dataset")
    if scores:
        for given, option in (
            (validation, "--validation"),
            (sample is not None, "--sample"),
            (drop_reasoning, "--drop-reasoning"),
            (format is not None, "--format"),
        ):
            if given:
                raise UsageError(f"{option} does not go with --scores", "scores are not samples; drop one of the two")
        return
    for given, option in (
        (model is not None, "--model"),
        (validation_set is not None, "--validation-set"),
        (replace, "--replace"),
    ):
        if given:
            raise UsageError(f"{option} is for score files", "add --scores")
    if sample is not None and not validation:
        raise UsageError("--sample draws a validation set", "add --validation")
    if sample is not None and sample < 1:
        raise UsageError(f"a validation set of {sample} samples cannot be drawn", "give --sample 1 or more")
    if not 0 <= seed < 2**63:
        raise UsageError(f"the seed {seed} is outside 0 to 2**63 - 1", "give another --seed")


# what is known already ------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class _Entry:
    """A source of this call: what identifies it, and its row in the store when it was ingested before."""

    source: Source
    layout: str
    content_hash: str
    options: dict[str, Any]
    stamp: tuple[int, int] | None
    known: dict[str, Any] | None = None

    def summary(self) -> SourceSummary:
        """Counts as recorded; zeros for a source that is still to be read."""
        made = SourceSummary(self.source.path, self.layout)
        if self.known:
            for name in ("n_rows", "n_samples", "n_duplicates", "n_rejects"):
                setattr(made, name, self.known[name])
            made.unchanged = True
        return made

    def check_unchanged(self) -> None:
        """Stop when the file was written to while it was read: its hash would name another content."""
        if self.stamp is not None and self.stamp != _stamp(self.source.path):
            raise InputError(f"`{self.source.path}` changed while it was read", "run the command again when it is done")


def _stamp(path: str) -> tuple[int, int] | None:
    if not Path(path).is_file():
        return None
    facts = Path(path).stat()
    return facts.st_size, facts.st_mtime_ns


def _entry(source: Source, layout: str, options: Mapping[str, Any]) -> _Entry:
    stamp = _stamp(source.path)
    return _Entry(source, layout, source.content_hash(), {"layout": layout, **options}, stamp)


def _match(entries: Sequence[_Entry], recorded: Sequence[dict[str, Any]]) -> None:
    """Find the sources that were ingested before: the same content with the same options, by path first.

    Path first, so that a file and its copy in one call keep their own counts; by content alone otherwise, so that a
    moved file is not read again.
    """
    free = {row["source_id"]: row for row in recorded}
    for by_path in (True, False):
        for entry in entries:
            if entry.known is not None:
                continue
            for source_id, row in free.items():
                same = row["content_hash"] == entry.content_hash and json.loads(row["options"]) == entry.options
                if same and (row["path"] == entry.source.path or not by_path):
                    entry.known = free.pop(source_id)
                    break


# samples --------------------------------------------------------------------------------------------------------------


def _ingest_samples(
    readers: Sequence[Reader],
    dataset: str,
    store: Path,
    *,
    options: Mapping[str, Any],
    draw: _Draw | None,
    split: str,
    report: Progress,
) -> IngestSummary:
    kind = "training" if draw is None else "validation"
    entries = [_entry(reader.source, reader.layout.name, options) for reader in readers]
    summary = IngestSummary(dataset, kind)
    with _open(store) as opened:
        found = opened.row("get_dataset", name=dataset)
        if found and found["kind"] != kind:
            raise UsageError(
                f"`{dataset}` is a {found['kind']} dataset, this would be a {kind} one",
                "choose another --dataset name" + ("" if draw else ", or add --validation"),
            )
        recorded = opened.rows("list_sources", dataset_id=found["dataset_id"]) if found else []
        recorded = [row for row in recorded if row["kind"] == "samples"]
        _match(entries, recorded)
        if draw is not None:
            summary.validation_set = _existing_validation_set(opened, dataset, draw, entries, recorded)
            if summary.validation_set:
                summary.sources = [entry.summary() for entry in entries]
                return summary
        if all(entry.known for entry in entries):
            summary.sources = [entry.summary() for entry in entries]
            return summary
        opened.run("limit_memory")
        with opened.transaction():
            dataset_id = found["dataset_id"] if found else _new_dataset(opened, dataset, kind)
            for reader, entry in zip(readers, entries, strict=True):
                one = entry.summary()
                if not one.unchanged:
                    _write_source(opened, dataset_id, reader, entry, one, split, report)
                summary.sources.append(one)
            if draw is not None:
                summary.validation_set = _draw_validation_set(opened, dataset_id, dataset, draw, summary)
    return summary


@contextlib.contextmanager
def _open(path: Path) -> Iterator[Store]:
    """The store of a call; a file that the call itself made and then failed to fill is removed again."""
    new = not path.exists()
    if new and not path.absolute().parent.is_dir():
        raise UsageError(f"the folder of the store `{path}` does not exist", "make it, or name another --store")
    with Store(path, create=True) as store:
        try:
            yield store
        except BaseException:
            # still held here, so no other process can have put anything into it
            if new and not store.rows("list_datasets"):
                path.unlink()
            raise


def _new_dataset(store: Store, name: str, kind: str) -> int:
    row = store.row("insert_dataset", name=name, kind=kind, created_at=now())
    assert row is not None
    return int(row["dataset_id"])


def _write_source(
    store: Store, dataset_id: int, reader: Reader, entry: _Entry, counts: SourceSummary, split: str, report: Progress
) -> None:
    source = store.row("next_source_id")
    first = store.row("next_position", dataset_id=dataset_id)
    assert source is not None
    assert first is not None
    ids = {"dataset_id": dataset_id, "source_id": source["source_id"]}
    position = first["position"]
    for batch in _batches(reader):
        n = batch.write(store, position, ids, entry.source.path, split, counts)
        position += n
        counts.n_rows += n
        done, total = entry.source.meter.done, entry.source.meter.total
        report(counts.path, counts.n_rows, counts.n_rows * total // done if done else 0)
    entry.check_unchanged()
    _record(store, ids, "samples", entry, counts, first["position"])


def _record(
    store: Store, ids: Mapping[str, int], kind: str, entry: _Entry, counts: SourceSummary, first_position: int | None
) -> None:
    store.run(
        "insert_source",
        **ids,
        path=entry.source.path,
        kind=kind,
        layout=entry.layout,
        content_hash=entry.content_hash,
        options=json.dumps(entry.options, sort_keys=True),
        first_position=first_position,
        n_rows=counts.n_rows,
        n_samples=counts.n_samples,
        n_duplicates=counts.n_duplicates,
        n_rejects=counts.n_rejects,
        ingested_at=now(),
    )


class _Batch:
    """Rows on their way into the store, column by column."""

    def __init__(self) -> None:
        self.n = 0
        self.n_bytes = 0
        self.rejects: list[tuple[int, BadRow]] = []
        self.offsets: list[int] = []
        self.lines: list[int] = []
        self.canonical: list[str] = []
        self.rejected: list[tuple[str, str] | None] = []
        self.attributes: list[str | None] = []

    def add(self, row: Parsed | BadRow) -> None:
        """Take a row; its place in the batch is its place in the source."""
        bad = row if isinstance(row, BadRow) else self._add_sample(row)
        if bad is not None:
            self.rejects.append((self.n, bad))
            self.n_bytes += len(bad.content)
        self.n += 1

    def _add_sample(self, row: Parsed) -> BadRow | None:
        sample = row.sample
        try:
            text, pair, attributes = _texts(sample)
        except (TypeError, UnicodeEncodeError):
            # orjson refuses what UTF-8 cannot write
            return BadRow(row.line, "half of a surrogate pair (\\ud800 to \\udfff) in the text", "")
        self.offsets.append(self.n)
        self.lines.append(row.line)
        self.canonical.append(text)
        self.rejected.append(pair)
        self.attributes.append(attributes)
        self.n_bytes += len(text)
        return None

    @property
    def full(self) -> bool:
        """Whether it is time to write."""
        return self.n >= BATCH_ROWS or self.n_bytes >= BATCH_BYTES

    def write(
        self, store: Store, position: int, ids: Mapping[str, int], path: str, split: str, counts: SourceSummary
    ) -> int:
        """Put the rows into the store, the first one at ``position``; returns how many."""
        if self.rejects:
            rejects = {
                "line": [row.line for _, row in self.rejects],
                "position": [position + offset for offset, _ in self.rejects],
                "reason": [row.reason for _, row in self.rejects],
                "content": [row.content for _, row in self.rejects],
            }
            counts.n_rejects += store.insert("insert_rejects", pa.table(rejects), **ids, source=path)
        if not self.canonical:
            return self.n
        sample_ids = _core.sample_ids(self.canonical)
        first = dict(zip(reversed(sample_ids), range(len(sample_ids) - 1, -1, -1), strict=True))
        repeated = [first[one] != place for place, one in enumerate(sample_ids)]
        incoming = pa.table(
            {
                "position": pa.array([position + offset for offset in self.offsets], pa.int64()),
                "line": pa.array(self.lines, pa.int64()),
                "sample_id": pa.array(sample_ids, pa.string()),
                "messages": pa.array(
                    [pair[0] if pair else text for text, pair in zip(self.canonical, self.rejected, strict=True)],
                    pa.large_string(),
                ),
                "rejected": pa.array([pair[1] if pair else None for pair in self.rejected], pa.large_string()),
                "attributes": pa.array(self.attributes, pa.string()),
                "repeated": pa.array(repeated, pa.bool_()),
            }
        )
        counts.n_duplicates += store.insert("insert_duplicates", incoming, **ids)
        counts.n_samples += store.insert("insert_dataset_samples", incoming, **ids, split=split)
        store.insert("insert_samples", incoming)
        return self.n


def _batches(rows: Reader) -> Iterator[_Batch]:
    batch = _Batch()
    for row in rows:
        batch.add(row)
        if batch.full:
            yield batch
            batch = _Batch()
    if batch.n:
        yield batch


def _texts(sample: Sample) -> tuple[str, tuple[str, str] | None, str | None]:
    """Canonical text; messages and refused answer apart, for a pair; attributes.

    Equals ``sample.canonical()``, in a fifth of the time; a test holds the two together.
    """
    attributes = None
    if sample.attributes:
        try:
            attributes = orjson.dumps(sample.attributes).decode()
        except TypeError:
            # integers beyond 64 bits
            attributes = json.dumps(sample.attributes, ensure_ascii=False)
            attributes.encode()
    messages = orjson.dumps(sample.messages, option=orjson.OPT_SORT_KEYS).decode()
    if sample.rejected is None:
        return messages, None, attributes
    rejected = orjson.dumps(sample.rejected, option=orjson.OPT_SORT_KEYS).decode()
    return f'{{"messages":{messages},"rejected":{rejected}}}', (messages, rejected), attributes


# validation sets ------------------------------------------------------------------------------------------------------


def _existing_validation_set(
    store: Store, name: str, draw: _Draw, entries: Sequence[_Entry], recorded: Sequence[dict[str, Any]]
) -> dict[str, Any] | None:
    """The validation set when this very one was made before; None when there is none of that name.

    Raises:
        UsageError: there is another one of that name: scores refer to it, so it cannot change.
    """
    row = store.row("get_validation_set", name=name)
    if row is None:
        return None
    hint = "choose another --dataset name; scores refer to the one that is there"
    if row["dataset_id"] is None:
        raise UsageError(f"the validation set `{name}` belongs to scores that were computed elsewhere", hint)
    fresh = [entry.source.path for entry in entries if entry.known is None]
    if fresh or len(entries) != len(recorded):
        what = (
            f"`{fresh[0]}` is new or changed"
            if fresh
            else f"it has {len(recorded)} sources, now {len(entries)} are given"
        )
        raise UsageError(f"the validation set `{name}` was made from other data: {what}", hint)
    was = f"{row['n_samples']} samples with seed {row['seed']}" if row["seed"] is not None else "all samples"
    same = row["seed"] is None if draw.n is None else (row["n_samples"], row["seed"]) == (draw.n, draw.seed)
    if not same:
        raise UsageError(f"the validation set `{name}` was drawn otherwise: {was}", hint)
    return {"name": name, "n_samples": row["n_samples"], "seed": row["seed"]}


def _draw_validation_set(
    store: Store, dataset_id: int, name: str, draw: _Draw, summary: IngestSummary
) -> dict[str, Any]:
    available = summary.n_samples
    if not available:
        raise InputError(f"no row of the sources can be used: {summary.n_rejects:,} rejects", "check --format or --map")
    if draw.n is not None and draw.n > available:
        raise UsageError(
            f"{draw.n:,} samples were asked for, the sources have {available:,}", "give a smaller --sample"
        )
    n, seed = (available, None) if draw.n is None else (draw.n, draw.seed)
    row = store.row("insert_validation_set", name=name, dataset_id=dataset_id, n_samples=n, seed=seed, created_at=now())
    assert row is not None
    ids = {"validation_set_id": row["validation_set_id"], "dataset_id": dataset_id}
    store.run("draw_validation_samples", **ids, seed=draw.seed, n=n)
    store.run("mark_validation_samples", **ids)
    return {"name": name, "n_samples": n, "seed": seed}


# scores ---------------------------------------------------------------------------------------------------------------


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
        delete="delete_replaced_difficulty",
        insert="insert_resolved_difficulty",
    ),
    _Group(
        "influence",
        "influence",
        ("dot",),
        delete="delete_replaced_influence",
        insert="insert_resolved_influence",
        of_model=True,
        of_set=True,
    ),
    _Group(
        "perplexity",
        "perplexity",
        ("perplexity",),
        delete="delete_replaced_perplexity",
        insert="insert_resolved_perplexity",
        of_model=True,
        key="text",
    ),
    _Group(
        "similarity",
        "similarity",
        ("similarity",),
        delete="delete_replaced_similarity",
        insert="insert_resolved_similarity",
        of_set=True,
        key="text",
    ),
)


def _ingest_scores(
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
        _log.warning(text)
    options = {"model": model, "validation_set": validation_set, "replace": replace}
    entries = [_entry(reader.source, "scores", options | {"columns": dict(reader.columns)}) for reader in readers]
    with Store(store) as opened:
        dataset_id = opened.dataset(dataset)["dataset_id"]
        recorded = opened.rows("list_sources", dataset_id=dataset_id)
        _match_scores(entries, recorded, replace=replace)
        if not all(entry.known for entry in entries):
            opened.run("limit_memory")
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


def _match_scores(entries: Sequence[_Entry], recorded: Sequence[dict[str, Any]], *, replace: bool) -> None:
    """Find the score files that were ingested before and would fare the same today."""
    last_samples = max((row["source_id"] for row in recorded if row["kind"] == "samples"), default=0)
    files = [row for row in recorded if row["kind"] == "scores"]
    # rejects may have found their sample since, when the dataset grew
    _match(entries, [row for row in files if row["source_id"] > last_samples or not row["n_rejects"]])
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
    entry: _Entry,
    counts: SourceSummary,
    model: str | None,
    validation_set: str,
    replace: bool,
    report: Progress,
) -> None:
    source = store.row("next_source_id")
    assert source is not None
    store.run("create_incoming_scores")
    for table in reader.tables():
        counts.n_rows += store.insert("insert_incoming_scores", table)
        done, total = entry.source.meter.done, entry.source.meter.total
        report(counts.path, counts.n_rows, counts.n_rows * total // done if done else 0)
    entry.check_unchanged()

    model_id = _model_id(store, model) if model else None
    found = store.row("get_validation_set", name=validation_set)
    set_id = found["validation_set_id"] if found else None
    runs: dict[str, int | None] = {}
    for group in _GROUPS:
        known = store.row("get_run_by_fingerprint", fingerprint=_fingerprint(group, model_id))
        runs[group.name] = known["run_id"] if known else None
    store.run("create_resolved_scores")
    store.run(
        "resolve_scores",
        dataset_id=dataset_id,
        validation_set_id=set_id,
        replace=replace,
        **{f"{name}_run": run_id for name, run_id in runs.items()},
    )
    result = store.row("count_resolved_scores")
    assert result is not None
    for name in ("n_rows", "n_samples", "n_duplicates", "n_rejects"):
        setattr(counts, name, result[name])
    for group in _GROUPS:
        if result[group.name]:
            set_id = _write_group(store, dataset_id, group, model, model_id, validation_set, set_id)
    ids = {"dataset_id": dataset_id, "source_id": source["source_id"]}
    store.run("insert_score_rejects", **ids, source=entry.source.path)
    _record(store, ids, "scores", entry, counts, None)


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
            "insert_validation_set", name=validation_set, dataset_id=None, n_samples=None, seed=None, created_at=now()
        )
        assert row is not None
        set_id = int(row["validation_set_id"])
    run_id = store.open_run(
        kind=group.kind,
        method=EXTERNAL,
        model_id=model_id if group.of_model else None,
        fingerprint=_fingerprint(group, model_id),
        settings={"scores": group.scores},
        environment={},
    )
    store.start_scoring(run_id, dataset_id)
    ids: dict[str, Any] = {"run_id": run_id}
    if group.of_set:
        ids["validation_set_id"] = set_id
        store.run("insert_run_validation_set", **ids)
    store.run(group.delete, **ids)
    store.run(group.insert, **ids)
    store.seal(run_id, dataset_id)
    return set_id


def _model_id(store: Store, name: str) -> str:
    row = store.row("find_model", name=name)
    return str(row["model_id"]) if row else f"{EXTERNAL}:{name}"


def _fingerprint(group: _Group, model_id: str | None) -> str:
    """The same for every score file of one model, so that several files fill one run."""
    owner = model_id if group.of_model else None
    return run_fingerprint(group.key or group.kind, EXTERNAL, owner, {"scores": list(group.scores)})
