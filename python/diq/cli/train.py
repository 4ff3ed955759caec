"""``diq train``: fine-tune a model on a selection."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import click

from diq.base.config import MAX_LENGTH
from diq.cli.console import print_json, progress, table
from diq.cli.options import device_options, output_options, store_option


@click.command(short_help="Fine-tune a model on a selection, supervised or by preference.")
@click.argument("selection")
@click.option("--model", required=True, metavar="FOLDER|ID", help="Base model: a folder, or a hub id.")
@click.option(
    "--output",
    "-o",
    required=True,
    metavar="DIR",
    type=click.Path(path_type=Path),
    help="Folder of the adapter, or of the model with --params full.",
)
@click.option(
    "--method",
    type=click.Choice(["sft", "dpo"]),
    default="sft",
    show_default=True,
    help="sft: supervised; dpo: by preference pairs.",
)
@click.option(
    "--adapter",
    metavar="DIR",
    help="Go on with this LoRA adapter of --model; with dpo it is also the reference. Without it the base model is.",
)
@click.option(
    "--params",
    metavar="qkv|all-linear|full|REGEX",
    help="What is trained: an adapter on query, key and value (default), on all linear layers, or on the modules whose "
    "names match; or full, all weights.",
)
@click.option("--lora-rank", type=int, help="Rank of a new adapter.  [default: 8]")
@click.option("--lora-alpha", type=float, help="A new adapter is scaled by alpha / rank.  [default: 16]")
@click.option("--lora-dropout", type=float, help="Dropout before a new adapter.  [default: 0]")
@click.option("--quantization", type=click.Choice(["nf4"]), help="Pack the frozen weights into 4 bits (QLoRA).")
@click.option("--beta", default=0.1, show_default=True, help="How strongly dpo holds on to the reference.")
@click.option("--epochs", type=float, help="Passes over the selection.  [default: 3; dpo: 1]")
@click.option(
    "--learning-rate",
    type=float,
    help="Highest learning rate of AdamW.  [default: 1e-4; dpo: 5e-6; --params full: 1e-5, and 5e-7 for dpo]",
)
@click.option(
    "--max-length",
    default=MAX_LENGTH,
    show_default=True,
    help="Tokens after which a sample is cut on the right.",
)
@click.option("--batch-size", default=8, show_default=True, help="Samples of an optimizer step, over all devices.")
@click.option(
    "--micro-batch-size",
    type=int,
    help="Samples that go through the model at a time on a device; chosen by length when left out, and halved where "
    "memory runs out. Changes memory, not the result.",
)
@click.option(
    "--packing",
    is_flag=True,
    help="Put the samples of a micro-batch into one row without padding: faster, the same result.",
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
    help="Take the loss of this validation set before, after every epoch, and after. Repeat for several.",
)
@click.option(
    "--template",
    type=click.Choice(["auto", "none"]),
    default="auto",
    show_default=True,
    help="auto uses the tokenizer's chat template; none the plain Question/Answer form.",
)
@click.option(
    "--attention",
    metavar="NAME",
    help="Attention of transformers: flash_attention_2, sdpa, eager.  [default: FlashAttention 2 on a GPU that has it]",
)
@click.option(
    "--gradient-checkpointing/--no-gradient-checkpointing",
    default=None,
    help="Compute activations twice instead of keeping them; by default on a GPU only.",
)
@click.option("--save-steps", type=int, help="Also keep a checkpoint every so many steps; every epoch's end is kept.")
@click.option(
    "--report-to",
    type=click.Choice(["tensorboard", "wandb"]),
    multiple=True,
    help="Also send losses there; TensorBoard's files go to OUTPUT/logs.",
)
@click.option("--resume/--no-resume", default=True, show_default=True, help="Go on from the newest checkpoint.")
@click.option("--overwrite", is_flag=True, help="Delete what an earlier training left in the output, and train.")
@click.option("--model-name", metavar="NAME", help="Name of the model in the store, if not its id or folder name.")
@click.option("--devices", default=1, show_default=True, help="GPUs that share a step, a process each.")
@device_options
@store_option
@output_options
def train(as_json: bool, quiet: bool, **options: Any) -> None:
    """Fine-tune a model on SELECTION, with the loss on the answers alone: a LoRA adapter, or all weights.

    SELECTION is a file that `diq select` wrote (or any that `diq ingest` reads), the name or number of a selection in
    the store, or a dataset's name. The same command again goes on where it stopped, and does nothing once the result is
    there. Several GPUs: --devices N, or start it with torchrun or accelerate launch (-m diq train ...).

    \b
    Examples:
      diq train top10.jsonl --model Qwen/Qwen3-8B --output adapters/top10 --validation-set medqa
      diq train pairs --method dpo --model Qwen/Qwen3-8B --adapter adapters/top10 --output adapters/top10-dpo
    """
    # loads torch, transformers and trl
    from diq.training.train import train as run

    # of the processes that torchrun starts, the first one speaks
    silent = os.environ.get("RANK", "0") != "0"
    with progress(quiet=quiet or as_json or silent) as report:
        summary = run(progress=report, **options)
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
