"""``diq validate``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

import diq
from diq.base.config import store_path
from diq.base.text import amount
from diq.cli.console import print_json, progress, table
from diq.cli.options import keywords, options_of, output_options
from diq.trials.options import ValidateOptions

if TYPE_CHECKING:
    from diq.trials.validate import Validation


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


_RACE = (
    "entrant", "ratio", "samples", "trainings", "before", "random", "loss", "difference", "95 % interval",
    "than random",
)  # fmt: skip


def _show(found: Validation) -> None:
    stand_in = (
        f", with `{found.trained}` trained in its place: a hint, no proof" if found.trained != found.model else ""
    )
    click.echo(f"`{found.dataset}`, scores of `{found.model}`{stand_in}")
    if found.scores:
        table(
            f"linear datamodelling score over {amount(found.n_subsets, 'random subset')} of "
            f"{amount(found.subset_size, 'sample')}",
            ("score", "run", "LDS", "95 % interval"),
            [(one["score"], one["run"], one["value"], _interval(one)) for one in found.scores],
        )
    if found.race:
        table(
            "race: loss on samples that no score has seen, against random selections of the same size",
            _RACE,
            [
                (
                    one["entrant"], one["ratio"], one["n"], one["trainings"], one["before"], one["random"], one["loss"],
                    one["difference"], _interval(one), one["verdict"],
                )
                for one in found.race
            ],
        )  # fmt: skip
    for line in found.left_out:
        click.echo(f"not raced: {line}")
    left = f"; {found.n_left} left, which the same command makes" if found.n_left else ""
    click.echo(
        f"{found.n_trainings} trainings, {found.n_new} of them new, {found.seconds:.0f} s and "
        f"{found.tokens / 1e6:.3g} million tokens in all{left}"
    )


def _interval(one: dict[str, Any]) -> str:
    low, high = one["low"], one["high"]
    return "" if low is None or low != low else f"{low:.3g} to {high:.3g}"
