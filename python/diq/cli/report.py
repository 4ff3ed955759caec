"""``diq report``."""

from __future__ import annotations

from typing import Any

import click

import diq
from diq.base.text import amount
from diq.cli.console import print_json, progress, say
from diq.cli.options import keywords, options_of, output_options
from diq.reporting.options import ReportOptions


@click.command(short_help="Write one page that shows datasets, scores and selections.")
@options_of(ReportOptions)
@output_options
def report(as_json: bool, quiet: bool, **given: Any) -> None:
    """Write a page on DATASETs and their selections that opens offline, in any browser.

    First in words what was asked and what came out, then charts, tables, the first selected samples and those that just
    missed it, and the commands that make it again. It says how much of a selection is chance, and which command makes
    what is missing. The store is only read.

    \b
    Examples:
      diq report pool --model Qwen/Qwen3-8B
      diq report --selection pool-diq-0.1 --selection pool-random-0.1 --results -o study.html
      diq report pool --no-text --figures figures/
    """
    with progress(quiet=quiet or as_json) as told:
        made = diq.report(**keywords(ReportOptions, given), progress=told)
    if as_json:
        print_json(made.to_dict())
        return
    say(f"wrote {made.output} ({made.size_bytes / 1e6:.1f} MB): {', '.join(made.sections)}")
    if made.figures:
        say(f"wrote {amount(len(made.figures), 'figure')} beside {made.figures[0]}")
    for note in made.notes:
        say(f"note: {note}", err=True)
