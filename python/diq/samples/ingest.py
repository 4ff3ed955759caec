"""The stage ``diq ingest``: samples, validation sets and scores enter the store, each call in one transaction.

A call that fails or is killed leaves nothing behind; the same call again reads nothing twice.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from diq.base.errors import UsageError
from diq.base.progress import Progress
from diq.formats import Reader, open_sources
from diq.formats.scores import open_scores
from diq.formats.sources import find_sources
from diq.samples.batches import write_source
from diq.samples.ingest_scores import ingest_scores
from diq.samples.sources import IngestSummary, make_entry, match_recorded, new_dataset, open_or_create
from diq.samples.validation import Draw, draw_validation_set, existing_validation_set

log = logging.getLogger("diq.ingest")


def ingest(
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
        return ingest_scores(
            readers, dataset, Path(store), model=model, validation_set=validation_set, replace=replace, report=report
        )
    return _ingest_samples(
        open_sources(sources, format=format, map=map, split=split, drop_reasoning=drop_reasoning),
        dataset,
        Path(store),
        options={"map": dict(map) if map else None, "split": split, "drop_reasoning": drop_reasoning},
        draw=Draw(sample, seed) if validation else None,
        split="unused" if validation else split or "train",
        report=report,
    )


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


# samples --------------------------------------------------------------------------------------------------------------


def _ingest_samples(
    readers: Sequence[Reader],
    dataset: str,
    store: Path,
    *,
    options: Mapping[str, Any],
    draw: Draw | None,
    split: str,
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
        opened.run("samples/limit_memory")
        with opened.transaction():
            dataset_id = found["dataset_id"] if found else new_dataset(opened, dataset, kind)
            for reader, entry in zip(readers, entries, strict=True):
                one = entry.summary()
                if not one.unchanged:
                    write_source(opened, dataset_id, reader, entry, one, split, report)
                summary.sources.append(one)
            if draw is not None:
                summary.validation_set = draw_validation_set(opened, dataset_id, dataset, draw, summary)
    return summary
