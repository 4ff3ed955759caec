"""``diq select``."""

from __future__ import annotations

from pathlib import Path

import click

from diq.base.config import DIFFICULTY_DIMENSIONS, STRATEGIES
from diq.cli.console import print_json, progress, table
from diq.cli.options import output_options, store_option


@click.command()
@click.argument("dataset")
@click.option("--model", help="Name of a scored model in the store: the hub id or the folder's name.")
@click.option("--encoder", help="Encoder of the similarities, when the dataset has those of several.")
@click.option("--ratio", required=True, help="How much: 0.01, 1% or 1e-2.")
@click.option("-o", "--output", type=click.Path(path_type=Path), help=".jsonl, .jsonl.gz or .parquet file to write.")
@click.option("--difficulty", type=click.Choice(DIFFICULTY_DIMENSIONS), default="overall", show_default=True)
@click.option("--difficulty-percentile", "percentile", default=0.5, show_default=True, help="p of the threshold tau.")
@click.option("--difficulty-threshold", "threshold", type=float, help="An absolute tau in place of the percentile.")
@click.option(
    "--validation-set",
    "validation_sets",
    multiple=True,
    metavar="NAME[=WEIGHT]",
    help="Validation set whose dots (or similarities) count; repeat. Default: all of the run, by their samples.",
)
@click.option("--strategy", type=click.Choice(STRATEGIES), default="diq", show_default=True)
@click.option(
    "--influence",
    type=click.Choice(["dot", "cosine"]),
    default="dot",
    show_default=True,
    help="cosine: dots over the norms of the samples' gradients (scored with --norms); column dot then holds them.",
)
@click.option(
    "--run", "influence_run", type=int, help="Run of the dots (perplexities, similarities), when there are several."
)
@click.option("--difficulty-run", type=int, help="Difficulty run, when the dataset has several.")
@click.option("--seed", default=0, show_default=True, help="Seed of the strategy random.")
@click.option(
    "--dedupe",
    type=click.Choice(["exact", "near"]),
    help="Leave out samples that repeat an earlier one: up to case and spaces, or nearly (MinHash, exact Jaccard).",
)
@click.option(
    "--dedupe-threshold",
    default=0.8,
    show_default=True,
    help="Least Jaccard similarity of near duplicates, over runs of five words.",
)
@click.option(
    "--decontaminate",
    multiple=True,
    metavar="BENCHMARK",
    help="Leave out samples that hold 13 words in a row of a question of this dataset, validation set or file, "
    "or of any validation set; repeat.",
)
@click.option(
    "--decontaminate-share",
    default=0.0,
    show_default=True,
    help="Share of the question that must be held; 0.5 spares stock phrases that benchmarks and pools have in common.",
)
@click.option("--name", help="Name of the selection in the store; default DATASET-STRATEGY-RATIO.")
@store_option
@output_options
def select(
    dataset: str,
    model: str | None,
    encoder: str | None,
    ratio: str,
    output: Path | None,
    difficulty: str,
    percentile: float,
    threshold: float | None,
    validation_sets: tuple[str, ...],
    strategy: str,
    influence: str,
    influence_run: int | None,
    difficulty_run: int | None,
    seed: int,
    dedupe: str | None,
    dedupe_threshold: float,
    decontaminate: tuple[str, ...],
    decontaminate_share: float,
    name: str | None,
    store: Path,
    as_json: bool,
    quiet: bool,
) -> None:
    """Take the part of DATASET that is worth training on, best first.

    Difficult and influential samples come first (Q1), then influential ones (Q2), difficult ones (Q3), the rest (Q4);
    within each by influence. The ranking is stored, and every other ratio is a prefix of it; it is made again when a
    score changes. The other strategies are for comparison: docs/method.md says what each ranks by.
    """
    from diq.selection.select import select as run

    with progress(quiet=quiet or as_json) as report:
        made = run(
            dataset,
            ratio=ratio,
            store=store,
            model=model,
            encoder=encoder,
            difficulty=difficulty,
            percentile=percentile,
            threshold=threshold,
            validation_sets=validation_sets,
            strategy=strategy,
            influence=influence,
            influence_run=influence_run,
            difficulty_run=difficulty_run,
            seed=seed,
            dedupe=dedupe,
            dedupe_threshold=dedupe_threshold,
            decontaminate=decontaminate,
            decontaminate_share=decontaminate_share,
            output=output,
            name=name,
            progress=report,
        )
    if as_json:
        print_json(made.to_dict())
        return
    if made.counts:
        tau, median = made.thresholds["tau"], made.thresholds["median"]
        rows = [(q, made.counts["dataset"][q], made.counts["selection"][q]) for q in made.counts["dataset"]]
        table("quadrants", ("", "dataset", "selected"), rows)
        click.echo(f"tau = {tau:.6g}, median {influence} = {median:.6g}")
    if made.guards:
        left = [(guard["method"], guard["n_excluded"], guard["run_id"]) for guard in made.guards]
        table("left out by guards (table exclusions says why)", ("guard", "samples", "run"), left)
    unscored = f", {made.n_unscored:,} without scores left out" if made.n_unscored else ""
    how = {"stored": "read from the store", "new": "now in the store", "renewed": "made again: scores changed"}
    click.echo(
        f"selected {made.n:,} of {made.n_scored:,} samples (`{made.name}`{unscored}); "
        f"ranking {made.ranking_id}: {how[made.ranking]}"
    )
    if made.n < made.n_target and not quiet:
        click.echo(f"asked for {made.n_target:,}: the quadrant holds no more", err=True)
    if made.output:
        click.echo(f"written to {made.output}")
