"""Any SQL query on a store: the stage behind ``diq sql``. The files of SQL lie beside it, in ``sql/``."""

from __future__ import annotations

import codecs
import contextlib
import csv
import json
import math
import os
import re
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
from diq.base.text import first_line, short
from diq.store.options import SqlOptions
from diq.store.outputs import check_output
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
    if params is not None and (isinstance(params, str) or not isinstance(params, Mapping | Sequence)):
        raise UsageError(f"the params are neither names with values nor a list: `{short(params)}`", 'give {"name": 1}')
    with connection(query, store=store, write=write) as opened:
        relation = opened.sql(query, params=params)
        if relation is None:
            # `diq sql` prints without pyarrow, so only who asks for a table waits for it
            import pyarrow as pa

            return pa.table({})
        return relation.to_arrow_table().rename_columns(_distinct(relation.columns))


@contextlib.contextmanager
def connection(
    query: str,
    *,
    store: str | os.PathLike[str] | None = None,
    write: bool = False,
    output: Path | None = None,
) -> Iterator[duckdb.DuckDBPyConnection]:
    """A connection to the store to run a query on, for a ``with`` block; an error of DuckDB is one line with a hint.

    Raises:
        UsageError: as :func:`sql`, or the ``output`` that the answer shall go to cannot be written.
        StoreError: as :func:`sql`.
    """
    path = config.store_path(store)
    if output is not None:
        check_file(output, store=path)
    if not isinstance(query, str):
        raise UsageError(f"the query is no text but `{short(query)}`", 'try `diq sql "from datasets"`')
    if not query.strip():
        raise UsageError("the query is empty", 'try `diq sql "from datasets"`')
    with Store(path, read_only=not write) as opened:
        if not write:
            _check_writes_nothing(opened.connection, query)
        if output is not None:
            check_output(opened, output)
        try:
            yield opened.connection
        except duckdb.Error as error:
            hint = ""
            if "read-only" in str(error):
                hint = "add --write (in Python write=True) to change the store"
            elif "does not exist" in str(error):
                hint = '`diq sql "select table_name, comment from duckdb_tables()"` lists the tables'
            raise UsageError(f"the query failed: {first_line(error)}", hint) from error


_COMMENTS = r"(?:\s|--[^\n]*(?:\n|$)|/\*.*?\*/)*"
_EXPLAIN = re.compile(rf"{_COMMENTS}explain\s+(?:analyze\b|\([^)]*\))?", re.IGNORECASE | re.DOTALL)
# a store that is open for reading refuses what would change it, and so does a database that is attached for reading
_READS = ("SELECT", "MULTI", "INSERT", "DELETE", "UPDATE", "DROP", "ALTER", "TRANSACTION")
_READS_IF = {
    # not a secret, which is kept in a file
    "CREATE": re.compile(
        rf"{_COMMENTS}create\s+(?:or\s+replace\s+)?(?:temp(?:orary)?\s+)?(?:table|view|macro|function|type|index|schema|"
        r"sequence)\b",
        re.IGNORECASE | re.DOTALL,
    ),
    "ATTACH": re.compile(
        rf"{_COMMENTS}attach\b.*\(\s*(?:type\s+duckdb\s*,\s*)?read_only\s*\)\s*;?\s*$", re.IGNORECASE | re.DOTALL
    ),
    "DETACH": re.compile(""),
    # others name files: of logs, of profiles
    "SET": re.compile(
        rf"{_COMMENTS}(?:use\b|set\s+(?:(?:session|local|global)\s+)?(?:variable|threads|memory_limit|schema|search_path|"
        r"timezone|preserve_insertion_order)\b)",
        re.IGNORECASE | re.DOTALL,
    ),
    "PRAGMA": re.compile(
        rf"{_COMMENTS}pragma\s+(?:table_info|storage_info|database_list|database_size|show_tables|show|version)\b",
        re.IGNORECASE | re.DOTALL,
    ),
}


def _check_writes_nothing(connection: duckdb.DuckDBPyConnection, query: str) -> None:
    """Refuse statements that write files, which a store that is open for reading does not.

    Raises:
        UsageError: a statement is COPY, EXPORT, ATTACH for writing, or of another kind that is not known to read alone.
    """
    try:
        statements = connection.extract_statements(query)
    except duckdb.Error:
        # said with its place when the query runs
        return
    for one in statements:
        kind, text = one.type.name, one.query
        if kind == "EXPLAIN" and (found := _EXPLAIN.match(text)):
            _check_writes_nothing(connection, text[found.end() :])
        elif kind not in _READS and not (kind in _READS_IF and _READS_IF[kind].match(text)):
            raise UsageError(
                f"the query may only read, and `{short(text, width=40)}` can write a file",
                "-o FILE writes an answer; attach with (READ_ONLY); --write (in Python write=True) allows all",
            )


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
    with connection(options.query, store=options.store, output=Path(options.output)) as opened:
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
    columns = _distinct([column[0] for column in cursor.description or []])
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
            record = dict(zip(columns, row, strict=True))
            try:
                line = json.dumps(record, default=_plain, ensure_ascii=False, allow_nan=False)
            except (ValueError, TypeError):
                # what is not finite, or keys of a map that are no texts: rare, and slower
                line = json.dumps(_valid(record), ensure_ascii=False)
            file.write(("" if first else ",") + "\n" + line)
            first = False
    file.write("]}\n")


def _distinct(names: Sequence[str]) -> list[str]:
    """Names of columns, of which several may be called the same, as DuckDB tells them apart in a subquery: ``a_1``."""
    found: dict[str, None] = {}
    for name in names:
        n, fresh = 0, name
        while fresh in found:
            n += 1
            fresh = f"{name}_{n}"
        found[fresh] = None
    return list(found)


def _plain(value: Any) -> Any:
    """Decimals as numbers; blobs as hexadecimal digits; ids, times and intervals as text."""
    if isinstance(value, Decimal):
        return float(value)
    return value.hex() if isinstance(value, bytes) else str(value)


def _valid(value: Any) -> Any:
    """A value without what JSON lacks: numbers that are not finite are null, keys are texts."""
    if isinstance(value, dict):
        return {key if isinstance(key, str) else str(_valid(key)): _valid(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_valid(one) for one in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value if value is None or isinstance(value, str | int) else _plain(value)
