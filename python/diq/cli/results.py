"""``diq results``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

import diq
from diq.base.config import store_path
from diq.cli.console import print_json, say, start_logging, table, write
from diq.cli.options import keywords, options_of, refuse
from diq.evaluation.options import ResultsOptions

if TYPE_CHECKING:
    from diq.evaluation.groups import Cell, Group, Results


@click.command(short_help="Show evaluations side by side, and beside the paper's.")
@options_of(ResultsOptions)
@click.option("--json", "as_json", is_flag=True, help="Same as --format json: one object.")
def results(as_json: bool, **given: Any) -> None:
    """Show evaluations side by side: base model, full training, random, each strategy at each ratio, with DPO or not.

    A table holds what can be compared: one base model, one protocol, the same questions. The best of each column is
    marked, and what the questions do not tell apart from it. The store is only read.

    \b
    Examples:
      diq results
      diq results --dataset huatuo --published huatuo
      diq results -o results.tex
    """
    if as_json:
        refuse(("format",), "with --json")
        given["format"] = "json"
    start_logging()
    found = diq.results(**keywords(ResultsOptions, given))
    if given["output"] is not None:
        say(f"wrote {given['output']}", err=True)
    elif given["format"] in (None, "table"):
        _show(found)
    elif given["format"] == "json":
        print_json({"store": str(store_path(given["store"])), **found.to_dict()})
    else:
        from diq.evaluation.tables import EXPORTS

        write(EXPORTS[given["format"]](found))


def _show(found: Results) -> None:
    from diq.evaluation.tables import HEADS, MARKS, close_note, error_note, footnotes, title
    from diq.trials.kept import tables

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
            say(note)
    if found.groups:
        notes = [f"accuracy in percent; {error_note()}"]
        if _any(found.groups, "best"):
            notes.append(f"{MARKS['best']} best of its column, {MARKS['second']} second best")
        if _any(found.groups, "close"):
            notes.append(close_note())
        for note in notes:
            say(note)
    if found.scoring:
        say(f"scored by rules {found.scoring}")
    for one in found.validations:
        say(one.title)
        for made in tables(one):
            table(made.title, made.heads, made.rows)
        say(one.cost)


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
