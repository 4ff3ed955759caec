"""``diq backup``."""

from __future__ import annotations

from pathlib import Path

import click

import diq
from diq.cli.console import print_json, say, start_logging
from diq.cli.options import store_option


@click.command()
@click.argument("output", type=click.Path(path_type=Path), metavar="FILE")
@click.option("--json", "as_json", is_flag=True, help="One JSON object on stdout.")
@store_option
def backup(output: Path, as_json: bool, store: Path) -> None:
    """Copy the store to FILE as it is at this moment, while others read it.

    The copy appears whole, and is a store. Answers of models and factors lie in folders beside the store and are not in
    it: they are named.
    """
    start_logging()
    made = diq.backup(output, store=store)
    if as_json:
        print_json(made.to_dict())
        return
    say(f"copied {made.store} to {made.output} ({made.size_bytes / 1e6:,.1f} MB)")
    for one in made.beside:
        say(f"not copied: {one}")
