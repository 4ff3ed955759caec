"""``diq difficulty annotate`` and ``train``."""

from __future__ import annotations

from typing import Any

import click

import diq
from diq.base.text import amount
from diq.cli.console import print_json, progress, say, table
from diq.cli.options import keywords, options_of, output_options
from diq.difficulty.options import AnnotateOptions, TrainDifficultyOptions


@click.group()
def difficulty() -> None:
    """Labels of difficulty by a language model, and classifiers that learn from labels.

    The ratings are labels for a classifier, or, where a whole dataset is rated, its difficulty.
    """


@difficulty.command()
@options_of(AnnotateOptions)
@output_options
def annotate(as_json: bool, quiet: bool, **given: Any) -> None:
    """Have a language model rate the questions of DATASET: knowledge, reasoning and overall, 1 to 5, with its reasons.

    Through any OpenAI-compatible server. Every reply is kept; nothing is asked twice, and a stopped command goes on.
    """
    with progress(quiet=quiet or as_json) as report:
        summary = diq.annotate(**keywords(AnnotateOptions, given), progress=report).to_dict()
    if as_json:
        print_json(summary)
    elif given["dry_run"]:
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
        say(f"All replies that were not read: {summary['list_failures']}")
    if not summary["is_sealed"]:
        say(
            "The dataset is rated in part, so nothing is selected by these ratings; "
            "`diq difficulty train` takes them as labels."
        )


@difficulty.command()
@options_of(TrainDifficultyOptions)
@output_options
def train(as_json: bool, quiet: bool, **given: Any) -> None:
    """Fine-tune a text encoder on the difficulty labels of one or several DATASETs.

    Labels are whole numbers from 1 to 5: annotations, columns or scores that came with the data. The classifier is a
    normal Hugging Face folder with a model card, for `diq score difficulty --model`. All encoders and two baselines are
    measured on the same test questions.
    """

    with progress(quiet=quiet or as_json) as report:
        summary = diq.train_difficulty(**keywords(TrainDifficultyOptions, given), progress=report).to_dict()
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
    table(f"test split of {amount(summary['n_questions'], 'question')}", columns, rows)
    for one in summary["classifiers"]:
        if one["output"]:
            again = " (trained before)" if one["already_trained"] else ""
            say(f"{one['name']}: {one['output']}{again}")
