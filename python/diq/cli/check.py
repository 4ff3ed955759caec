"""``diq check``."""

from __future__ import annotations

import sys
from pathlib import Path

import click

import diq
from diq.base.text import amount
from diq.cli.console import print_json, progress, say, table
from diq.cli.options import output_options, store_option


@click.command()
@click.argument("file", type=click.Path(path_type=Path), metavar="[STORE]", required=False)
@click.option("--repair", is_flag=True, help="Mark what can be made again as missing, so that it is.")
@output_options
@store_option
def check(file: Path | None, repair: bool, as_json: bool, quiet: bool, store: Path) -> None:
    """Compare a store, and the files that it points to, with what was written.

    Reads every block of every table, hashes every sample again, and compares rankings with their fingerprints, and
    gradients, factors and answers with their checksums. Says what is damaged and which command makes it again. Exit
    code 1 where something is.
    """
    with progress(quiet=quiet or as_json) as report:
        found = diq.check(store=file or store, repair=repair, progress=report)
    if as_json:
        print_json(found.to_dict())
    else:
        looked = [
            amount(found.n_tables, "table"),
            amount(found.n_samples, "sample"),
            amount(found.n_rankings, "ranking"),
            amount(found.n_files, "file"),
        ]
        if found.findings:
            rows = [(one.state, one.part, one.problem, one.remedy) for one in found.findings]
            table(f"what is not as it was written in {found.store}", ("", "part", "problem", "remedy"), rows)
        say(f"{found.store}: read {', '.join(looked)} in {found.seconds:.1f} s; {found.n_damaged or 'nothing'} damaged")
    if found.n_damaged:
        sys.exit(1)
