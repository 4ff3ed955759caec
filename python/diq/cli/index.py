"""``diq index check``."""

from __future__ import annotations

from typing import Any

import click

from diq.base.config import MAX_LENGTH
from diq.cli.console import print_json, progress, table
from diq.cli.options import device_options, output_options, store_option


@click.group()
def index() -> None:
    """Gradient indexes: what a projection would lose."""


@index.command()
@click.argument("dataset")
@click.option("--model", required=True, help="Folder or hub id of the causal language model.")
@click.option(
    "--validation-set", "validation_sets", multiple=True, metavar="NAME", help="Validation set; repeat. Default: all."
)
@click.option("--params", default="qkv", show_default=True, help="Weights that count, as in `diq score influence`.")
@click.option("--checkpoint", metavar="DIR", help="An adapter or a full model in place of --model itself.")
@click.option("--samples", default=512, show_default=True, help="Samples to draw from DATASET.")
@click.option("--seed", default=0, show_default=True, help="Of the draw and of the random projections.")
@click.option(
    "--candidate",
    "candidates",
    multiple=True,
    metavar="KIND:SIZE",
    help="Projection to try, such as sparse:65536 or subspace:16; repeat. Default: a range of each kind.",
)
@click.option("--max-length", default=MAX_LENGTH, show_default=True, help="Tokens after which a sample is cut.")
@click.option("--batch-tokens", "token_budget", type=int, help="Padded tokens a batch.")
@device_options
@store_option
@output_options
def check(dataset: str, as_json: bool, quiet: bool, **options: Any) -> None:
    """Compare projected with exact dots on samples of DATASET, and recommend a projection.

    A random projection's dots are right on average, with an error of about 1/sqrt(dim) of the gradients' lengths;
    a subspace loses what its directions do not hold. What that does to your ranking is measured here.
    """
    from diq.influence.check_index import check as run

    with progress(quiet=quiet or as_json) as report:
        found = run(dataset, progress=report, **options)
    if as_json:
        print_json(found.to_dict())
        return

    def number(value: float | None, digits: int = 3) -> str:
        return "" if value is None else f"{value:.{digits}f}"

    table(
        f"projections of {found.parameters:,} parameters, {found.n_samples} samples of `{dataset}`, {found.model}",
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
    click.echo(f"recommended: {found.recommended or 'none'}: {found.reason}")
