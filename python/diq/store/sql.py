"""Any SQL query on a store: the stage behind ``diq sql``. The files of SQL lie beside it, in ``sql/``."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import duckdb

from diq.base import config
from diq.base.errors import UsageError
from diq.base.text import first_line
from diq.store.store import Store

if TYPE_CHECKING:
    import pyarrow as pa


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
