"""``diq score difficulty`` and ``diq score influence``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from diq.cli.console import print_json, progress, table
from diq.cli.options import device_options, output_options, pairs, store_option
from diq.config import MAX_LENGTH


@click.group()
def score() -> None:
    """Compute the difficulty or influence that is missing, nothing else.

    A killed run loses at most some seconds of work: the same command goes on where it stopped.
    """


@score.command()
@click.argument("dataset")
@click.option("--model", "classifier", metavar="FOLDER", help="Folder or hub id of a difficulty classifier.")
@click.option(
    "--columns",
    multiple=True,
    metavar="DIMENSION=COLUMN",
    help="Take it from a number that came with the data, such as overall=complexity; repeat or separate by commas.",
)
@click.option("--batch-tokens", type=int, help="Padded tokens a batch.")
@device_options
@store_option
@output_options
def difficulty(
    dataset: str,
    classifier: str | None,
    columns: tuple[str, ...],
    batch_tokens: int | None,
    device: str,
    dtype: str,
    store: Path,
    as_json: bool,
    quiet: bool,
) -> None:
    """Knowledge, reasoning and overall difficulty (1 to 5) of every sample of DATASET.

    A classifier is a sequence-classification folder with 15 outputs named knowledge_1 ... overall_5, or one with the
    three sub-folders knowledge, reasoning and overall of five classes each. The prompt of a sample is what it reads.
    """
    # the stage loads torch, which `diq score --help` must not wait for
    from diq.score import score_difficulty

    with progress(quiet=quiet or as_json) as report:
        summary = score_difficulty(
            dataset,
            store=store,
            classifier=classifier,
            columns=pairs(columns, "--columns"),
            device=device,
            dtype=dtype,
            token_budget=batch_tokens,
            progress=report,
        )
    _show("difficulty", summary.to_dict(), as_json)


@score.command()
@click.argument("dataset")
@click.option("--model", required=True, help="Folder or hub id of the causal language model.")
@click.option("--model-name", help="Name of the model in the store; default the hub id or the folder's name.")
@click.option(
    "--validation-set", "validation_sets", multiple=True, metavar="NAME", help="Validation set; repeat. Default: all."
)
@click.option(
    "--params",
    default="qkv",
    show_default=True,
    help="Weights that count: qkv, all-linear, or a regular expression over module names.",
)
@click.option("--max-length", default=MAX_LENGTH, show_default=True, help="Tokens after which a sample is cut.")
@click.option(
    "--loss-reduction",
    type=click.Choice(["mean", "sum"]),
    default="mean",
    show_default=True,
    help="Over the answer tokens of a sample; it changes the ranking and is part of the run.",
)
@click.option(
    "--template",
    type=click.Choice(["auto", "none"]),
    default="auto",
    show_default=True,
    help="auto uses the tokenizer's chat template if it has one.",
)
@click.option("--batch-tokens", type=int, help="Padded tokens a batch; default 2048 on a CPU, 16384 on a GPU.")
@device_options
@store_option
@output_options
def influence(
    dataset: str,
    model: str,
    model_name: str | None,
    validation_sets: tuple[str, ...],
    params: str,
    max_length: int,
    loss_reduction: str,
    template: str,
    batch_tokens: int | None,
    device: str,
    dtype: str,
    store: Path,
    as_json: bool,
    quiet: bool,
) -> None:
    """Dot of every sample's gradient with the mean gradient of each validation set, exactly (no projection)."""
    from diq.score import score_influence

    with progress(quiet=quiet or as_json) as report:
        summary = score_influence(
            dataset,
            model=model,
            store=store,
            validation_sets=validation_sets,
            model_name=model_name,
            params=params,
            max_length=max_length,
            loss_reduction=loss_reduction,  # type: ignore[arg-type]
            template=template,  # type: ignore[arg-type]
            dtype=dtype,
            device=device,
            token_budget=batch_tokens,
            progress=report,
        )
    _show("influence", summary.to_dict(), as_json)


def _show(kind: str, summary: dict[str, Any], as_json: bool) -> None:
    if as_json:
        print_json(summary)
        return
    seconds = summary["seconds"]
    rows = [
        ("samples", summary["n_samples"]),
        ("scored now", summary["n_scored"]),
        ("already in the store", summary["n_cached"]),
        ("without a score", summary["n_no_score"]),
        *((f"  {reason}", n) for reason, n in summary["reasons"].items()),
        ("seconds", round(seconds, 1)),
    ]
    if summary["tokens"] and seconds:
        rows.append(("tokens per second", round(summary["tokens"] / seconds)))
    for name, value in summary["details"].items():
        shown = ", ".join(map(str, value)) if isinstance(value, list) else value
        if isinstance(value, dict):
            shown = ", ".join(f"{key} {one}" for key, one in value.items())
        rows.append((name.replace("_", " "), shown))
    table(f"{kind} of `{summary['dataset']}` (run {summary['run_id']})", ("", "value"), rows)
