"""``diq select``."""

from __future__ import annotations

from typing import Any

import click

import diq
from diq.base.text import amount
from diq.cli.console import print_json, progress, say, table
from diq.cli.options import keywords, options_of, output_options
from diq.selection.options import SelectOptions


@click.command()
@options_of(SelectOptions)
@output_options
def select(as_json: bool, quiet: bool, **given: Any) -> None:
    """Take the part of DATASET that is worth training on, best first.

    Difficult and influential samples come first (Q1), then influential ones (Q2), difficult ones (Q3), the rest (Q4);
    within each by influence. The ranking is stored, and every other ratio is a prefix of it; it is made again when a
    score changes. docs/method.md says what each of the other strategies ranks by, what it costs and when to take it;
    `diq validate` measures on your own data which one beats random.
    """
    with progress(quiet=quiet or as_json) as report:
        made = diq.select(**keywords(SelectOptions, given), progress=report)
    if as_json:
        print_json(made.to_dict())
        return
    if made.counts:
        tau, median = made.thresholds["tau"], made.thresholds["median"]
        rows = [(q, made.counts["dataset"][q], made.counts["selection"][q]) for q in made.counts["dataset"]]
        table("quadrants", ("", "dataset", "selected"), rows)
        say(f"tau = {tau:.6g}, median {given['influence']} = {median:.6g}")
    if made.guards:
        left = [(guard["method"], guard["n_excluded"], guard["run_id"]) for guard in made.guards]
        table("left out by guards (table exclusions says why)", ("guard", "samples", "run"), left)
    unscored = f", {made.n_unscored:,} without scores left out" if made.n_unscored else ""
    how = {"stored": "read from the store", "new": "now in the store", "renewed": "made again: scores changed"}
    say(
        f"selected {made.n:,} of {amount(made.n_scored, 'sample')} (`{made.name}`{unscored}); "
        f"ranking {made.ranking_id}: {how[made.ranking]}"
    )
    if made.took_over is not None:
        say(f"the name `{made.name}` meant selection {made.took_over} before; that one is reached by its number")
    if made.n < made.n_target and not quiet:
        what = "quadrant holds no more" if given["diverse"] is None else "ranking holds no more that is not too near"
        say(f"asked for {made.n_target:,}: the {what}", err=True)
    if made.output:
        say(f"written to {made.output}")
