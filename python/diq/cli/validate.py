"""``diq validate``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

import diq
from diq.base.config import store_path
from diq.cli.console import print_json, progress, say, table
from diq.cli.options import keywords, options_of, output_options
from diq.trials.options import ValidateOptions

if TYPE_CHECKING:
    from diq.trials.kept import Validation


@click.command(short_help="Find out by short trainings what scores and strategies are worth on this data.")
@options_of(ValidateOptions)
@output_options
def validate(as_json: bool, quiet: bool, **given: Any) -> None:
    """Train on random subsets and on selections of DATASET, and tell what its scores and strategies are worth.

    The linear datamodelling score says how well a score tells the loss after training on a random subset (1: its order
    exactly, 0: nothing). The race trains on selections and on random ones of their size, and compares their losses on
    validation samples that no score has seen. Trainings are kept: the same command goes on where it stopped, and a
    larger --subsets or --seeds makes only those that are missing.

    \b
    Examples:
      diq validate pool --model MODEL
      diq validate pool --model MODEL --proxy SMALL --ratio 1% --ratio 10% --seeds 5 --minutes 60
    """
    with progress(quiet=quiet or as_json) as report:
        found = diq.validate(**keywords(ValidateOptions, given), progress=report)
    if as_json:
        print_json({"store": str(store_path(given["store"])), **found.to_dict()})
    else:
        _show(found)


def _show(found: Validation) -> None:
    from diq.trials.kept import tables

    say(found.title)
    for one in tables(found):
        table(one.title, one.heads, one.rows)
    for line in found.left_out:
        say(f"not raced: {line}")
    say(found.cost + (f"; {found.n_new} of them new" if found.n_new else ""))
