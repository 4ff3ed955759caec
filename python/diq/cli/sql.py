"""``diq sql``."""

from __future__ import annotations

import contextlib
import io
import sys
from pathlib import Path

import click

from diq.base.config import store_path
from diq.base.errors import UsageError
from diq.base.text import first_line
from diq.cli.console import printed, say, start_logging
from diq.cli.options import options_of, refuse
from diq.store.options import SqlOptions


@click.command()
@options_of(SqlOptions, without=("format",), optional=("query", "output"))
@click.option("--file", "-f", type=click.Path(exists=True, dir_okay=False, path_type=Path), help="Read the query here.")
@click.option("--write", is_flag=True, help="Allow the query to change the store.")
@click.option("--format", type=click.Choice(["table", "csv", "json", "parquet"]), help="Default: table, or by -o.")
@click.option("--json", "as_json", is_flag=True, help="Same as --format json: one object with columns and rows.")
@click.option(
    "--max-rows",
    type=click.IntRange(min=1),
    default=40,
    show_default=True,
    help="Rows of a table; the other formats print all.",
)
def sql(
    query: str | None,
    output: Path | None,
    store: Path | None,
    file: Path | None,
    write: bool,
    format: str | None,
    as_json: bool,
    max_rows: int,
) -> None:
    """Run one SQL QUERY on the store, read-only unless --write. Without QUERY it is read from standard input.

    \b
    diq sql "from diq_scores('pool', 'my-model') order by dot desc limit 5"
    diq sql "select quadrant, count(*) from diq_ranking('pool', 'my-model') group by all"
    diq sql "from diq_select('pool', 'my-model', 0.01)" -o top.parquet
    diq sql "select table_name, comment from duckdb_tables()"
    """
    from diq.store.sql import connection, write_file, write_text

    if as_json:
        refuse(("format",), "with --json")
    if query is None or file is not None:
        if query is not None:
            raise UsageError("a query and --file were given", "give one of them")
        query = _read(file)
    kind = "json" if as_json else format
    if kind == "table" and output is not None:
        raise UsageError("a table cannot be written to a file", "leave --format out, or give csv, json or parquet")
    if kind == "parquet" and output is None:
        raise UsageError("parquet cannot be printed", "name a file with -o FILE.parquet")
    if output is not None or kind in ("csv", "json"):
        refuse(("max_rows",), "without a table", "leave it out: everything is written; `limit` in the query takes less")
    store = store_path(store)
    written = None if output is None else SqlOptions(query, output=output, format=kind, store=store)  # type: ignore[arg-type]
    start_logging()
    with connection(query, store=store, write=write, output=output) as opened:
        if written is not None:
            if not write_file(opened, written):
                say("done", err=True)
        elif kind in ("csv", "json"):
            with printed():
                write_text(opened, query, sys.stdout, kind)
        else:
            relation = opened.sql(query)
            if relation is None:
                say("done", err=True)
            else:
                with contextlib.redirect_stdout(io.StringIO()) as shown:
                    relation.show(max_rows=max_rows, max_width=None if sys.stdout.isatty() else 250)
                say(shown.getvalue().rstrip("\n"))


def _read(file: Path | None) -> str:
    """The query in a file, or on standard input."""
    try:
        return (sys.stdin.buffer.read() if file is None else file.read_bytes()).decode()
    except (OSError, UnicodeDecodeError) as error:
        name = "standard input" if file is None else f"`{file}`"
        raise UsageError(f"the query in {name} cannot be read: {first_line(error)}", "save it as UTF-8 text") from error
