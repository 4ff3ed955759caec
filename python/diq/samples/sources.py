"""Sources of a call: what is known of them already, and what became of their rows."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from diq.base.errors import InputError, UsageError
from diq.base.sample import Message
from diq.base.summary import Summary
from diq.formats.sources import Source
from diq.store.store import Store, now


@dataclass(slots=True)
class SourceSummary:
    """What became of the rows of one source; ``n_rows`` is the sum of the other three.

    Of a source that was read by this call: ``columns`` is column to role, as seen in the first rows; ``unused`` counts
    by column the rows whose text in it is in no sample; ``example`` is the first sample, as messages;
    ``reasons`` counts the commonest reasons of its rejects.
    """

    path: str
    layout: str
    n_rows: int = 0
    n_samples: int = 0
    n_duplicates: int = 0
    n_rejects: int = 0
    unchanged: bool = False
    columns: dict[str, str] = field(default_factory=dict)
    unused: dict[str, int] = field(default_factory=dict)
    example: list[Message] | None = None
    reasons: dict[str, int] = field(default_factory=dict)


@dataclass(slots=True, repr=False)
class IngestSummary(Summary):
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


@dataclass(slots=True)
class Entry:
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


def make_entry(source: Source, layout: str, options: Mapping[str, Any]) -> Entry:
    stamp = _stamp(source.path)
    return Entry(source, layout, source.content_hash(), {"layout": layout, **options}, stamp)


def match_recorded(entries: Sequence[Entry], recorded: Sequence[dict[str, Any]]) -> None:
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


@contextlib.contextmanager
def open_or_create(path: Path) -> Iterator[Store]:
    """The store of a call; a file that the call itself made and then failed to fill is removed again."""
    new = not path.exists()
    if new and not path.absolute().parent.is_dir():
        raise UsageError(f"the folder of the store `{path}` does not exist", "make it, or name another --store")
    with Store(path, create=True) as store:
        try:
            yield store
        except BaseException:
            # still held here, so no other process can have put anything into it
            if new and not store.rows("store/list_datasets"):
                path.unlink()
            raise


def new_dataset(store: Store, name: str, kind: str) -> int:
    row = store.row("samples/insert_dataset", name=name, kind=kind, created_at=now())
    assert row is not None
    return int(row["dataset_id"])


def record_source(
    store: Store, ids: Mapping[str, int], kind: str, entry: Entry, counts: SourceSummary, first_position: int | None
) -> None:
    store.run(
        "samples/insert_source",
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
    found = store.rows("samples/reject_reasons", source_id=ids["source_id"])
    counts.reasons = {row["reason"]: row["n"] for row in found}
