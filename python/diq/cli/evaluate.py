"""``diq evaluate``: the nine benchmarks."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import click

import diq
from diq.base.config import store_path
from diq.base.errors import UsageError
from diq.base.options import fields_of
from diq.base.text import amount
from diq.cli.console import print_json, progress, say, table
from diq.cli.options import keywords, options_of, output_options, refuse
from diq.evaluation.options import EvaluateOptions, RescoreOptions

_AVERAGES = {"standard": "AvgS", "challenging": "AvgC", "all": "AvgA"}


@click.command(short_help="Measure a model on the nine benchmarks.")
@options_of(EvaluateOptions, optional=["model"])
@click.option(
    "--rescore", is_flag=True, help="Mark all kept answers again by today's rules; no model and no file is needed."
)
@options_of(RescoreOptions, without=fields_of(EvaluateOptions))
@output_options
def evaluate(rescore: bool, as_json: bool, quiet: bool, **given: Any) -> None:
    """Ask a model the questions of medical benchmarks, and mark its answers by the paper's two steps.

    Every answer is kept in Parquet files beside the store. The same command again goes on where it stopped, and asks
    nothing that was asked before.

    \b
    Examples:
      diq evaluate --model Qwen/Qwen3-8B --adapter adapters/top10
      diq evaluate --model Qwen/Qwen3-8B --benchmark medqa --benchmark medbullets5=medbullets_op5.json --repeat 5
      diq evaluate --model NAME --backend server --base-url http://localhost:8000/v1
      diq evaluate --rescore
    """
    if rescore:
        taken = {*fields_of(RescoreOptions), "rescore", "as_json", "quiet"}
        refuse({*given}.difference(taken), "with --rescore")
        _rescore(given, as_json=as_json, quiet=quiet)
        return
    if given["model"] is None:
        raise UsageError("no model was named", "give --model FOLDER, or --rescore to mark what is kept")
    refuse(("run",), "without --rescore")
    with progress(quiet=quiet or as_json) as report:
        found = diq.evaluate(**keywords(EvaluateOptions, given), progress=report).to_dict()
    if as_json:
        print_json({"store": str(store_path(given["store"])), **found})
    else:
        _show(found)


def _show(found: dict[str, Any]) -> None:
    protocol = found["protocol"]
    several = any(len(one["repeats"]) > 1 for one in found["benchmarks"])
    title = f"run {found['run_id']}: `{found['model']}`, {found['backend']}"
    if protocol["limit"] is not None:
        title += f", a trial: the first {amount(protocol['limit'], 'question')}"
    rows: list[tuple[str, ...]] = [
        (
            one["label"],
            _asked(one),
            f"{100 * one['accuracy']:.2f} ± {100 * one['standard_error']:.2f}",
            *(("" if one["spread"] is None else f"{100 * one['spread']:.2f}",) if several else ()),
            f"{100 * one['accuracy_strict']:.2f}",
            _unanswered(one["n_unanswered"], sum(repeat["n"] for repeat in one["repeats"])),
            f"{one['n_cut']:,}",
        )
        for one in found["benchmarks"]
    ]
    for name, label in _AVERAGES.items():
        mean = found["averages"][name]
        rows.append((label, "", "–" if mean is None else f"{100 * mean:.2f}", *[""] * (4 if several else 3)))
    spread = (f"spread of {max(len(one['repeats']) for one in found['benchmarks'])}",) if several else ()
    table(title, ("benchmark", "n", "accuracy, %", *spread, "strict, %", "unanswered", "cut"), rows)
    for name, missing in found["missing"].items():
        say(f"{_AVERAGES[name]} needs also: {', '.join(missing)}")
    for one in found["benchmarks"]:
        if one["bad_rows"]:
            say(f"{one['label']}: left out, without a question: {amount(len(one['bad_rows']), 'row')} of the benchmark")
    say(
        f"generated {amount(found['n_generated'], 'answer')}, {found['n_kept']:,} were there; all are in "
        f"{found['folder']}"
    )


def _asked(one: Mapping[str, Any]) -> str:
    """Questions of a benchmark; where some got no reply, how many did, all repeats together."""
    n = one["n"] * len(one["repeats"])
    return f"{n - one['n_no_reply']:,} of {n:,}" if one["n_no_reply"] else f"{one['n']:,}"


def _unanswered(n: int, of: int) -> str:
    """Outputs without an option, with their share."""
    return f"{n:,} ({100 * n / of:.1f} %)"


def _rescore(given: Mapping[str, Any], *, as_json: bool, quiet: bool) -> None:
    with progress(quiet=quiet or as_json) as report:
        found = [one.to_dict() for one in diq.rescore(**keywords(RescoreOptions, given), progress=report)]
    if as_json:
        print_json({"store": str(store_path(given["store"])), "marked": found})
        return
    table(
        "marked again",
        ("run", "model", "benchmark", "repeat", "n", "accuracy, %", "strict, %", "unanswered", "before, %"),
        [
            (
                one["run_id"], one["model"], one["benchmark"], one["repeat"] + 1, one["n"],
                f"{100 * one['accuracy']:.2f}", f"{100 * one['accuracy_strict']:.2f}",
                _unanswered(one["n_unanswered"], one["n"]),
                ", ".join(f"{100 * accuracy:.2f} (rules {name})" for name, accuracy in one["before"].items()),
            )
            for one in found
        ],
    )  # fmt: skip
