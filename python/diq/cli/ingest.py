"""``diq ingest``."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import click

import diq
from diq.base.text import amount, counted
from diq.cli.console import conversation_lines, print_json, progress, say, table
from diq.cli.options import keywords, options_of, output_options
from diq.samples.options import IngestOptions
from diq.samples.sources import SourceSummary


@click.command()
@options_of(IngestOptions)
@output_options
def ingest(as_json: bool, quiet: bool, **given: Any) -> None:
    """Read samples, validation sets or scores into the store.

    SOURCE is a file (.jsonl, .json, .csv, .parquet, .arrow, also .gz and .zst), a glob, a folder, a folder saved by
    `datasets`, or a hub id (owner/name[:config][@revision]). The layout is detected. Rows that cannot be used go to the
    table `rejects` with line and reason; a file that was ingested before is not read again.
    """

    with progress(quiet=quiet or as_json) as report:
        summary = diq.ingest(**keywords(IngestOptions, given), progress=report)
    if as_json:
        print_json(summary.to_dict())
        return
    rows = [
        (
            source.path,
            source.layout,
            source.n_rows,
            source.n_samples,
            source.n_duplicates,
            source.n_rejects,
            "as before" if source.unchanged else "read",
        )
        for source in summary.sources
    ]
    if len(rows) > 1:
        totals = (summary.n_rows, summary.n_samples, summary.n_duplicates, summary.n_rejects)
        rows.append(("all", "", *totals, ""))
    what = "scored" if given["scores"] else "samples"
    table(f"dataset `{summary.dataset}`", ("source", "layout", "rows", what, "duplicates", "rejects", ""), rows)
    if not given["scores"] and not quiet:
        _show_understood(summary.sources)
    if summary.validation_set:
        drawn = summary.validation_set
        how = "all of them" if drawn["seed"] is None else f"drawn with seed {drawn['seed']}"
        say(f"validation set `{drawn['name']}`: {amount(drawn['n_samples'], 'sample')}, {how}")
    if summary.n_rejects:
        reasons = Counter[str]()
        for source in summary.sources:
            reasons.update(source.reasons)
        told = counted(reasons, shown=3)
        say(
            f"rejected {amount(summary.n_rejects, 'row')}{f': {told}' if told else ''}\n"
            "`diq sql 'select source, line, reason from rejects order by source_id, line'` shows them",
            err=True,
        )


def _show_understood(sources: Sequence[SourceSummary]) -> None:
    """Which column became what, and one sample, for each set of columns."""
    seen: list[dict[str, str]] = []
    for source in sources:
        if not source.columns or source.columns in seen:
            continue
        seen.append(source.columns)
        roles = ", ".join(f"{column} → {role}" for column, role in source.columns.items())
        say(f"`{source.path}` was read as: {roles}")
        for line in conversation_lines(source.example or ()):
            say(f"  {line}")
