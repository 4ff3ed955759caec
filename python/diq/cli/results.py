"""``diq results``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import click

from diq.cli.console import print_json, start_logging, table
from diq.cli.options import store_option

if TYPE_CHECKING:
    from diq.evaluation.results import Cell, Group, Results

_SUFFIXES = {".md": "markdown", ".csv": "csv", ".tex": "latex", ".json": "json"}


@click.command(short_help="Show evaluations side by side, and beside the paper's.")
@click.option("--dataset", metavar="NAME", help="Only models trained on this dataset, and those that nothing trained.")
@click.option("--model", metavar="NAME", help="Only this base model, or this one model.")
@click.option(
    "--published",
    metavar="NAME",
    help="Also rows of the paper: a table (1, 4, 5, 8 to 13), a dataset (huatuo) or a model (qwen3-8b).",
)
@click.option("--scoring", metavar="VERSION", help="Rules that read the answers; default the latest in the store.")
@click.option(
    "--format",
    "output_format",
    type=click.Choice(["table", "markdown", "csv", "latex", "json"]),
    help="Default: table, or by the suffix of -o.",
)
@click.option("--json", "as_json", is_flag=True, help="Same as --format json: one object.")
@click.option("-o", "--output", type=click.Path(dir_okay=False, path_type=Path), help=".md, .csv, .tex or .json file.")
@store_option
def results(
    dataset: str | None,
    model: str | None,
    published: str | None,
    scoring: str | None,
    output_format: str | None,
    as_json: bool,
    output: Path | None,
    store: Path,
) -> None:
    """Show evaluations side by side: base model, full training, random, each strategy at each ratio, with DPO or not.

    A table holds what can be compared: one base model, one protocol, the same questions. The best of each column is
    marked, and what the questions do not tell apart from it. The store is only read.

    \b
    Examples:
      diq results
      diq results --dataset huatuo --published huatuo
      diq results -o results.tex
    """
    from diq.base.errors import UsageError
    from diq.base.files import check_file, write_text
    from diq.evaluation.results import results as run
    from diq.evaluation.tables import csv_text, latex, markdown

    kind = "json" if as_json else output_format or (_SUFFIXES.get(output.suffix) if output else "table")
    if kind is None:
        raise UsageError(
            f"the output `{output}` is neither .md, .csv, .tex nor .json", "name another, or give --format"
        )
    if kind == "table" and output is not None:
        raise UsageError("a table cannot be written to a file", "leave --format out, or give markdown, csv or latex")
    start_logging()
    if output is not None:
        check_file(output, store=store)
    found = run(store, dataset=dataset, model=model, scoring=scoring, paper=published)
    if kind == "table":
        _show(found)
        return
    if kind == "json" and output is None:
        print_json({"store": str(store), **found.to_dict()})
        return
    make = {"markdown": markdown, "csv": csv_text, "latex": latex}
    text = make[kind](found) if kind in make else json.dumps({"store": str(store), **found.to_dict()}, indent=2) + "\n"
    if output is None:
        click.echo(text, nl=False)
        return
    write_text(output, text)
    click.echo(f"wrote {output}", err=True)


def _show(found: Results) -> None:
    from diq.evaluation.tables import HEADS, MARKS, close_note, error_note, footnotes, title

    for group in [*found.groups, *found.published]:
        columns = group.columns
        own = group.base_model_id is not None
        rows = [
            (row.label, row.dataset, *([] if own else [row.table]), *(_cell(row.cells.get(name)) for name in columns))
            for row in group.rows
        ]
        heads = ("model", "trained on", *([] if own else ["table"]), *(HEADS[name] for name in columns))
        table(title(group), heads, rows)
        for note in footnotes(group):
            click.echo(note)
    if found.groups:
        notes = [f"accuracy in percent; {error_note()}"]
        if _any(found.groups, "best"):
            notes.append(f"{MARKS['best']} best of its column, {MARKS['second']} second best")
        if _any(found.groups, "close"):
            notes.append(close_note())
        for note in notes:
            click.echo(note)
    if found.scoring:
        click.echo(f"scored by rules {found.scoring}")


def _any(groups: list[Group], mark: str) -> bool:
    return any(getattr(cell, mark) for group in groups for row in group.rows for cell in row.cells.values())


def _cell(cell: Cell | None) -> str:
    """Two lines: the number with its marks, its standard error."""
    from diq.evaluation.tables import MARKS, error_text, percent

    if cell is None:
        return ""
    marks = [
        MARKS[name]
        for name, has in (
            ("best", cell.best),
            ("second", cell.second),
            ("close", cell.close),
            ("slip", cell.expected is not None),
        )
        if has
    ]
    return "\n".join(part for part in (percent(cell.accuracy) + "".join(marks), error_text(cell, "±")) if part)
