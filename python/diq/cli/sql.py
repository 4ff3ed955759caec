"""``diq sql``."""

from __future__ import annotations

import codecs
import csv
import json
import sys
from collections.abc import Iterable
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from diq.base.errors import UsageError
from diq.base.files import check_file, unwritable, whole_file
from diq.cli.console import start_logging
from diq.cli.options import store_option

if TYPE_CHECKING:
    from _typeshed import SupportsWrite

_FETCH_ROWS = 10_000


@click.command()
@click.argument("query", required=False)
@click.option("--file", "-f", type=click.Path(exists=True, dir_okay=False, path_type=Path), help="Read the query here.")
@click.option("--write", is_flag=True, help="Allow the query to change the store.")
@click.option(
    "--format",
    "output_format",
    type=click.Choice(["table", "csv", "json", "parquet"]),
    help="Default: table, or by -o.",
)
@click.option("--json", "as_json", is_flag=True, help="Same as --format json: one object with columns and rows.")
@click.option("-o", "--output", type=click.Path(dir_okay=False, path_type=Path), help=".csv, .json or .parquet file.")
@click.option("--max-rows", default=40, show_default=True, help="Rows of a table; the other formats print all.")
@store_option
def sql(
    query: str | None,
    file: Path | None,
    write: bool,
    output_format: str | None,
    as_json: bool,
    output: Path | None,
    max_rows: int,
    store: Path,
) -> None:
    """Run one SQL QUERY on the store, read-only unless --write. Without QUERY it is read from standard input.

    \b
    diq sql "from diq_scores('pool', 'my-model') order by dot desc limit 5"
    diq sql "select quadrant, count(*) from diq_ranking('pool', 'my-model') group by all"
    diq sql "from diq_select('pool', 'my-model', 0.01)" -o top.parquet
    diq sql "select table_name, comment from duckdb_tables()"
    """
    from diq.store.sql import connection

    if query is None or file is not None:
        if query is not None:
            raise UsageError("a query and --file were given", "give one of them")
        query = file.read_text(encoding="utf-8") if file else sys.stdin.read()
    kind = "json" if as_json else output_format or (output.suffix.lstrip(".") if output else "table")
    if kind not in ("table", "csv", "json", "parquet"):
        raise UsageError(f"the output `{output}` is neither .csv, .json nor .parquet", "name another, or give --format")
    if kind == "parquet" and output is None:
        raise UsageError("parquet cannot be printed", "name a file with -o FILE.parquet")
    if kind == "table" and output is not None:
        raise UsageError("a table cannot be written to a file", "leave --format out, or give csv, json or parquet")
    if output is not None:
        check_file(output, store=store)
    start_logging()
    with connection(query, store=store, write=write) as opened:
        if kind in ("csv", "json"):
            cursor = opened.execute(query)
            columns = [column[0] for column in cursor.description or []]
            batches = iter(lambda: cursor.fetchmany(_FETCH_ROWS), [])
            writer = _write_json if kind == "json" else _write_csv
            if output is None:
                writer(sys.stdout, columns, batches)
            else:
                with whole_file(output) as written:
                    writer(codecs.getwriter("utf-8")(written), columns, batches)
        else:
            relation: Any = opened.sql(query)
            if relation is None:
                click.echo("done", err=True)
            elif kind == "parquet" and output is not None:
                _write_parquet(relation, output)
            else:
                relation.show(max_rows=max_rows, max_width=None if sys.stdout.isatty() else 250)


def _write_parquet(relation: Any, output: Path) -> None:
    import duckdb

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
