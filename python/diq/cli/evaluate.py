"""``diq evaluate``: the nine benchmarks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from diq.base.config import MAX_LENGTH
from diq.base.errors import UsageError
from diq.cli.console import print_json, progress, table
from diq.cli.options import device_options, output_options, store_option

_AVERAGES = {"standard": "AvgS", "challenging": "AvgC", "all": "AvgA"}


@click.command(short_help="Measure a model on the nine benchmarks.")
@click.option("--model", metavar="FOLDER|ID|NAME", help="Model: a folder, a hub id, or its name on the server.")
@click.option(
    "--adapter", metavar="DIR", help="LoRA adapter of the model, or a folder with all weights that came of it."
)
@click.option(
    "--benchmark",
    "benchmarks",
    multiple=True,
    metavar="NAME|NAME=SOURCE",
    help="Ask this benchmark, from its hub id or from a file, folder or other hub id. Repeat for several; default all "
    "nine: medqa, medmcqa, mmlu_pro, hle, medbullets4, medbullets5, medxpertqa, medguide, metamedqa.",
)
@click.option("--repeat", default=1, show_default=True, metavar="N", help="Ask everything so often.")
@click.option("--limit", type=int, metavar="N", help="The first questions of each benchmark alone, for a trial.")
@click.option(
    "--few-shot", default=0, show_default=True, metavar="N", help="Examples before each question; see --examples."
)
@click.option(
    "--examples",
    multiple=True,
    metavar="NAME=FILE",
    help="Where the examples of a benchmark come from: a file of its validation split. Repeat for several.",
)
@click.option(
    "--max-tokens", default=4096, show_default=True, help="Tokens of an answer, thinking included. Part of the run."
)
@click.option(
    "--temperature",
    type=lambda value: None if value == "default" else float(value),
    metavar="NUMBER",
    default=0.0,
    show_default=True,
    help="0 takes the likeliest token; `default` leaves it to the server. Part of the run.",
)
@click.option("--top-p", default=1.0, show_default=True, help="Share of the likeliest tokens to draw from.")
@click.option("--seed", default=0, show_default=True, help="Of the first repeat; the others count on.")
@click.option(
    "--template",
    type=click.Choice(["auto", "none"]),
    default="auto",
    show_default=True,
    help="auto uses the tokenizer's chat template; none the plain Question/Answer form.",
)
@click.option("--max-length", default=MAX_LENGTH, show_default=True, help="Tokens of a prompt and its answer together.")
@click.option(
    "--backend",
    type=click.Choice(["hf", "vllm", "server"]),
    default="hf",
    show_default=True,
    help="transformers, vLLM, or an OpenAI-compatible server.",
)
@click.option("--batch-size", default=8, show_default=True, help="Prompts at once (hf). Changes speed, not the run.")
@click.option(
    "--base-url",
    metavar="URL",
    help="Address of the server, such as http://localhost:8000/v1; default $OPENAI_BASE_URL, else OpenAI's.",
)
@click.option(
    "--api-key-variable",
    metavar="NAME",
    default="OPENAI_API_KEY",
    show_default=True,
    help="Environment variable that holds the server's key, if it wants one; the key is never stored or shown.",
)
@click.option("--concurrency", default=8, show_default=True, help="Requests to the server that are open at once.")
@click.option(
    "--timeout",
    "timeout_s",
    default=600.0,
    show_default=True,
    help="Seconds without a sign of the server after which a request has failed.",
)
@click.option("--retries", default=6, show_default=True, help="How often a request to the server is repeated.")
@click.option("--allow-bad-rows", is_flag=True, help="Go on without the rows of a benchmark that hold no question.")
@click.option("--model-name", metavar="NAME", help="Name of the model in the store, if not its id or folder name.")
@click.option(
    "--rescore", is_flag=True, help="Mark all kept answers again by today's rules; no model and no file is needed."
)
@click.option("--run", "run_id", type=int, metavar="NUMBER", help="With --rescore: this evaluation alone.")
@device_options
@store_option
@output_options
def evaluate(
    model: str | None,
    benchmarks: tuple[str, ...],
    examples: tuple[str, ...],
    rescore: bool,
    run_id: int | None,
    as_json: bool,
    quiet: bool,
    store: Path,
    **options: Any,
) -> None:
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
        _rescore(store, run_id, as_json=as_json, quiet=quiet)
        return
    if model is None:
        raise UsageError("no model was named", "give --model FOLDER, or --rescore to mark what is kept")
    if run_id is not None:
        raise UsageError("--run goes with --rescore", "leave it out")
    # a model is loaded by it, where something is missing
    from diq.evaluation.evaluate import evaluate as run

    names, sources = _sources(benchmarks, "--benchmark")
    _, files = _sources(examples, "--examples")
    with progress(quiet=quiet or as_json) as report:
        found = run(
            model=model,
            store=store,
            benchmarks=names,
            sources=sources,
            examples=files,
            progress=report,
            **options,
        ).to_dict()
    if as_json:
        print_json({"store": str(store), **found})
    else:
        _show(found)


def _sources(values: tuple[str, ...], option: str) -> tuple[list[str], dict[str, str]]:
    """Names in their order, and the sources of those that have one."""
    names, sources = [], {}
    for value in values:
        name, equals, source = value.partition("=")
        if not name.strip() or bool(equals) != bool(source.strip()) or (option == "--examples" and not equals):
            raise UsageError(f"{option} `{value}` is not of the form NAME=FILE", f"give it like {option} medqa=FILE")
        if name.strip() in names:
            raise UsageError(f"{option} names `{name.strip()}` twice", "name each benchmark once")
        names.append(name.strip())
        if source:
            sources[name.strip()] = source.strip()
    return names, sources


def _show(found: dict[str, Any]) -> None:
    protocol = found["protocol"]
    several = any(len(one["repeats"]) > 1 for one in found["benchmarks"])
    title = f"run {found['run_id']}: `{found['model']}`, {found['backend']}"
    if protocol["limit"] is not None:
        title += f", a trial: the first {protocol['limit']:,} questions"
    rows: list[tuple[str, ...]] = [
        (
            one["label"],
            f"{one['n']:,}",
            f"{100 * one['accuracy']:.2f} ± {100 * one['standard_error']:.2f}",
            *(("" if one["spread"] is None else f"{100 * one['spread']:.2f}",) if several else ()),
            f"{100 * one['accuracy_strict']:.2f}",
            f"{one['n_unanswered']:,}",
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
        click.echo(f"{_AVERAGES[name]} needs also: {', '.join(missing)}")
    for one in found["benchmarks"]:
        if one["bad_rows"]:
            click.echo(
                f"{one['label']}: {len(one['bad_rows']):,} rows of the benchmark hold no question and are left out"
            )
    click.echo(
        f"{found['n_generated']:,} answers were generated, {found['n_kept']:,} were there; all are in {found['folder']}"
    )


def _rescore(store: Path, run_id: int | None, *, as_json: bool, quiet: bool) -> None:
    from dataclasses import asdict

    from diq.evaluation.rescore import rescore

    with progress(quiet=quiet or as_json) as report:
        found = [asdict(one) for one in rescore(store, run_id=run_id, progress=report)]
    if as_json:
        print_json({"store": str(store), "marked": found})
        return
    table(
        "marked again",
        ("run", "model", "benchmark", "repeat", "n", "accuracy, %", "strict, %", "unanswered", "before, %"),
        [
            (
                one["run_id"], one["model"], one["benchmark"], one["repeat"] + 1, one["n"],
                f"{100 * one['accuracy']:.2f}", f"{100 * one['accuracy_strict']:.2f}", one["n_unanswered"],
                ", ".join(f"{100 * accuracy:.2f} (rules {name})" for name, accuracy in one["before"].items()),
            )
            for one in found
        ],
    )  # fmt: skip
