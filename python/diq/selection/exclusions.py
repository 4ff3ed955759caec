"""Select: what guards leave out. A guard reads the dataset once, records what it found and is found again by its run.

Nothing is deleted: excluded samples stay in the store, and a selection without the guard takes them as before.
"""

from __future__ import annotations

import functools
import glob
import json
import platform
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import orjson
import pyarrow as pa

from diq import _core
from diq.base.arrow import numbers
from diq.base.errors import InputError, RunFailedError, UsageError
from diq.base.fingerprint import canonical_json, run_fingerprint
from diq.base.progress import Progress
from diq.base.sample import Message
from diq.base.text import amount, check_choice, did_you_mean
from diq.formats import Reader, open_sources
from diq.formats.rows import BadRow
from diq.selection import guards
from diq.selection.guards import ExactCopies, Exclusion, NearCopies, Overlaps, Question
from diq.selection.outliers import Outliers, find_outliers
from diq.store.connection import WAIT_S
from diq.store.store import Store

DEDUPES = ("exact", "near")
# raised when a guard would find something else with the same settings
VERSION = 1
_READ_ROWS = 10_000
_WRITE_ROWS = 100_000
_EXAMPLES = 3


@dataclass(frozen=True, slots=True)
class Guard:
    """A guard that ran, now or earlier on the same data.

    Attributes:
        run_id: its run, whose rows in the table `exclusions` tell every sample and why.
        method: exact, near, decontaminate, outliers or diverse.
        n_excluded: samples of the dataset that it leaves out.
        details: its settings, counts, and the first few exclusions.
    """

    run_id: int
    method: str
    n_excluded: int
    details: dict[str, Any]


@dataclass(slots=True)
class _Benchmarks:
    """The questions that no sample may repeat, and where they come from."""

    names: list[str] = field(default_factory=list)
    questions: list[Question] = field(default_factory=list)
    unreadable: dict[str, int] = field(default_factory=dict)

    def add(self, name: str, rows: Iterator[tuple[int, Sequence[Message]]], place: str) -> None:
        """Take one benchmark; ``place`` is what its row numbers count."""
        number = len(self.names)
        self.names.append(name)
        self.questions += [
            Question(number, f"{place} {row}", row, guards.question_text(messages)) for row, messages in rows
        ]

    def digest(self) -> str:
        """Changes with any name, row or text."""
        lines = [f"{self.names[one.benchmark]}\x1f{one.row}\x1f{one.text}" for one in self.questions]
        return _core.sample_ids(["\x1e".join([*_core.sample_ids(lines), *self.names])])[0]


def find_exclusions(
    store: Path,
    dataset: str,
    *,
    dedupe: str | None = None,
    near_threshold: float = 0.8,
    decontaminate: Sequence[str] = (),
    ngram: int = 13,
    min_share: float = 0.0,
    outliers: Outliers | None = None,
    progress: Progress | None = None,
) -> list[Guard]:
    """Run the guards that were asked for, each over the whole dataset; those that ran before are only looked up.

    Args:
        store: the DuckDB file; open only while it is read or written.
        dataset: whose samples are checked.
        dedupe: ``exact``: leave out samples that repeat an earlier one up to case, Unicode form and white space;
            ``near``: also those whose 5-word shingles have a Jaccard similarity of ``near_threshold`` with an earlier
            kept sample's.
        near_threshold: in (0, 1].
        decontaminate: datasets or validation sets of the store, files, folders or hub ids, whose questions no sample
            may repeat; the questions of all validation sets of the store come along.
        ngram: words in a row that a sample must share with a question.
        min_share: share of the question's words that must lie in such runs; 0: one run is enough.
        outliers: quantile of the gradient norms above which samples are left out, and the run that has them.
        progress: called after every batch.

    Returns:
        One entry a guard: dedupe, decontaminate, outliers.

    Raises:
        UsageError: an option or a name is wrong, or `rensa` is missing; nothing is written.
        MissingScoresError: a gradient norm is missing.
        InputError: a benchmark cannot be read.
        StoreError: the store cannot be read or written.
        RunFailedError: the dataset changed meanwhile.
    """
    check_choice("--dedupe", dedupe, DEDUPES)
    if not 0 < near_threshold <= 1:
        raise UsageError(f"the near threshold {near_threshold} is outside (0, 1]", "give a Jaccard similarity, as 0.8")
    if ngram < 1:
        raise UsageError(f"an n-gram of {ngram} words matches nothing", "give 1 or more; 13 is usual")
    if not 0 <= min_share <= 1:
        raise UsageError(
            f"the share {min_share} of a question is outside [0, 1]", "give 0 for any shared run, or as 0.5"
        )
    report = progress or (lambda *_: None)
    found = []
    if dedupe is not None:
        settings: dict[str, Any] = {}
        if dedupe == "near":
            # small words: a character where a script puts no spaces
            settings = {"threshold": near_threshold, "shingle_words": guards.SHINGLE_WORDS, "words": "small"}
            settings |= {"n_hashes": guards.N_HASHES, "recall": guards.RECALL, "seed": guards.SEED}
        find = functools.partial(_find_copies, near_threshold=near_threshold if dedupe == "near" else None)
        found.append(_guard(store, dataset, dedupe, settings, find, report))
    if decontaminate:
        benchmarks = _read_benchmarks(store, dataset, decontaminate)
        settings = {
            "ngram": ngram,
            "min_share": min_share,
            "shortest_question": min(guards.SHORTEST_QUESTION, ngram),
            "most_questions": guards.MOST_QUESTIONS,
            "benchmarks": benchmarks.names,
            "questions": benchmarks.digest(),
        }
        find = functools.partial(_find_overlaps, benchmarks=benchmarks, ngram=ngram, min_share=min_share)
        found.append(_guard(store, dataset, "decontaminate", settings, find, report, asked=decontaminate))
    if outliers is not None:
        with Store(store, read_only=True, wait_s=WAIT_S) as opened:
            # other norms are another guard
            scores = _digest(opened, opened.dataset(dataset)["dataset_id"], outliers.run_id)
        settings = {"quantile": outliers.quantile, "run": outliers.run_id, "scores": scores}
        find = functools.partial(_find_outliers, dataset=dataset, asked=outliers)
        found.append(_guard(store, dataset, "outliers", settings, find, report))
    return found


# runs -----------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Data:
    """A dataset as a guard reads it."""

    store: Path
    dataset_id: int
    n_samples: int
    digest: str
    method: str
    report: Progress

    def batches(self) -> Iterator[tuple[npt.NDArray[np.int64], list[list[Message]]]]:
        """Positions and texts of all samples, a batch at a time, in no particular order."""
        done = 0
        with (
            Store(self.store, read_only=True, wait_s=WAIT_S) as opened,
            opened.batches("selection/texts_of_dataset", rows=_READ_ROWS, dataset_id=self.dataset_id) as stream,
        ):
            for batch in stream:
                yield _decoded(batch)
                done += batch.num_rows
                self.report(f"{self.method} guard", done, self.n_samples)

    def at(self, positions: npt.NDArray[np.int64]) -> list[list[Message]]:
        """Texts of some samples, in the order of ``positions``, which ascend."""
        with Store(self.store, read_only=True, wait_s=WAIT_S) as opened:
            found = opened.arrow("store/texts_at_positions", dataset_id=self.dataset_id, positions=positions.tolist())
        read, texts = _decoded(found)
        if not np.array_equal(np.sort(read), positions):
            raise _changed()
        return [texts[row] for row in np.argsort(read)]


def _decoded(batch: Any) -> tuple[npt.NDArray[np.int64], list[list[Message]]]:
    texts = []
    for messages, rejected in zip(
        batch.column("messages").to_pylist(), batch.column("rejected").to_pylist(), strict=True
    ):
        own = orjson.loads(messages)
        # two pairs that share the chosen answer are two samples
        texts.append(own + orjson.loads(rejected) if rejected else own)
    return numbers(batch.column("position")), texts


def _changed() -> RunFailedError:
    return RunFailedError("the dataset changed while a guard read it", "run the same command again")


def _digest(store: Store, dataset_id: int, influence_run: int | None = None) -> str:
    ids = {"dataset_id": dataset_id, "influence_run": influence_run}
    row = store.row("selection/digest_scores", **ids, difficulty_run=None, score_run=None)
    assert row is not None
    return str(row["digest"])


def _guard(
    store: Path,
    dataset: str,
    method: str,
    settings: Mapping[str, Any],
    find: Any,
    report: Progress,
    *,
    asked: Sequence[str] = (),
) -> Guard:
    """The guard's run on the data as they are: found, or made in one transaction.

    What was asked for in words is kept beside what it came to, so that the command can be told again.
    """
    with Store(store, read_only=True, wait_s=WAIT_S) as opened:
        row = opened.dataset(dataset)
        data = _Data(store, row["dataset_id"], row["n_samples"], _digest(opened, row["dataset_id"]), method, report)
        full = {"version": VERSION, "dataset": data.dataset_id, "data": data.digest, **settings}
        fingerprint = run_fingerprint("guard", method, None, full)
        known = _known(opened, fingerprint)
    if known is not None:
        return known
    exclusions, counts = find(data)
    details = {
        **settings,
        **({"asked": list(asked)} if asked else {}),
        "n_samples": data.n_samples,
        **counts,
        "examples": [{"position": one.position, "reason": one.reason} for one in exclusions[:_EXAMPLES]],
    }
    with Store(store, wait_s=WAIT_S) as opened, opened.transaction():
        # another process may have been faster, or have added samples
        known = _known(opened, fingerprint)
        if known is not None:
            return known
        if _digest(opened, data.dataset_id) != data.digest:
            raise _changed()
        run_id = opened.open_run(
            kind="guard",
            method=method,
            model_id=None,
            fingerprint=fingerprint,
            settings=full,
            environment=_environment(),
        )
        opened.start_scoring(run_id, data.dataset_id)
        for start in range(0, len(exclusions), _WRITE_ROWS):
            opened.insert(
                "selection/insert_exclusions",
                exclusion_table(exclusions[start : start + _WRITE_ROWS]),
                run_id=run_id,
                dataset_id=data.dataset_id,
            )
        result = {"n_excluded": len(exclusions), "details": details}
        opened.run("store/update_run_result", run_id=run_id, result=canonical_json(result))
        opened.seal(run_id, data.dataset_id)
    return Guard(run_id, method, len(exclusions), details)


def _known(store: Store, fingerprint: str) -> Guard | None:
    row = store.row("store/get_run_by_fingerprint", fingerprint=fingerprint)
    if row is None:
        return None
    result = json.loads(row["result"])
    return Guard(int(row["run_id"]), row["method"], result["n_excluded"], result["details"])


def _environment() -> dict[str, str]:
    facts = {"python": platform.python_version(), "unicode": unicodedata.unidata_version}
    for package in ("diq", "rensa"):
        try:
            facts[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return facts


def exclusion_table(exclusions: Sequence[Exclusion]) -> pa.Table:
    """What the query ``insert_exclusions`` reads."""
    return pa.table(
        {
            "position": pa.array([one.position for one in exclusions], pa.int64()),
            "reason": pa.array([one.reason for one in exclusions], pa.string()),
            "kept": pa.array([one.kept for one in exclusions], pa.int64()),
            "matched": pa.array([one.matched for one in exclusions], pa.string()),
            "similarity": pa.array([one.similarity for one in exclusions], pa.float64()),
        }
    )


# repeats --------------------------------------------------------------------------------------------------------------


def _find_copies(data: _Data, *, near_threshold: float | None) -> tuple[list[Exclusion], dict[str, Any]]:
    counts: dict[str, Any] = {}
    if near_threshold is None:
        exact = ExactCopies()
        for positions, texts in data.batches():
            exact.add(positions, texts)
        found = exact.found()
    else:
        near = NearCopies(near_threshold)
        for positions, texts in data.batches():
            near.add(positions, [guards.plain_text(messages) for messages in texts])
        found = []
        n_candidates = 0
        for positions, keys in near.candidates():
            n_candidates += len(positions)
            found += near.found(positions, keys, [guards.plain_text(messages) for messages in data.at(positions)])
        found.sort(key=lambda one: one.position)
        counts = {
            "bands": near.bands,
            "band_hashes": near.length,
            "recall_at_threshold": guards.recall(near_threshold, near.bands, near.length),
            "n_candidates": n_candidates,
        }
    return found, {**counts, "n_groups": len({one.kept for one in found})}


def _find_outliers(data: _Data, *, dataset: str, asked: Outliers) -> tuple[list[Exclusion], dict[str, Any]]:
    with Store(data.store, read_only=True, wait_s=WAIT_S) as opened:
        return find_outliers(opened, opened.dataset(dataset), asked)


# benchmarks -----------------------------------------------------------------------------------------------------------


def _find_overlaps(
    data: _Data, *, benchmarks: _Benchmarks, ngram: int, min_share: float
) -> tuple[list[Exclusion], dict[str, Any]]:
    overlaps = Overlaps(benchmarks.questions, benchmarks.names, ngram, min_share)
    for positions, texts in data.batches():
        overlaps.add(positions, [guards.plain_text(messages) for messages in texts])
    counts = dict(overlaps.counts())
    for one in counts["benchmarks"]:
        one["n_unreadable"] = benchmarks.unreadable.get(one["name"], 0)
    return overlaps.found(), counts


def _read_benchmarks(store: Path, dataset: str, arguments: Sequence[str]) -> _Benchmarks:
    """The questions of every benchmark that was named, then those of every validation set of the store."""
    found = _Benchmarks()
    files = []
    with Store(store, read_only=True, wait_s=WAIT_S) as opened:
        row = opened.dataset(dataset)
        datasets = {one["name"]: one["dataset_id"] for one in opened.rows("store/list_datasets")}
        sets = opened.rows("store/list_validation_sets")
        hashes = {one["content_hash"] for one in opened.rows("store/list_sources", dataset_id=row["dataset_id"])}
        taken = set()
        for name in dict.fromkeys(arguments):
            if name == dataset:
                raise UsageError(
                    f"`{name}` is the dataset that is checked: every sample would repeat itself",
                    "name a benchmark; --dedupe finds repeats inside a dataset",
                )
            if name in datasets:
                taken.add(datasets[name])
                found.add(
                    name, _questions(opened, "selection/questions_of_dataset", dataset_id=datasets[name]), "position"
                )
            elif name in {one["name"] for one in sets if one["dataset_id"] is None}:
                raise UsageError(
                    f"the validation set `{name}` belongs to scores that were computed elsewhere: it has no questions",
                    "name the file with its questions",
                )
            elif name not in {one["name"] for one in sets}:
                files += _open_benchmark(name, dataset, hashes, [*datasets, *(one["name"] for one in sets)])
        for one in sets:
            # scores that were computed elsewhere come without questions
            if one["dataset_id"] is not None and one["dataset_id"] not in taken:
                ids = {"validation_set_id": one["validation_set_id"]}
                found.add(one["name"], _questions(opened, "selection/questions_of_validation_set", **ids), "position")
    for reader in files:
        found.add(reader.source.path, _rows(reader, found.unreadable), "line")
    return found


def _questions(store: Store, query: str, **ids: int) -> Iterator[tuple[int, list[Message]]]:
    with store.batches(query, rows=_READ_ROWS, **ids) as stream:
        for batch in stream:
            for position, messages in zip(
                batch.column("position").to_pylist(), batch.column("messages").to_pylist(), strict=True
            ):
                yield position, orjson.loads(messages)


def _open_benchmark(name: str, dataset: str, hashes: set[str], known: Sequence[str]) -> list[Reader]:
    if not Path(name).exists() and not glob.has_magic(name) and "/" not in name:
        hint = did_you_mean(name, known) or "name a dataset or validation set of the store, or a file"
        raise UsageError(f"`{name}` is no dataset, no validation set and no file", hint)
    readers = open_sources([name])
    for reader in readers:
        if reader.source.content_hash() in hashes:
            raise UsageError(
                f"`{reader.source.path}` is a source of `{dataset}`: every sample would repeat itself",
                "name a benchmark; --dedupe finds repeats inside a dataset",
            )
    return readers


def _rows(reader: Reader, unreadable: dict[str, int]) -> Iterator[tuple[int, list[Message]]]:
    n_bad = n = 0
    for row in reader:
        if isinstance(row, BadRow):
            n_bad += 1
            continue
        n += 1
        yield row.line, row.sample.messages
    if not n:
        raise InputError(
            f"none of the {amount(n_bad, 'row')} of `{reader.source.path}` can be used", "check its layout"
        )
    unreadable[reader.source.path] = n_bad
