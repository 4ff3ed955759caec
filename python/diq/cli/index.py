"""``diq index check``."""

from __future__ import annotations

from typing import Any

import click

import diq
from diq.base.text import amount
from diq.cli.console import print_json, progress, say, table
from diq.cli.options import keywords, options_of, output_options
from diq.influence.options import CheckIndexOptions


@click.group()
def index() -> None:
    """Gradient indexes: what a projection would lose."""


@index.command()
@options_of(CheckIndexOptions)
@output_options
def check(as_json: bool, quiet: bool, **given: Any) -> None:
    """Compare projected with exact dots on samples of DATASET, and recommend a projection.

    A random projection's dots are right on average, with an error of about 1/sqrt(dim) of the gradients' lengths;
    a subspace loses what its directions do not hold. What that does to your ranking is measured here.
    """

    with progress(quiet=quiet or as_json) as report:
        found = diq.check_index(**keywords(CheckIndexOptions, given), progress=report)
    if as_json:
        print_json(found.to_dict())
        return

    def number(value: float | None, digits: int = 3) -> str:
        return "" if value is None else f"{value:.{digits}f}"

    table(
        f"projections of {found.parameters:,} parameters, {amount(found.n_samples, 'sample')} of `{given['dataset']}`, "
        f"{found.model}",
        (
            "kind", "size", "numbers", "bytes", "Spearman", "top 1 %", "top 10 %", "top 50 %", "noise", "predicted",
            "basis holds", "new task", "its top 10 %",
        ),
        [
            (
                one.kind, one.size, one.dim, one.bytes_a_sample, number(one.spearman, 4),
                *(number(share, 2) for share in one.overlap.values()), number(one.noise, 4),
                number(one.predicted_noise, 4), number(one.kept_share), number(one.new_task_spearman, 4),
                number(one.new_task_overlap, 2),
            )
            for one in found.qualities
        ],
    )  # fmt: skip
    say(f"recommended: {found.recommended or 'none'}: {found.reason}")
