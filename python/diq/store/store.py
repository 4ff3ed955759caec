"""The store: one DuckDB file with every dataset, score, ranking and selection.

Stages hold a connection only while they read or write, so that a scoring of many hours leaves the file free for
``diq status`` and for any DuckDB client in between. All statements are files under ``sql/``; rows enter as Arrow.
"""

from __future__ import annotations

import atexit
import contextlib
import datetime
import functools
import json
import logging
import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import duckdb

from diq.base import config
from diq.base.errors import DiqError, StoreError, UsageError
from diq.base.files import disk_errors, whole_file
from diq.base.text import did_you_mean, first_line
from diq.store import queries
from diq.store.connection import SHORT_WAIT_S, check_writable, connect, missing

if TYPE_CHECKING:
    import pyarrow as pa

# what DuckDB says of a block that is not what was written
_DAMAGE = (
    "Corrupt database file",
    "ailed to deserialize",
    "database has been invalidated",
    "checksum",
    "ailed to read",
)
_FULL_DISK = ("No space left", "Could not write", "ailed to offload", "max_temp_directory_size")

log = logging.getLogger(__name__)


def now() -> datetime.datetime:
    """The current time in UTC, without a zone: reading zoned times would need another package."""
    return datetime.datetime.now(datetime.timezone.utc).replace(tzinfo=None)


def listed_runs(rows: Iterable[Mapping[str, Any]]) -> str:
    """Runs as messages list them: ``1 (exact), 3 (less)``."""
    return ", ".join(f"{one['run_id']} ({one['method']})" for one in rows)


class Store:
    """One open store.

    Args:
        path: the DuckDB file.
        read_only: open without the right to write; several readers may share a file. A reader leaves the file as it is:
            a store of an older schema is read from a copy that is brought up, until a writer does that to the store.
        create: make the file when it is missing (only ``diq ingest`` does).
        wait_s: seconds to wait for another process that holds the file; 0 fails at once.

    Raises:
        StoreError: the file is missing, held by another process, read-only, not a store, or made by a newer DIQ.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        read_only: bool = False,
        create: bool = False,
        wait_s: float = SHORT_WAIT_S,
    ) -> None:
        self.path = config.store_path(path)
        if not self.path.exists():
            if not create:
                raise missing(self.path)
            _make(self.path)
        self.connection = connect(self.path, read_only=read_only, wait_s=wait_s)
        try:
            if not read_only:
                self._migrate()
                return
            if (have := self._check_version()) < _known_version():
                copy = _current_copy(self.path, have)
                self.connection.close()
                self.connection = connect(copy, read_only=True, wait_s=wait_s)
            elif self._macros_changed():
                # a reader writes nothing: its own connection gets the macros of this diq, the file keeps what it has
                self.connection.execute(queries.temporary_macros())
        except BaseException as error:
            self.connection.close()
            if isinstance(error, duckdb.Error):
                raise self.translate(error) from error
            raise

    def __repr__(self) -> str:
        return f"Store({str(self.path)!r})"

    def __enter__(self) -> Store:
        return self

    def __exit__(self, _type: object, error: BaseException | None, _trace: object) -> None:
        with contextlib.suppress(duckdb.Error):
            # an instance that met a damaged block says so again when it is closed
            self.close()
        if isinstance(error, duckdb.Error):
            raise self.translate(error) from error

    def close(self) -> None:
        """Close the file; what is committed stays, anything else is gone."""
        self.connection.close()

    # opening -----------------------------------------------------------------------------------------------------

    def _check_version(self) -> int:
        have, known = _version(self.connection, self.path), _known_version()
        if have > known:
            raise StoreError(
                f"the store `{self.path}` has schema version {have}, this diq knows up to {known}",
                "upgrade diq: `pip install --upgrade diq`",
            )
        return have

    def _migrate(self) -> None:
        have, known = self._check_version(), _known_version()
        if have == 0:
            with self.transaction():
                self.connection.execute(queries.schema())
                self._record_version(known, "create_store")
        elif have < known:
            text = "the store `%s` goes from schema version %d to %d; an older diq will not open it any more"
            log.info(text, self.path, have, known)
            for step in queries.migrations():
                if step.version > have:
                    with self.transaction():
                        self.connection.execute(step.text)
                        self._record_version(step.version, step.name)
        if have < known or self._macros_changed():
            with self.transaction():
                self.connection.execute(queries.macros())
                self.run("store/upsert_setting", name="macros", value=queries.macros())

    def _record_version(self, version: int, name: str) -> None:
        self.run("store/insert_migration", version=version, name=name, applied_at=now())

    def _macros_changed(self) -> bool:
        row = self.row("store/get_setting", name="macros")
        return row is None or row["value"] != queries.macros()

    # statements --------------------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def transaction(self) -> Iterator[None]:
        """All or nothing: commits at the end, rolls back on any error (a full disk included)."""
        self.connection.execute("BEGIN TRANSACTION")
        try:
            yield
            self.connection.execute("COMMIT")
        except BaseException as error:
            # after a failed commit there is nothing left to roll back
            with contextlib.suppress(duckdb.Error):
                self.connection.execute("ROLLBACK")
            if isinstance(error, duckdb.Error):
                raise self.translate(error) from error
            raise

    def translate(self, error: duckdb.Error) -> DiqError:
        """A DuckDB error as one line with a hint."""
        text = first_line(error)
        if isinstance(error, duckdb.InternalException | duckdb.FatalException | duckdb.SerializationException) or any(
            sign in text for sign in _DAMAGE
        ):
            return StoreError(
                f"the store `{self.path}` is damaged: {text}", f"`diq check --store {self.path}` says what can be kept"
            )
        if any(sign in text for sign in _FULL_DISK):
            return StoreError(f"the disk of `{self.path}` is full: {text}", "free some space; nothing was half-written")
        return StoreError(f"the store `{self.path}` refused a statement: {text}")

    def run(self, query: str, **params: Any) -> None:
        """Run ``sql/queries/<query>.sql``."""
        # fetched to the end: duckdb refuses further statements while an answer is half read
        self.connection.execute(queries.query(query), params or None).fetchall()

    def execute_count(self, query: str, **params: Any) -> int:
        """Run a statement that changes rows; returns how many."""
        rows = self.connection.execute(queries.query(query), params or None).fetchall()
        return int(rows[0][0]) if rows else 0

    def insert(self, query: str, incoming: pa.Table | pa.RecordBatch, **params: Any) -> int:
        """Run an INSERT that reads the Arrow table ``incoming``; returns how many rows it inserted."""
        # DuckDB finds the table by the name of this function's argument; a registered view would keep every batch of a
        # transaction in memory until it ends
        rows = self.connection.execute(queries.query(query), params or None).fetchall()
        return int(rows[0][0]) if rows else 0

    def rows(self, query: str, **params: Any) -> list[dict[str, Any]]:
        """All rows of a small result as dicts."""
        cursor = self.connection.execute(queries.query(query), params or None)
        names = [column[0] for column in cursor.description or []]
        return [dict(zip(names, row, strict=True)) for row in cursor.fetchall()]

    def row(self, query: str, **params: Any) -> dict[str, Any] | None:
        """The first row, or None."""
        found = self.rows(query, **params)
        return found[0] if found else None

    def arrow(self, query: str, **params: Any) -> pa.Table:
        """The whole result as an Arrow table."""
        return self.connection.sql(queries.query(query), params=params or None).to_arrow_table()

    @contextlib.contextmanager
    def batches(self, query: str, *, rows: int = 10_000, **params: Any) -> Iterator[Iterator[pa.RecordBatch]]:
        """The result as a stream of Arrow batches, for a ``with`` block; one stream at a time a connection.

        The block ends the stream: an open one keeps the file held after ``close``, and the next opening would wait.
        """
        reader = self.connection.sql(queries.query(query), params=params or None).to_arrow_reader(rows)
        try:
            yield reader
        finally:
            reader.close()

    # nouns -------------------------------------------------------------------------------------------------------

    def dataset(self, name: str) -> dict[str, Any]:
        """The dataset's row.

        Raises:
            UsageError: no dataset has that name.
        """
        row = self.row("store/get_dataset", name=name)
        if row is None:
            known = [one["name"] for one in self.rows("store/list_datasets")]
            raise UsageError(
                f"no dataset named `{name}` in `{self.path}`", did_you_mean(name, known) or "run `diq ingest` first"
            )
        return row

    def validation_set(self, name: str) -> dict[str, Any]:
        """The validation set's row.

        Raises:
            UsageError: no validation set has that name.
        """
        row = self.row("store/get_validation_set", name=name)
        if row is None:
            known = [one["name"] for one in self.rows("store/list_validation_sets")]
            raise UsageError(
                f"no validation set named `{name}` in `{self.path}`",
                did_you_mean(name, known) or "make one with `diq ingest FILE --dataset NAME --validation`",
            )
        return row

    def find_selection(self, text: str) -> dict[str, Any] | None:
        """``selection_id``, ``name`` and ``n`` of the selection that a number or a name means, or None."""
        number = int(text) if text.isdecimal() and len(text) < 19 else None
        return self.row("store/find_selection", selection_id=number, name=text)

    def selection(self, text: str) -> dict[str, Any]:
        """As ``find_selection``.

        Raises:
            UsageError: no selection has that number or name.
        """
        row = self.find_selection(text)
        if row is None:
            known = self.rows("store/list_selections")
            if not known:
                hint = "make one with `diq select`"
            elif text.isdecimal():
                hint = f"numbers go up to {known[0]['selection_id']}; `diq status` lists them"
            else:
                hint = did_you_mean(text, sorted({one["name"] for one in known}))
            raise UsageError(f"no selection `{text}` in `{self.path}`", hint)
        return row

    def add_model(
        self, *, model_id: str, name: str, source: str, architecture: str | None, n_parameters: int | None
    ) -> None:
        """Record a model unless it is known."""
        self.run(
            "store/insert_model",
            model_id=model_id,
            name=name,
            source=source,
            architecture=architecture,
            n_parameters=n_parameters,
            added_at=now(),
        )

    def open_run(
        self,
        *,
        kind: str,
        method: str,
        model_id: str | None,
        fingerprint: str,
        settings: Mapping[str, Any],
        environment: Mapping[str, Any],
    ) -> int:
        """The run with this configuration, made when it is new; the same configuration is the same run."""
        self.run(
            "store/insert_run",
            kind=kind,
            method=method,
            model_id=model_id,
            fingerprint=fingerprint,
            config=json.dumps(settings, sort_keys=True),
            environment=json.dumps(environment, sort_keys=True),
            created_at=now(),
        )
        row = self.row("store/get_run_by_fingerprint", fingerprint=fingerprint)
        assert row is not None
        return int(row["run_id"])

    def start_scoring(self, run_id: int, dataset_id: int) -> None:
        """Mark the run open on the dataset: nothing is selected from it until ``seal``, but what a part decides."""
        ids = {"run_id": run_id, "dataset_id": dataset_id}
        kept = self.row("store/get_certificate", **ids)
        self.run("store/delete_run_dataset", **ids)
        self.run(
            "store/insert_run_dataset",
            **ids,
            started_at=now(),
            certificate=None if kept is None else kept["certificate"],
        )

    def seal(self, run_id: int, dataset_id: int) -> None:
        """Mark the run complete on the dataset, also where all its scores came with another dataset."""
        ids = {"run_id": run_id, "dataset_id": dataset_id}
        if not self.execute_count("store/seal_run_dataset", **ids, sealed_at=now()):
            self.start_scoring(run_id, dataset_id)
            self.run("store/seal_run_dataset", **ids, sealed_at=now())


def _make(path: Path) -> None:
    """A new store, which appears whole: DuckDB itself would leave a file that nothing opens where it is killed."""
    check_writable(path)
    with tempfile.TemporaryDirectory(prefix="diq-") as folder:
        # without data, so it is small
        made = Path(folder) / "store.duckdb"
        connect(made, read_only=False, wait_s=0).close()
        Store(made).close()
        with contextlib.suppress(FileExistsError), whole_file(path, replace=False) as file:
            # another process may have been first
            file.write(made.read_bytes())


def _current_copy(path: Path, have: int) -> Path:
    """A copy of a store of an older schema, brought up to this one, for a reader; the caller has the store open."""
    stat = path.stat()
    return _copied(path, have, (stat.st_size, stat.st_mtime_ns))


# of one store, which a process may open many times
@functools.lru_cache(maxsize=1)
def _copied(path: Path, have: int, _state: tuple[int, int]) -> Path:
    folder = tempfile.mkdtemp(prefix="diq-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    copy = Path(folder) / "store.duckdb"
    log.info(
        "the store `%s` has schema version %d, this diq reads version %d: it is read from a copy (%.1f MB); a command "
        "that writes to the store brings it up",
        path,
        have,
        _known_version(),
        path.stat().st_size / 1e6,
    )
    with disk_errors(copy):
        copy_with_log(path, copy)
    Store(copy).close()
    return copy


def copy_with_log(path: Path, copy: Path) -> None:
    """Copy the file of a store and its log, which nobody writes meanwhile."""
    shutil.copyfile(path, copy)
    with contextlib.suppress(FileNotFoundError):
        shutil.copyfile(path.with_name(f"{path.name}.wal"), copy.with_name(f"{copy.name}.wal"))


def _known_version() -> int:
    return queries.migrations()[-1].version


def _version(connection: duckdb.DuckDBPyConnection, path: Path) -> int:
    """Schema version of a store; 0 for an empty file."""
    try:
        ((version,),) = connection.execute(queries.query("store/get_schema_version")).fetchall()
    except duckdb.CatalogException:
        tables = sorted(row[0] for row in connection.execute(queries.query("store/list_tables")).fetchall())
        # a store has the table, and something else is wrong with it
        if "schema_migrations" in tables:
            raise
        if tables:
            raise StoreError(
                f"`{path}` is a DuckDB file, but not a diq store (it holds {', '.join(tables[:3])})",
                "name another path with --store",
            ) from None
        return 0
    return int(version)
