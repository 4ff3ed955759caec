"""``diq difficulty annotate`` and ``train``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from diq.cli.console import print_json, progress, table
from diq.cli.options import device_options, output_options, server_options, store_option


@click.group()
def difficulty() -> None:
    """Labels of difficulty by a language model, and classifiers that learn from labels.

    The ratings are labels for a classifier, or, where a whole dataset is rated, its difficulty.
    """


@difficulty.command()
@click.argument("dataset")
@click.option("--sample", type=int, metavar="N", help="Rate N distinct questions, drawn by --seed; default all.")
@click.option("--seed", type=int, default=0, show_default=True, help="Of the draw and the order of asking.")
@click.option("--retry-unreadable", is_flag=True, help="Ask again where a reply could not be read twice.")
@click.option("--dry-run", is_flag=True, help="Ask nothing, show how many questions, tokens and what cost it would be.")
@server_options
@store_option
@output_options
def annotate(
    dataset: str,
    sample: int | None,
    seed: int,
    retry_unreadable: bool,
    dry_run: bool,
    store: Path,
    as_json: bool,
    quiet: bool,
    **server: Any,
) -> None:
    """Have a language model rate the questions of DATASET: knowledge, reasoning and overall, 1 to 5, with its reasons.

    Through any OpenAI-compatible server. Every reply is kept; nothing is asked twice, and a stopped command goes on.
    """
    # the stage loads the client, which `diq difficulty --help` must not wait for
    from diq.difficulty.annotate import annotate as run
    from diq.judging.chat import Server

    with progress(quiet=quiet or as_json) as report:
        summary = run(
            dataset,
            store=store,
            server=Server(**server),
            sample=sample,
            seed=seed,
            retry_unreadable=retry_unreadable,
            dry_run=dry_run,
            progress=report,
        ).to_dict()
    if as_json:
        print_json(summary)
    elif dry_run:
        _show_estimate(summary)
    else:
        _show_annotation(summary)


def _show_estimate(summary: dict[str, Any]) -> None:
    rows = [
        ("questions", summary["n_questions"]),
        ("to ask", summary["n_to_ask"]),
        ("prompt tokens (characters / 4)", summary["prompt_tokens"]),
    ]
    if summary["cost_limit"] is not None:
        rows += [
            ("cost of the prompts", summary["cost_prompts"]),
            ("cost if every reply has --max-tokens", summary["cost_limit"]),
        ]
    table(f"what annotating `{summary['dataset']}` with `{summary['model']}` would ask", ("", "value"), rows)


def _show_annotation(summary: dict[str, Any]) -> None:
    asked = summary["asked"]
    rows: list[tuple[str, Any]] = [
        ("questions", summary["n_questions"]),
        ("already in the store", asked["n_cached"]),
        ("asked", asked["n_asked"]),
        ("  read", asked["n_read"]),
        ("  of them in another form", asked["n_lenient"]),
        ("  could not be read", asked["n_unreadable"]),
        ("  no reply, asked again next time", asked["n_no_reply"]),
        *((f"    {reason}", n) for reason, n in list(asked["reasons"].items())[:10]),
        ("requests", asked["n_requests"]),
        ("  of them repeated", asked["n_retries"]),
        ("prompt tokens", asked["prompt_tokens"]),
        ("completion tokens", asked["completion_tokens"]),
        *([] if asked["cost"] is None else [("cost", asked["cost"])]),
        ("seconds", round(asked["seconds"], 1)),
        ("samples rated", summary["n_annotated"]),
        ("samples without a rating", summary["n_no_score"]),
        ("samples not rated yet", summary["n_missing"]),
    ]
    table(f"annotation of `{summary['dataset']}` by `{summary['model']}` (run {asked['run_id']})", ("", "value"), rows)
    levels = [(dimension, *counts) for dimension, counts in summary["levels"].items()]
    table("samples at each level", ("dimension", "1", "2", "3", "4", "5"), levels)
    if asked["failures"]:
        failures = [(one["item_id"], one["problem"], one["reply"]) for one in asked["failures"]]
        table("replies that were not read (the first ones)", ("item", "problem", "start of the reply"), failures)
    if asked["reasons"] or summary["reasons"]:
        click.echo(f"All replies that were not read: {summary['list_failures']}")
    if not summary["is_sealed"]:
        click.echo(
            "The dataset is rated in part, so nothing is selected by these ratings; "
            "`diq difficulty train` takes them as labels."
        )


@difficulty.command()
@click.argument("datasets", nargs=-1, required=True, metavar="DATASET...")
@click.option("-o", "--output", required=True, type=click.Path(path_type=Path), help="Folder of the classifier.")
@click.option(
    "--encoder",
    multiple=True,
    default=("biomedbert",),
    show_default=True,
    metavar="NAME",
    help="Folder or hub id of a text encoder, or biomedbert, clinicalbert, modernbert; repeat to compare several.",
)
@click.option("--difficulty-run", type=int, metavar="RUN", help="Run of the labels, when a dataset has several.")
@click.option("--separate", is_flag=True, help="Three models, one a dimension, instead of three heads on one encoder.")
@click.option("--epochs", type=float, default=5, show_default=True, help="At most so many passes.")
@click.option("--patience", type=int, default=2, show_default=True, help="Stop after so many epochs without progress.")
@click.option("--learning-rate", type=float, default=3e-5, show_default=True, help="Of AdamW.")
@click.option("--batch-size", type=int, default=32, show_default=True, help="Questions of a step.")
@click.option("--max-length", type=int, default=512, show_default=True, help="Tokens after which a question is cut.")
@click.option(
    "--class-weights",
    "weights",
    type=click.Choice(["balanced", "sqrt", "none"]),
    default="balanced",
    show_default=True,
    help="How much rare levels count; the calibration takes back what it tilts.",
)
@click.option(
    "--ordinal-weight",
    type=float,
    default=1.0,
    show_default=True,
    help="Factor of the ranked probability score beside the cross-entropy; 0 forgets that levels are ordered.",
)
@click.option(
    "--shares",
    type=(float, float, float),
    default=(0.8, 0.1, 0.1),
    show_default=True,
    metavar="TRAIN VALIDATION TEST",
    help="Of the questions.",
)
@click.option("--seed", type=int, default=0, show_default=True, help="Of the split, the heads and the order.")
@click.option("--no-baselines", is_flag=True, help="Do not also measure TF-IDF and the most frequent level.")
@click.option("--overwrite", is_flag=True, help="Replace a classifier of other labels or settings.")
@device_options
@store_option
@output_options
def train(
    datasets: tuple[str, ...], store: Path, as_json: bool, quiet: bool, no_baselines: bool, **options: Any
) -> None:
    """Fine-tune a text encoder on the difficulty labels of one or several DATASETs.

    Labels are whole numbers from 1 to 5: annotations, columns or scores that came with the data. The classifier is a
    normal Hugging Face folder with a model card, for `diq score difficulty --model`. All encoders and two baselines are
    measured on the same test questions.
    """
    from diq.difficulty.train import train_difficulty as run

    with progress(quiet=quiet or as_json) as report:
        summary = run(datasets, store=store, baselines=not no_baselines, progress=report, **options).to_dict()
    if as_json:
        print_json(summary)
        return
    rows = []
    for one in summary["classifiers"]:
        for dimension, found in one["metrics"].items():
            fitted = one["calibration"].get(dimension, {})
            rows.append(
                (
                    one["name"], dimension, found["n"],
                    *(found[name] for name in ("macro_f1", "weighted_f1", "kappa", "spearman", "mean_absolute_error")),
                    found["calibration_error"], fitted.get("temperature"),
                )
            )  # fmt: skip
    columns = ("classifier", "dimension", "n", "macro F1", "weighted F1", "kappa", "Spearman", "absolute error",
               "calibration error", "temperature")  # fmt: skip
    table(f"test split of {summary['n_questions']:,} questions", columns, rows)
    for one in summary["classifiers"]:
        if one["output"]:
            again = " (trained before)" if one["already_trained"] else ""
            click.echo(f"{one['name']}: {one['output']}{again}")
