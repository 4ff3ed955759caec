"""``diq cost``."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import click

import diq
from diq.base.options import fields_of
from diq.base.text import amount
from diq.cli.console import print_json, progress, say, table
from diq.cli.options import keywords, options_of, output_options, refuse
from diq.costs.options import CostOptions, ProbeOptions

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
@options_of(CostOptions, without=["characters_per_token"])
@click.option(
    "--probe",
    metavar="TIME",
    help="Measure on this machine for so long (60s, 2m), with the model's weights, and predict hours.",
)
@options_of(ProbeOptions, without=[*fields_of(CostOptions), "seconds"])
@output_options
def cost(probe: str | None, as_json: bool, quiet: bool, **given: Any) -> None:
    """Count the FLOPs of scoring a dataset, selecting from it and training on it: by the paper's formulas, and in full.

    The dataset is one of the store, a file, or --samples and --tokens. With --probe, real passes of the real model are
    measured here, and hours are predicted.

    \b
    Examples:
      diq cost huatuo --model Qwen/Qwen3-8B
      diq cost --samples 19000 --tokens 776 --model llama-3.1-8b
      diq cost huatuo --model ./Qwen3-8B --probe 60s
    """
    seconds = None if probe is None else _seconds(probe)
    if seconds is None:
        refuse(fields_of(ProbeOptions).keys() - fields_of(CostOptions), "without --probe TIME")
    plan = keywords(CostOptions, given)
    measured = None
    with progress(quiet=quiet or as_json) as report:
        # first without the probe: what is wrong with the request shows at once
        found = diq.cost(**plan)
        if seconds is not None:
            machine = keywords(ProbeOptions, {**given, "seconds": seconds, "validation_sets": found.plan.sets})
            measured = diq.probe(**machine, progress=report)
            if measured.characters_per_token is not None:
                found = diq.cost(**plan, characters_per_token=measured.characters_per_token)
            measured.fill(found)
    if as_json:
        print_json({**found.to_dict(), "probe": None if measured is None else measured.to_dict()})
        return
    _show(found, measured)


def _show(found: Account, measured: Probe | None) -> None:
    plan = found.plan
    size = plan.size
    say(
        f"{size.name}: {amount(size.layers, 'layer')}, hidden {size.hidden:,}, "
        f"{size.n_parameters / 1e9:.2f} billion weights ({size.source})"
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
        say(note)
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
    text = "random tokens" if measured.made_text else f"{amount(measured.samples, 'sample')} of the dataset"
    table(f"measured on {measured.device}, {measured.dtype}, with {text}", heads, rows)


def _flops(value: float | None) -> str:
    return "" if value is None else f"{value:.3e}".replace("e+", "e")
