"""``diq rater train``."""

from __future__ import annotations

from typing import Any

import click

import diq
from diq.cli.console import print_json, progress, table
from diq.cli.options import keywords, options_of, output_options
from diq.rater.options import TrainRaterOptions


@click.group()
def rater() -> None:
    """Encoders that predict influence from text, for datasets too large for gradients.

    A rater learns the dots of a part that `diq score influence` has scored; `diq score influence --rater` predicts the
    rest.
    """


@rater.command()
@options_of(TrainRaterOptions)
@output_options
def train(as_json: bool, quiet: bool, **given: Any) -> None:
    """Train a rater on the dots of DATASET... and measure it on questions that it has not seen.

    \b
    Example:
      diq rater train part --model qwen3-8b --output raters/part
      diq score influence pool --rater raters/part
    """

    with progress(quiet=quiet or as_json) as report:
        summary = diq.train_rater(**keywords(TrainRaterOptions, given), progress=report)
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
