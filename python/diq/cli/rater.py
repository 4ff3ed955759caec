"""``diq rater train``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from diq.cli.console import print_json, progress, table
from diq.cli.options import device_options, output_options, store_option


@click.group()
def rater() -> None:
    """Encoders that predict influence from text, for datasets too large for gradients.

    A rater learns the dots of a part that `diq score influence` has scored; `diq score influence --rater` predicts the
    rest.
    """


@rater.command()
@click.argument("datasets", nargs=-1, required=True, metavar="DATASET...")
@click.option(
    "--model", required=True, metavar="NAME", help="Language model whose dots are learnt, as the store has it."
)
@click.option("--run", "influence_run", type=int, metavar="N", help="Run of the dots; needed when there are several.")
@click.option(
    "--encoder",
    metavar="FOLDER|ID",
    default="answerdotai/ModernBERT-base",
    show_default=True,
    help="Encoder that is fine-tuned: a folder, or a hub id.",
)
@click.option(
    "--output", "-o", required=True, metavar="DIR", type=click.Path(path_type=Path), help="Folder of the rater."
)
@click.option(
    "--target",
    type=click.Choice(["rank", "standard"]),
    default="rank",
    show_default=True,
    help="Scale of the regression: normal scores of the ranks of the dots, or standardised dots.",
)
@click.option(
    "--coverage", type=float, default=0.9, show_default=True, help="Share of dots that the intervals are to hold."
)
@click.option("--epochs", type=float, default=5.0, show_default=True, help="At most so many passes over the texts.")
@click.option("--learning-rate", type=float, default=5e-5, show_default=True, help="Highest learning rate of AdamW.")
@click.option("--batch-size", type=int, default=32, show_default=True, help="Texts of an optimizer step.")
@click.option(
    "--max-length",
    type=int,
    default=1024,
    show_default=True,
    help="Tokens that are read of a text; at most the context.",
)
@click.option("--patience", type=int, default=2, show_default=True, help="Epochs without progress before it stops.")
@click.option(
    "--shares",
    type=float,
    nargs=3,
    default=(0.7, 0.15, 0.15),
    show_default=True,
    metavar="TRAIN VALIDATION TEST",
    help="Shares of the questions.",
)
@click.option(
    "--baselines/--no-baselines", default=True, show_default=True, help="Also fit the two baselines on the same split."
)
@click.option("--seed", type=int, default=0, show_default=True, help="Of the split, the head and the order.")
@click.option("--overwrite", is_flag=True, help="Replace a rater that another training left in the output.")
@device_options
@store_option
@output_options
def train(as_json: bool, quiet: bool, **options: Any) -> None:
    """Train a rater on the dots of DATASET... and measure it on questions that it has not seen.

    \b
    Example:
      diq rater train part --model qwen3-8b --output raters/part
      diq score influence pool --rater raters/part
    """
    # loads torch and transformers
    from diq.rater.train import train_rater as run

    with progress(quiet=quiet or as_json) as report:
        summary = run(progress=report, **options)
    if as_json:
        print_json(summary.to_dict())
        return
    rows: list[tuple[str, Any]] = [
        ("language model", summary.model),
        ("run of the dots", summary.influence_run),
        ("encoder", summary.encoder),
        ("samples", summary.n_samples),
        ("left out", summary.n_left_out),
        *((f"  {name}", n) for name, n in summary.splits.items()),
        ("texts cut", summary.n_truncated),
        ("tokens that are read", summary.max_length),
        ("best epoch", summary.fit["best_epoch"]),
        ("seconds", summary.fit["seconds"]),
        ("output", summary.output),
    ]
    table("Already trained" if summary.already_trained else f"Rater (run {summary.run_id})", ["", ""], rows)
    measures = [
        (name, one["spearman"], one["pearson"], one.get("coverage"), *(by[name]["spearman"] for by in others))
        for others in [list(summary.baselines.values())]
        for name, one in summary.metrics.items()
    ]
    headings = ["validation set", "Spearman", "Pearson", "inside the interval"]
    table("Test split", [*headings, *(f"Spearman, {name}" for name in summary.baselines)], measures)
