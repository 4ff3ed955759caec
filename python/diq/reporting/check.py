"""Stage: what of a store, and of the files that it points to, is not what was written.

It stands in this room because it says what a store holds, and looks into nearly every room below.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import duckdb
import orjson

from diq import _core
from diq.base import config
from diq.base.command import quoted
from diq.base.errors import StoreError
from diq.base.fingerprint import canonical_json
from diq.base.progress import Progress
from diq.base.summary import Summary
from diq.base.text import amount, first_line
from diq.evaluation import generations
from diq.gradient_index import kept
from diq.influence import factors
from diq.selection.ranking import damaged_rankings, forget_ranking
from diq.store import queries
from diq.store.store import Store

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Finding:
    """Something that is not what was written.

    Attributes:
        part: table, file, ranking or run.
        problem: what is wrong with it.
        remedy: what makes it whole again.
        state: ``damaged``, ``repaired`` (marked so that the next command makes it again), or ``note``: nothing is
            lost, but it is worth knowing.
    """

    part: str
    problem: str
    remedy: str
    state: str = "damaged"


@dataclass(frozen=True, slots=True, repr=False)
class Check(Summary):
    """What was looked at, and what was found.

    Attributes:
        store: the store.
        n_tables: tables that were read whole.
        n_samples: samples whose text was compared with their id.
        n_files: files that were compared with their checksum.
        n_rankings: rankings whose rows were compared with their fingerprint.
        findings: what is not as it was written.
        seconds: that it took.
    """

    store: str
    n_tables: int = 0
    n_samples: int = 0
    n_files: int = 0
    n_rankings: int = 0
    findings: list[Finding] = field(default_factory=list)
    seconds: float = 0.0

    @property
    def n_damaged(self) -> int:
        """Findings that are damage, and were not repaired."""
        return sum(one.state == "damaged" for one in self.findings)


def check(
    *, store: str | os.PathLike[str] | None = None, repair: bool = False, progress: Progress | None = None
) -> Check:
    """Compare a store, and the files that it points to, with what was written.

    Every block of every table is read, every sample's text is hashed again, rankings are compared with their
    fingerprints, and gradients, factors and answers with their checksums. The store is only read without ``repair``.

    Args:
        store: the store file; default ``$DIQ_STORE``, else ``diq.duckdb``.
        repair: mark what can be made again (gradients, factors, answers, rankings, runs that lack scores) as missing,
            so that the command that made it does so. Nothing that is whole is touched, and no text is changed.
        progress: called with what is done and to do.

    Raises:
        StoreError: there is no store, it cannot be opened at all, or another process holds it for longer than ten
            seconds.
    """
    started = time.monotonic()
    path = config.store_path(store)
    checker = _Checker(path, repair, progress or (lambda *_: None))
    findings = [*checker.tables()]
    if not findings:
        # what reads rows would meet a damaged block again
        for part in (checker.schema, checker.samples, checker.rankings, checker.runs, checker.selections):
            findings += part()
        findings += checker.files()
    return Check(
        store=str(path),
        findings=findings,
        seconds=time.monotonic() - started,
        **checker.counts,
    )


class _Checker:
    def __init__(self, path: Path, repair: bool, report: Progress) -> None:
        self.path, self.repair, self.report = path, repair, report
        self.counts = dict.fromkeys(("n_tables", "n_samples", "n_files", "n_rankings"), 0)

    # the file --------------------------------------------------------------------------------------------------------

    def tables(self) -> Iterator[Finding]:
        """Tables of which a block cannot be read."""
        with Store(self.path, read_only=True) as opened:
            names = [row["table_name"] for row in opened.rows("reporting/list_tables_to_read")]
        for number, name in enumerate(names):
            self.report("tables", number, len(names))
            try:
                # a damaged block may make the whole connection unusable
                with Store(self.path, read_only=True) as opened:
                    # each column whole, whatever its type
                    opened.connection.execute(f'SELECT bit_xor(hash(COLUMNS(*))) FROM "{name}"').fetchall()
            except StoreError as error:
                cause = error.__cause__ if isinstance(error.__cause__, duckdb.Error) else error
                yield Finding(f"table {name}", first_line(cause), _REMEDIES.get(name, _FROM_A_COPY))
                continue
            self.counts["n_tables"] += 1

    def schema(self) -> Iterator[Finding]:
        """Columns that are missing, or of another type."""
        with duckdb.connect() as fresh:
            fresh.execute(queries.schema())
            fresh.execute(queries.macros())
            query = queries.query("reporting/list_columns")
            wanted = {row[:2]: row[2] for row in fresh.execute(query).fetchall()}
        with Store(self.path, read_only=True) as opened:
            have = {(row["table_name"], row["column_name"]): row["data_type"] for row in opened.rows(
                "reporting/list_columns"
            )}  # fmt: skip
        for (table, column), kind in wanted.items():
            found = have.get((table, column))
            if found != kind:
                what = "is missing" if found is None else f"is {found}, not {kind}"
                yield Finding(f"column {table}.{column}", what, _FROM_A_COPY)

    def samples(self) -> Iterator[Finding]:
        """Samples whose text is not that of their id."""
        wrong: list[str] = []
        with (
            Store(self.path, read_only=True) as opened,
            opened.batches("reporting/texts_of_samples") as batches,
        ):
            for batch in batches:
                rows = batch.to_pylist()
                ids = _core.sample_ids([_canonical(row) for row in rows])
                wrong += [row["sample_id"] for row, made in zip(rows, ids, strict=True) if row["sample_id"] != made]
                self.counts["n_samples"] += len(rows)
                self.report("samples", self.counts["n_samples"], self.counts["n_samples"])
        if wrong:
            listed = ", ".join(wrong[:3]) + (" and others" if len(wrong) > 3 else "")
            yield Finding(
                "table samples",
                f"the text of {amount(len(wrong), 'sample')} is not that of its id: {listed}",
                _FROM_A_COPY,
            )

    # what is made of it ----------------------------------------------------------------------------------------------

    def rankings(self) -> Iterator[Finding]:
        """Rankings whose rows are not those that they were stored with."""
        with Store(self.path, read_only=True) as opened:
            found = list(damaged_rankings(opened))
        self.counts["n_rankings"] = len(found)
        for row, is_damaged in found:
            if is_damaged:
                if self.repair:
                    with Store(self.path) as writer, writer.transaction():
                        forget_ranking(writer, row["ranking_id"])
                yield self._made_again(
                    f"ranking {row['ranking_id']} of dataset `{row['dataset']}`",
                    "its rows are not those that it was stored with",
                    f"`diq select {quoted(row['dataset'])}` with the same options makes it again",
                )

    def runs(self) -> Iterator[Finding]:
        """Finished runs that lack scores of samples."""
        with Store(self.path, read_only=True) as opened:
            found = [
                (run, one)
                for run in opened.rows("reporting/list_sealed_runs")
                for one in opened.rows("store/unfinished_sets", run_id=run["run_id"], dataset_id=run["dataset_id"])
            ]
        for run, one in found:
            if self.repair:
                with Store(self.path) as writer, writer.transaction():
                    writer.run("reporting/open_run_again", run_id=run["run_id"], dataset_id=run["dataset_id"])
            have = amount(one["n"], "sample")
            command = ["diq score influence", quoted(run["dataset"]), "--model", quoted(str(run["model"]))]
            yield self._made_again(
                f"run {run['run_id']}",
                f"it is finished, but of the validation set `{one['name']}` it has the dots of {have}",
                f"`{' '.join(command)} --validation-set {quoted(one['name'])}` scores the rest",
            )

    def selections(self) -> Iterator[Finding]:
        """Files of selections that are elsewhere now; the rows are in the store."""
        with Store(self.path, read_only=True) as opened:
            rows = opened.rows("store/list_selections")
        for row in rows:
            if row["output"] is not None and not (self.path.parent / row["output"]).exists() and not Path(
                row["output"]
            ).exists():  # fmt: skip
                yield Finding(
                    f"selection {row['selection_id']} (`{row['name']}`)",
                    f"its file `{row['output']}` is not there",
                    "the same `diq select` writes it again",
                    "note",
                )

    # files -----------------------------------------------------------------------------------------------------------

    def files(self) -> Iterator[Finding]:
        """Gradients, factors and answers that are missing, or differ from their checksums."""
        with Store(self.path, read_only=True) as opened:
            answers = [(row, path, one) for row, path, one in self._counted(generations.problems(opened)) if one]
            shards = [(row, record, one) for row, record, one in self._counted(kept.problems(opened)) if one]
        for row, path, problem in answers:
            if self.repair:
                with Store(self.path) as writer, writer.transaction():
                    generations.forget(writer, row)
            yield self._made_again(
                f"answers `{path}`",
                problem,
                f"bring it back from a copy; else `diq evaluate` generates its {amount(row['n_rows'], 'output')} again",
            )
        for row, record, problem in shards:
            if self.repair:
                kept.forget_broken(self.path, row["run_id"], Path(row["folder"]))
            yield self._made_again(
                f"gradients of run {row['run_id']}: `{record.file}`",
                problem,
                f"bring it back from a copy; else scoring with `{row['model']}` again makes its "
                f"{amount(record.n_rows, 'row')}",
            )
        for path, wrong in self._counted(factors.problems(self.path)):
            if wrong is not None:
                # no scores are lost with them: who scores with them again makes them again
                yield Finding(
                    f"factors `{path}`", wrong, f"remove the folder `{path.parent}`: they are made again when needed"
                )

    def _counted(self, found: Iterator[Any]) -> Iterator[Any]:
        for one in found:
            self.counts["n_files"] += 1
            self.report("files", self.counts["n_files"], self.counts["n_files"])
            yield one

    def _made_again(self, part: str, problem: str, remedy: str) -> Finding:
        found = Finding(part, problem, remedy)
        return replace(found, state="repaired") if self.repair else found


def _canonical(row: dict[str, Any]) -> str:
    """The text whose hash is the id of a sample."""
    messages = orjson.loads(row["messages"])
    if row["rejected"] is None:
        return canonical_json(messages)
    return canonical_json({"messages": messages, "rejected": orjson.loads(row["rejected"])})


_FROM_A_COPY = "bring the store back from a copy (`diq backup` makes one)"
_AGAIN = "bring the store back from a copy, or make a new one: ingest again, and the same commands score again"
# what holds nothing that a command could not make again, given the texts
_REMEDIES = dict.fromkeys(
    ("difficulty_scores", "influence_scores", "text_scores", "ranking_samples", "exclusions", "gradient_rows"), _AGAIN
)
