"""``diq train``: fine-tune a model on a selection."""

from __future__ import annotations

import os
from typing import Any

import click

import diq
from diq.cli.console import print_json, progress, table
from diq.cli.options import keywords, options_of, output_options
from diq.training.options import TrainOptions


@click.command(short_help="Fine-tune a model on a selection, supervised or by preference.")
@options_of(TrainOptions)
@output_options
def train(as_json: bool, quiet: bool, **given: Any) -> None:
    """Fine-tune a model on SELECTION, with the loss on the answers alone: a LoRA adapter, or all weights.

    SELECTION is a file that `diq select` wrote (or any that `diq ingest` reads), the name or number of a selection in
    the store, or a dataset's name. The same command again goes on where it stopped, and does nothing once the result is
    there. Several GPUs: --devices N, or start it with torchrun or accelerate launch (-m diq train ...).

    \b
    Examples:
      diq train top10.jsonl --model Qwen/Qwen3-8B --output adapters/top10 --validation-set medqa
      diq train pairs --method dpo --model Qwen/Qwen3-8B --adapter adapters/top10 --output adapters/top10-dpo
    """

    # of the processes that torchrun starts, the first one speaks
    silent = os.environ.get("RANK", "0") != "0"
    with progress(quiet=quiet or as_json or silent) as report:
        summary = diq.train(**keywords(TrainOptions, given), progress=report)
    if silent:
        return
    if as_json:
        print_json(summary.to_dict())
        return
    rows: list[tuple[str, Any]] = [
        ("trained on", summary.selection),
        ("samples", summary.n_samples),
        ("left out", summary.n_left_out),
        ("tokens", summary.tokens),
        ("answer tokens", summary.answer_tokens),
        ("epochs", summary.epochs),
        ("steps", summary.steps),
        ("trained parameters", summary.trainable_parameters),
        ("training loss, first", summary.loss_first),
        ("training loss, last", summary.loss_last),
    ]
    if summary.preferred is not None:
        rows.append(("chosen answer preferred, last steps", summary.preferred))
    for name, losses in summary.validation.items():
        rows.append((f"loss on {name}, before", losses["before"]))
        rows.append((f"loss on {name}, after", losses["after"]))
    rows += [("seconds", summary.seconds), ("output", summary.output)]
    table("Already trained" if summary.already_trained else "Training", ["", ""], rows)
