"""``diq train``: fine-tune a LoRA adapter on a selection."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from diq.cli.console import print_json, progress, table
from diq.cli.options import device_options, output_options, store_option
from diq.config import MAX_LENGTH


@click.command(short_help="Fine-tune a LoRA adapter on a selection.")
@click.argument("selection")
@click.option("--model", required=True, metavar="FOLDER|ID", help="Base model: a folder, or a hub id.")
@click.option(
    "--output", "-o", required=True, metavar="DIR", type=click.Path(path_type=Path), help="Folder of the adapter."
)
@click.option("--epochs", default=3.0, show_default=True, help="Passes over the selection.")
@click.option("--learning-rate", default=1e-4, show_default=True, help="Highest learning rate of AdamW.")
@click.option("--lora-rank", default=8, show_default=True, help="Rank of the adapter.")
@click.option("--lora-alpha", default=16.0, show_default=True, help="The adapter is scaled by alpha / rank.")
@click.option("--lora-dropout", default=0.0, show_default=True, help="Dropout before the adapter.")
@click.option(
    "--max-length",
    default=MAX_LENGTH,
    show_default=True,
    help="Tokens after which a sample is cut on the right.",
)
@click.option("--batch-size", default=8, show_default=True, help="Samples of an optimizer step.")
@click.option(
    "--micro-batch-size",
    type=int,
    help="Samples that go through the model at a time; chosen by length when left out. Changes memory, not the result.",
)
@click.option(
    "--scheduler",
    type=click.Choice(["cosine", "linear", "constant", "constant_with_warmup"]),
    default="cosine",
    show_default=True,
    help="Course of the learning rate.",
)
@click.option("--warmup-ratio", default=0.03, show_default=True, help="Share of the steps in which it rises.")
@click.option("--weight-decay", default=0.0, show_default=True, help="Weight decay of AdamW.")
@click.option("--seed", default=0, show_default=True, help="Of the adapter's start, the order and dropout.")
@click.option(
    "--validation-set",
    "validation_sets",
    multiple=True,
    metavar="NAME",
    help="Take the loss of this validation set before and after. Repeat for several.",
)
@click.option(
    "--template",
    type=click.Choice(["auto", "none"]),
    default="auto",
    show_default=True,
    help="auto uses the tokenizer's chat template; none the plain Question/Answer form.",
)
@click.option(
    "--gradient-checkpointing/--no-gradient-checkpointing",
    default=None,
    help="Compute activations twice instead of keeping them; by default on a GPU only.",
)
@click.option("--save-steps", type=int, help="Also keep a checkpoint every so many steps; every epoch's end is kept.")
@click.option("--resume/--no-resume", default=True, show_default=True, help="Go on from the newest checkpoint.")
@click.option("--overwrite", is_flag=True, help="Delete what an earlier training left in the output, and train.")
@click.option("--model-name", metavar="NAME", help="Name of the model in the store, if not its id or folder name.")
@device_options
@store_option
@output_options
def train(as_json: bool, quiet: bool, **options: Any) -> None:
    """Fine-tune a LoRA adapter (query, key, value) on SELECTION, with the loss on the answers alone.

    SELECTION is a file that `diq select` wrote, the name or number of a selection in the store, or a dataset's name.
    The same command again goes on where it stopped, and does nothing once the adapter is there.

    \b
    Example:
      diq train top10.jsonl --model Qwen/Qwen3-8B --output adapters/top10 --validation-set medqa
    """
    # loads torch, transformers and trl
    from diq.train import run

    with progress(quiet=quiet or as_json) as report:
        summary = run(progress=report, **options)
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
    for name, losses in summary.validation.items():
        rows.append((f"loss on {name}, before", losses["before"]))
        rows.append((f"loss on {name}, after", losses["after"]))
    rows += [("seconds", summary.seconds), ("output", summary.output)]
    table("Already trained" if summary.already_trained else "Training", ["", ""], rows)
