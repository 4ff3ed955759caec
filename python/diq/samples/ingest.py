"""The stage ``diq ingest``: samples, validation sets and scores enter the store, each call in one transaction.

A call that fails or is killed leaves nothing behind; the same call again reads nothing twice.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from diq.base.errors import UsageError
from diq.base.options import verb
from diq.base.progress import Progress
from diq.base.text import amount
from diq.formats import NOT_USED, Reader, open_sources
from diq.formats.scores import open_scores
from diq.formats.sources import find_sources
from diq.samples.batches import Memory, write_source
from diq.samples.ingest_scores import ingest_scores
from diq.samples.options import IngestOptions
from diq.samples.sources import (
    IngestSummary,
    SourceSummary,
    make_entry,
    match_recorded,
    new_dataset,
    open_or_create,
)
from diq.samples.validation import Draw, draw_validation_set, existing_validation_set

log = logging.getLogger("diq.ingest")


@verb(IngestOptions)
def ingest(options: IngestOptions) -> IngestSummary:
    """Read files, folders or hub ids into a dataset, a validation set, or the scores of a dataset.

    Raises:
        UsageError: the request is wrong; nothing is written.
        InputError: a source cannot be read as a whole; nothing of the call is written.
        StoreError: the store cannot be opened or written; nothing of the call is written.
    """
    # a single one is a list of one already
    sources = options.sources if isinstance(options.sources, tuple) else (str(options.sources),)
    report = options.progress or (lambda *_: None)
    if options.scores:
        readers = [open_scores(source, options.map) for source in find_sources(sources, split=options.split)]
        return ingest_scores(
            readers,
            options.dataset,
            options.store_file,
            model=options.model,
            validation_set=options.validation_set,
            replace=options.replace,
            report=report,
        )
    return _ingest_samples(
        open_sources(
            sources,
            format=options.format,
            map=options.map,
            split=options.split,
            drop_reasoning=options.drop_reasoning,
        ),
        options.dataset,
        options.store_file,
        options={
            "map": dict(options.map) if options.map else None,
            "split": options.split,
            "drop_reasoning": options.drop_reasoning,
        },
        draw=Draw(options.sample, options.seed) if options.validation else None,
        split="unused" if options.validation else options.split,
        report=report,
    )


# samples --------------------------------------------------------------------------------------------------------------


def _ingest_samples(
    readers: Sequence[Reader],
    dataset: str,
    store: Path,
    *,
    options: Mapping[str, Any],
    draw: Draw | None,
    split: str | None,
    report: Progress,
) -> IngestSummary:
    kind = "training" if draw is None else "validation"
    entries = [make_entry(reader.source, reader.layout.name, options) for reader in readers]
    summary = IngestSummary(dataset, kind)
    with open_or_create(store) as opened:
        found = opened.row("store/get_dataset", name=dataset)
        if found and found["kind"] != kind:
            raise UsageError(
                f"`{dataset}` is a {found['kind']} dataset, this would be a {kind} one",
                "choose another --dataset name" + ("" if draw else ", or add --validation"),
            )
        recorded = opened.rows("store/list_sources", dataset_id=found["dataset_id"]) if found else []
        recorded = [row for row in recorded if row["kind"] == "samples"]
        match_recorded(entries, recorded)
        if draw is not None:
            summary.validation_set = existing_validation_set(opened, dataset, draw, entries, recorded)
            if summary.validation_set:
                summary.sources = [entry.summary() for entry in entries]
                return summary
        if all(entry.known for entry in entries):
            summary.sources = [entry.summary() for entry in entries]
            return summary
        memory = Memory(opened)
        with opened.transaction():
            dataset_id = found["dataset_id"] if found else new_dataset(opened, dataset, kind)
            for reader, entry in zip(readers, entries, strict=True):
                one = entry.summary()
                if not one.unchanged:
                    part = split or reader.source.split or "train"
                    write_source(opened, memory, dataset_id, reader, entry, one, part, report)
                    _understand(reader, one, summary.warnings)
                summary.sources.append(one)
            if draw is not None:
                summary.validation_set = draw_validation_set(opened, dataset_id, dataset, draw, summary)
    for text in summary.warnings:
        log.warning("%s", text)
    return summary


def _understand(reader: Reader, found: SourceSummary, warnings: list[str]) -> None:
    """Tell how the columns of a source were read, and what of their text is in no sample."""
    found.columns = dict(reader.roles)
    found.example = None if reader.example is None else reader.example.messages
    lost = reader.lost.counts
    found.unused = {name: lost[name] for name in (*reader.roles, *lost) if lost[name]}
    # a text may come later than the first rows
    found.columns |= {name: NOT_USED for name in found.unused if name not in found.columns}
    if found.unused:
        names = ", ".join(
            f"`{name}`" + (f" in {n:,} of {amount(found.n_rows, 'row')}" if 2 * n < found.n_rows else "")
            for name, n in found.unused.items()
        )
        warnings.append(
            f"`{found.path}`: no role of layout {found.layout} uses the text of {names}: "
            "--map ROLE=COLUMN,... takes columns by name, or leave it as it is"
        )
    if found.n_rows and not found.n_samples and not found.n_duplicates:
        warnings.append(
            f"`{found.path}`: none of its {amount(found.n_rows, 'row')} is a sample in layout {found.layout} "
            f"(first of all: {next(iter(found.reasons), '')}): --format names another, --map its columns"
        )
    warnings += [f"`{found.path}`: {note}" for note in (*reader.notes, *reader.source.meter.notes)]
