"""Any SQL query on a store: the stage behind ``diq sql``. The files of SQL lie beside it, in ``sql/``."""

from __future__ import annotations

import codecs
import contextlib
import csv
import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Any

import duckdb

from diq.base import config
from diq.base.errors import UsageError
from diq.base.files import check_file, unwritable, whole_file
from diq.base.options import verb
from diq.base.text import first_line
from diq.store.options import SqlOptions
from diq.store.store import Store

if TYPE_CHECKING:
    import pyarrow as pa
    from _typeshed import SupportsWrite

_FETCH_ROWS = 10_000


def sql(
    query: str,
    params: Mapping[str, Any] | Sequence[Any] | None = None,
    *,
    store: str | os.PathLike[str] | None = None,
    write: bool = False,
) -> pa.Table:
    """The answer to a query as an Arrow table (``.to_pylist()``, ``.to_pandas()``); docs/sql.md has examples.

    Args:
        query: SQL of DuckDB, with the macros ``diq_scores``, ``diq_ranking``, ``diq_select`` and so on.
        params: values of ``$name`` (a mapping) or of ``?`` (a sequence).
        store: the store file; default ``$DIQ_STORE``, else ``diq.duckdb``.
        write: allow the query to change the store.

    Returns:
        One row an answer; empty for a statement that answers nothing.

    Raises:
        UsageError: the query is empty or wrong, or would change the store without ``write``.
        StoreError: there is no store, or another process holds it for longer than ten seconds.
    """
    with connection(query, store=store, write=write) as opened:
        relation = opened.sql(query, params=params)
        if relation is None:
            # `diq sql` prints without pyarrow, so only who asks for a table waits for it
            import pyarrow as pa

            return pa.table({})
        return relation.to_arrow_table()


@contextlib.contextmanager
def connection(
    query: str, *, store: str | os.PathLike[str] | None = None, write: bool = False
) -> Iterator[duckdb.DuckDBPyConnection]:
    """A connection to the store to run a query on, for a ``with`` block; an error of DuckDB is one line with a hint.

    Raises:
        UsageError, StoreError: as :func:`sql`.
    """
    if not query.strip():
        raise UsageError("the query is empty", 'try `diq sql "from datasets"`')
    with Store(config.store_path(store), read_only=not write) as opened:
        try:
            yield opened.connection
        except duckdb.Error as error:
            hint = ""
            if "read-only" in str(error):
                hint = "add --write (in Python write=True) to change the store"
            elif "does not exist" in str(error):
                hint = '`diq sql "select table_name, comment from duckdb_tables()"` lists the tables'
            raise UsageError(f"the query failed: {first_line(error)}", hint) from error


# answers as text and files -----------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Answer:
    """The answer to a query, as a file.

    Attributes:
        output: the file.
    """

    output: str


@verb(SqlOptions)
def write_answer(options: SqlOptions) -> Answer:
    """Write the answer to a query, which only reads, as a file that appears whole.

    Raises:
        UsageError: the query is empty or wrong, or the output cannot be written.
        StoreError: there is no store, or another process holds it for longer than ten seconds.
        RunFailedError: the disk is full.
    """
    check_file(Path(options.output), store=options.store_file)
    with connection(options.query, store=options.store) as opened:
        write_file(opened, options)
    return Answer(str(options.output))


def write_file(opened: duckdb.DuckDBPyConnection, options: SqlOptions) -> bool:
    """Write the answer to a query as a file that appears whole; False where Parquet has nothing to hold."""
    output = Path(options.output)
    if options.format == "parquet":
        relation = opened.sql(options.query)
        if relation is None:
            return False
        _write_parquet(relation, output)
    else:
        with whole_file(output) as file:
            write_text(opened, options.query, codecs.getwriter("utf-8")(file), options.format)
    return True


def write_text(opened: duckdb.DuckDBPyConnection, query: str, file: SupportsWrite[str], kind: str | None) -> None:
    """Write the answer to a query as CSV, or as JSON: one object of columns and rows."""
    cursor = opened.execute(query)
    columns = [column[0] for column in cursor.description or []]
    batches = iter(lambda: cursor.fetchmany(_FETCH_ROWS), [])
    (_write_json if kind == "json" else _write_csv)(file, columns, batches)


def _write_parquet(relation: duckdb.DuckDBPyRelation, output: Path) -> None:
    with whole_file(output) as file:
        try:
            # a temporary file of its own would take the place of the one that is locked and synced
            relation.write_parquet(file.name, use_tmp_file=False)
        except duckdb.IOException as error:
            # what it says of any other file is about the query
            if file.name in str(error):
                raise unwritable(output, error) from error
            raise


def _write_csv(file: SupportsWrite[str], columns: list[str], batches: Iterable[list[Any]]) -> None:
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(columns)
    for rows in batches:
        writer.writerows(rows)


def _write_json(file: SupportsWrite[str], columns: list[str], batches: Iterable[list[Any]]) -> None:
    # written row by row: an answer may be larger than memory
    file.write(f'{{"columns": {json.dumps(columns)}, "rows": [')
    first = True
    for rows in batches:
        for row in rows:
            line = json.dumps(dict(zip(columns, row, strict=True)), default=_plain, ensure_ascii=False)
            file.write(("" if first else ",") + "\n" + line)
            first = False
    file.write("]}\n")


def _plain(value: Any) -> Any:
    """Decimals as numbers; ids and times as text."""
    return float(value) if isinstance(value, Decimal) else str(value)
