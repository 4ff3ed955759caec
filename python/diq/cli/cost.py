"""``diq cost``."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from diq.base.config import MAX_LENGTH
from diq.cli.console import print_json, progress, table
from diq.cli.options import device_options, output_options, store_option

if TYPE_CHECKING:
    from diq.costs.account import Account
    from diq.costs.probe import Probe

_SECONDS = {"": 1.0, "s": 1.0, "m": 60.0, "h": 3600.0}


def _seconds(value: str) -> float:
    """``60s``, ``2m`` or plain seconds."""
    found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([smh]?)\s*", value)
    if found is None or not float(found[1]):
        raise click.BadParameter(f"`{value}` is no time, such as 60s or 2m")
    return float(found[1]) * _SECONDS[found[2]]


@click.command(short_help="Count what selecting and training cost.")
@click.argument("source", required=False, metavar="[DATASET|FILE]")
@click.option(
    "--model",
    required=True,
    metavar="MODEL",
    help="Folder or hub id (only config.json is read), or llama-3.1-8b, qwen3-8b, qwen3-14b, qwen3-32b.",
)
@click.option("--samples", type=int, metavar="N", help="Number of samples, without a dataset.")
@click.option("--tokens", type=float, metavar="T", help="Tokens a sample, without a dataset.")
@click.option(
    "--validation-samples", type=int, metavar="V", help="Of all validation sets; default the store's, else 180."
)
@click.option("--validation-sets", type=int, metavar="N", help="Default the store's, else 1.")
@click.option(
    "--ratio",
    "ratios",
    multiple=True,
    default=("0.01", "0.1"),
    show_default=True,
    metavar="R",
    help="To be trained on.",
)
@click.option("--method", type=click.Choice(["sft", "dpo"]), default="sft", show_default=True, help="Of training.")
@click.option("--epochs", type=float, default=3.0, show_default=True, help="Of training.")
@click.option(
    "--params",
    type=click.Choice(["qkv", "all-linear", "full"]),
    default="qkv",
    show_default=True,
    help="What is adapted and scored; full trains all weights.",
)
@click.option("--lora-rank", type=int, default=8, show_default=True, help="Rank of the adapter.")
@click.option("--gradient-checkpointing", is_flag=True, help="Training computes every layer once more.")
@click.option(
    "--max-length", type=int, default=MAX_LENGTH, show_default=True, help="Tokens after which a sample is cut."
)
@click.option("--rater", metavar="DIR", help="Encoder of difficulty and rater; default BERT-base and ModernBERT-base.")
@click.option("--questions", type=int, metavar="N", help="Questions of an evaluation; without it none is counted.")
@click.option(
    "--question-tokens", type=float, default=1024.0, show_default=True, help="Tokens of a question and its output."
)
@click.option(
    "--probe",
    metavar="TIME",
    help="Measure on this machine for so long (60s, 2m), with the model's weights, and predict hours.",
)
@device_options
@store_option
@output_options
def cost(
    source: str | None,
    model: str,
    samples: int | None,
    tokens: float | None,
    validation_samples: int | None,
    validation_sets: int | None,
    ratios: tuple[str, ...],
    method: str,
    epochs: float,
    params: str,
    lora_rank: int,
    gradient_checkpointing: bool,
    max_length: int,
    rater: str | None,
    questions: int | None,
    question_tokens: float,
    probe: str | None,
    device: str,
    dtype: str,
    store: Path,
    as_json: bool,
    quiet: bool,
) -> None:
    """Count the FLOPs of scoring a dataset, selecting from it and training on it: by the paper's formulas, and in full.

    The dataset is one of the store, a file, or --samples and --tokens. With --probe, real passes of the real model are
    measured here, and hours are predicted.

    \b
    Examples:
      diq cost huatuo --model Qwen/Qwen3-8B
      diq cost --samples 19000 --tokens 776 --model llama-3.1-8b
      diq cost huatuo --model ./Qwen3-8B --probe 60s
    """
    from diq.costs.cost import cost as run

    seconds = None if probe is None else _seconds(probe)
    settings: dict[str, Any] = {
        "model": model,
        "store": store,
        "params": params,
        "max_length": max_length,
        "rater": rater,
    }
    plan: dict[str, Any] = {
        **settings,
        "samples": samples,
        "tokens": tokens,
        "validation_samples": validation_samples,
        "validation_sets": validation_sets,
        "ratios": ratios,
        "method": method,
        "epochs": epochs,
        "rank": lora_rank,
        "checkpointing": gradient_checkpointing,
        "questions": questions,
        "question_tokens": question_tokens,
    }
    measured = None
    with progress(quiet=quiet or as_json) as report:
        # first without the probe: what is wrong with the request shows at once
        found = run(source, **plan)
        if seconds is not None:
            # the probe loads models
            from diq.costs.probe import probe as probe_machine

            measured = probe_machine(
                source,
                **settings,
                seconds=seconds,
                tokens=None if tokens is None else int(tokens),
                validation_sets=found.plan.sets,
                lora_rank=lora_rank,
                checkpointing=gradient_checkpointing,
                dtype=dtype,
                device=device,
                progress=report,
            )
            if source is not None:
                found = run(source, **plan, characters_per_token=measured.characters_per_token)
            measured.fill(found)
    if as_json:
        print_json({**found.to_dict(), "probe": None if measured is None else measured.to_dict()})
        return
    _show(found, measured)


def _show(found: Account, measured: Probe | None) -> None:
    plan = found.plan
    size = plan.size
    click.echo(
        f"{size.name}: {size.layers} layers, hidden {size.hidden:,}, {size.n_parameters / 1e9:.2f} billion weights "
        f"({size.source})"
    )
    heads = ["step", "samples", "tokens", "paper, FLOPs", "counted, FLOPs", "of full training"]
    rows: list[list[Any]] = []
    for step in found.steps:
        row: list[Any] = [step.name, round(step.samples), round(step.tokens), _flops(step.paper), _flops(step.flops)]
        rows.append([*row, f"{100 * step.of_full_training:.3g} %"])
        if measured is not None:
            rows[-1].append("" if step.hours is None else "{:.3g} ({:.3g} to {:.3g})".format(*step.hours))
    table("what it costs", (*heads, "hours here") if measured is not None else heads, rows)
    for note in found.notes:
        click.echo(note)
    if measured is not None:
        _show_probe(found, measured)


def _show_probe(found: Account, measured: Probe) -> None:
    by_rate = {step.rate: step.flops / step.tokens for step in found.steps if step.rate and step.tokens}
    rows = []
    for name, rate in measured.rates.items():
        share = measured.share_of_peak(name, by_rate[name]) if name in by_rate else None
        rows.append(
            (
                name,
                round(rate.mean),
                round(rate.least),
                round(rate.most),
                rate.batches,
                rate.tokens,
                f"{rate.seconds:.1f}",
                rate.batch_tokens,
                "unknown" if share is None else f"{100 * share:.0f} %",
            )
        )
    heads = ("work", "tokens/s", "least", "most", "batches", "tokens", "seconds", "largest batch", "of peak")
    text = "random tokens" if measured.made_text else f"{measured.samples} samples of the dataset"
    table(f"measured on {measured.device}, {measured.dtype}, with {text}", heads, rows)


def _flops(value: float | None) -> str:
    return "" if value is None else f"{value:.3e}".replace("e+", "e")
