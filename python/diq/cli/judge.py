"""``diq judge reasoning`` and ``clinical``."""

from __future__ import annotations

from typing import Any

import click

import diq
from diq.base.config import store_path
from diq.base.text import amount
from diq.cli.console import print_json, progress, say, table
from diq.cli.options import keywords, options_of, output_options
from diq.judging.options import JudgeOptions


@click.group()
def judge() -> None:
    """Have a language model judge the reasoning of a selection against other samples, or of models' outputs.

    The judge sees question and answer, never the group. Every judgment is kept; nothing is asked twice.
    """


@judge.command()
@options_of(JudgeOptions, without=["rubric"])
@output_options
def reasoning(**given: Any) -> None:
    """Judge the quality of reasoning, 1 to 5: analysis, knowledge, conclusion.

    \b
    Examples:
      diq judge reasoning --selection pool-diq-0.01 --model JUDGE
      diq judge reasoning --outputs diq=diq.jsonl --outputs full=full.jsonl --model JUDGE
    """
    _run("reasoning", **given)


@judge.command()
@options_of(JudgeOptions, without=["rubric"])
@output_options
def clinical(**given: Any) -> None:
    """Judge three clinical habits, 1 to 5 each: differential diagnosis, safety check, evidence citation.

    \b
    Examples:
      diq judge clinical --selection pool-diq-0.01 --against random --model JUDGE
      diq judge clinical --outputs diq=diq.jsonl --outputs full=full.jsonl --model JUDGE
    """
    _run("clinical", **given)


def _run(rubric: str, *, as_json: bool, quiet: bool, **given: Any) -> None:
    with progress(quiet=quiet or as_json) as report:
        found = diq.judge(rubric, **keywords(JudgeOptions, given), progress=report).to_dict()  # type: ignore[arg-type]
    if as_json:
        print_json({"store": str(store_path(given["store"])), **found})
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
    say(
        f"asked about {amount(asked['n_asked'], 'text')}, {asked['n_cached']:,} were in the store; "
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
