"""``diq judge reasoning`` and ``clinical``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from diq.base.errors import UsageError
from diq.cli.console import print_json, progress, table
from diq.cli.options import Command, output_options, server_options, store_option


@click.group()
def judge() -> None:
    """Have a language model judge the reasoning of a selection against other samples, or of models' outputs.

    The judge sees question and answer, never the group. Every judgment is kept; nothing is asked twice.
    """


def _judge_options(command: Command) -> Command:
    """What both rubrics take."""
    options = (
        click.option("--selection", metavar="NAME|NUMBER", help="Judge samples of this selection."),
        click.option(
            "--against",
            metavar="rest|random|SELECTION",
            help="What it is compared with: the samples that it did not take (rest, the default), a draw of the whole "
            "dataset (random), or another selection.",
        ),
        click.option(
            "--outputs",
            multiple=True,
            metavar="NAME=FILE",
            help="Judge a model's outputs: rows with question and output. Repeat for each model; the questions that "
            "all files have are compared in pairs.",
        ),
        click.option("--question-column", metavar="COLUMN", help="Of the outputs; default question or prompt."),
        click.option(
            "--output-column",
            metavar="COLUMN",
            help="Of the outputs; default output, response, generated_text, model_outputs or answer.",
        ),
        click.option("--sample", type=int, default=100, show_default=True, metavar="N", help="Texts a group."),
        click.option("--seed", type=int, default=0, show_default=True, help="Of the draw and the order of asking."),
        click.option("--name", metavar="NAME", help="Of the comparison in the store."),
        click.option("--retry-unreadable", is_flag=True, help="Ask again where a reply could not be read twice."),
    )
    for option in (*reversed((server_options, store_option, output_options)), *reversed(options)):
        command = option(command)
    return command


@judge.command()
@_judge_options
def reasoning(**options: Any) -> None:
    """Judge the quality of reasoning, 1 to 5: analysis, knowledge, conclusion.

    \b
    Examples:
      diq judge reasoning --selection pool-diq-0.01 --model JUDGE
      diq judge reasoning --outputs diq=diq.jsonl --outputs full=full.jsonl --model JUDGE
    """
    _run("reasoning", **options)


@judge.command()
@_judge_options
def clinical(**options: Any) -> None:
    """Judge three clinical habits, 1 to 5 each: differential diagnosis, safety check, evidence citation.

    \b
    Examples:
      diq judge clinical --selection pool-diq-0.01 --against random --model JUDGE
      diq judge clinical --outputs diq=diq.jsonl --outputs full=full.jsonl --model JUDGE
    """
    _run("clinical", **options)


def _run(
    rubric: str,
    *,
    selection: str | None,
    against: str | None,
    outputs: tuple[str, ...],
    question_column: str | None,
    output_column: str | None,
    sample: int,
    seed: int,
    name: str | None,
    retry_unreadable: bool,
    store: Path,
    as_json: bool,
    quiet: bool,
    **server: Any,
) -> None:
    # the stage loads the client, which `diq judge --help` must not wait for
    from diq.judging.chat import Server
    from diq.judging.judge import judge as run

    files = []
    for one in outputs:
        arm, equals, path = one.partition("=")
        if not equals or not arm.strip() or not path:
            raise UsageError(
                f"--outputs `{one}` is not of the form NAME=FILE", "give it like --outputs base=base.jsonl"
            )
        files.append((arm.strip(), path))
    with progress(quiet=quiet or as_json) as report:
        found = run(
            rubric,
            store=store,
            server=Server(**server),
            selection=selection,
            against=against,
            outputs=files,
            question_column=question_column,
            output_column=output_column,
            sample=sample,
            seed=seed,
            name=name,
            retry_unreadable=retry_unreadable,
            progress=report,
        ).to_dict()
    if as_json:
        print_json({"store": str(store), **found})
    else:
        _show(found)


def _show(found: dict[str, Any]) -> None:
    asked = found["asked"]
    confidence = f"{100 * found['confidence']:g} % interval"
    title = f"comparison {found['comparison_id']}: {found['rubric']}, judged by `{found['model']}`"
    table(
        title,
        ("dimension", "group", "n", "mean", confidence, *(f"level {level}" for level in range(1, 6))),
        [
            (dimension, arm, one["n"], _number(one["mean"]), _interval(one), *one["levels"])
            for dimension, arms in found["scores"].items()
            for arm, one in arms.items()
        ],
    )
    paired = found["is_paired"]
    table(
        "differences" + (", over pairs" if paired else ""),
        ("dimension", "first", "second", *(["pairs"] if paired else []), "difference", confidence, "Mann-Whitney p",
         *(["Wilcoxon p"] if paired else []), "first is better"),
        [
            (
                one["dimension"], one["first"], one["second"], *([one["n_pairs"]] if paired else []),
                _number(one["difference"], sign="+"), _interval(one, sign="+"), _p_value(one["mann_whitney_p"]),
                *([_p_value(one["wilcoxon_p"])] if paired else []), _number(one["superiority"]),
            )
            for one in found["differences"]
        ],
    )  # fmt: skip
    table(
        "texts",
        ("group", "drawn", "judged", "unreadable", "no reply"),
        [
            (one["name"], one["n_drawn"], one["n_judged"], one["n_unreadable"], one["n_no_reply"])
            for one in found["arms"]
        ],
    )
    cost = "" if asked["cost"] is None else f", cost {asked['cost']:,.2f}"
    click.echo(
        f"asked about {asked['n_asked']:,} texts, {asked['n_cached']:,} were in the store; "
        f"{asked['prompt_tokens'] + asked['completion_tokens']:,} tokens{cost}"
    )


def _number(value: float | None, *, sign: str = "") -> str:
    return "" if value is None else f"{value:{sign}.2f}"


def _interval(one: dict[str, Any], *, sign: str = "") -> str:
    return "" if one["low"] is None else f"{one['low']:{sign}.2f} to {one['high']:{sign}.2f}"


def _p_value(value: float | None) -> str:
    if value is None:
        return ""
    return "< 0.0001" if value < 0.0001 else f"{value:.4f}"
