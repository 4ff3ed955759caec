"""``diq score difficulty``, ``influence``, and the scores of the baselines."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

import diq
from diq.base.errors import UsageError
from diq.base.options import fields_of
from diq.baselines.options import (
    ScoreBm25Options,
    ScoreIfdOptions,
    ScoreLengthOptions,
    ScorePerplexityOptions,
    ScoreRdsOptions,
    ScoreSimilarityOptions,
)
from diq.cli.console import print_json, progress, table
from diq.cli.options import keywords, options_of, output_options, refuse
from diq.difficulty.options import ScoreDifficultyOptions
from diq.evaluation.options import ScorePassRateOptions
from diq.influence.options import ScoreInfluenceOptions
from diq.rater.options import ScoreRaterOptions
from diq.training.options import WarmUpOptions

if TYPE_CHECKING:
    from diq.scoring.summary import ScoreSummary

# options that gradients and raters have in common: they are offered once
_SHARED = ("dataset", "model", "batch_tokens", "device", "dtype", "store")


@click.group()
def score() -> None:
    """Compute the scores that are missing, nothing else.

    A killed run loses at most some seconds of work: the same command goes on where it stopped.
    """


@score.command()
@options_of(ScoreDifficultyOptions)
@output_options
def difficulty(as_json: bool, quiet: bool, **given: Any) -> None:
    """Knowledge, reasoning and overall difficulty (1 to 5) of every sample of DATASET.

    A classifier is a sequence-classification folder with 15 outputs named knowledge_1 ... overall_5, or one with the
    three sub-folders knowledge, reasoning and overall of five classes each. The prompt of a sample is what it reads.
    """
    _run("difficulty", diq.score_difficulty, ScoreDifficultyOptions, as_json=as_json, quiet=quiet, given=given)


@score.command()
@click.option(
    "--model",
    metavar="FOLDER|ID",
    help="Folder or hub id of the causal language model; with --rater its folder, or its name in the store.",
)
@options_of(ScoreInfluenceOptions, without=("model",))
@options_of(ScoreRaterOptions, without=_SHARED, optional=("rater",))
@click.option(
    "--warmup",
    metavar="SHARE",
    help="First train an adapter on this random share of DATASET, such as 0.05, and score at its checkpoints.",
)
@click.option(
    "--warmup-epochs",
    default=fields_of(WarmUpOptions)["epochs"].default,
    show_default=True,
    help="Passes of the warm-up; each leaves a checkpoint.",
)
@click.option(
    "--warmup-output",
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="Folder of the warm-up adapter; default beside the store.",
)
@output_options
@click.pass_context
def influence(
    ctx: click.Context,
    /,
    model: str | None,
    rater: Path | None,
    warmup: str | None,
    warmup_epochs: int,
    warmup_output: Path | None,
    as_json: bool,
    quiet: bool,
    **given: Any,
) -> None:
    """Dot of every sample's gradient with the mean gradient of each validation set.

    Exactly, unless another --method is named: no projection, no per-sample gradient. With --rater an encoder predicts
    the dots from the texts; predictions are never mixed with dots.
    """
    names = {str(one.name) for one in ctx.command.params}
    if rater is not None:
        why = "leave it out, or leave out --rater to compute dots; a rater predicts what it was trained for"
        refuse(names.difference(fields_of(ScoreRaterOptions), ("as_json", "quiet")), "with --rater", why)
    elif model is None:
        raise UsageError("neither a model nor a rater was named", "give --model FOLDER, or --rater DIR")
    if warmup is None:
        refuse(("warmup_epochs", "warmup_output"), "without --warmup")
    with progress(quiet=quiet or as_json) as report:
        given |= {"model": model, "progress": report}
        if rater is not None:
            summary = diq.score_rater(rater=rater, **keywords(ScoreRaterOptions, given))
        else:
            if warmup is not None:
                given["checkpoint"] = _warm_up(warmup, warmup_epochs, warmup_output, given)
            summary = diq.score_influence(**keywords(ScoreInfluenceOptions, given))
    _show("influence", summary.to_dict(), as_json)


def _warm_up(share: str, epochs: int, output: Path | None, given: dict[str, Any]) -> list[str]:
    """The checkpoints of a warm-up, which is trained unless it is there."""
    refuse(("checkpoint", "from_index"), "with --warmup", "leave one of the two out: a warm-up makes checkpoints")
    # its seed and its validation sets are its own
    shared = {key: one for key, one in keywords(WarmUpOptions, given).items() if key not in ("seed", "validation_set")}
    found = diq.warm_up(**shared, share=share, epochs=epochs, output=output)
    return [str(one) for one in found]


@score.command()
@options_of(ScorePerplexityOptions)
@output_options
def perplexity(as_json: bool, quiet: bool, **given: Any) -> None:
    """Perplexity of the full text of every sample of DATASET: template, prompt, reasoning and answer.

    The exponential of the mean cross-entropy of all tokens but the first, for `diq select --strategy perplexity`.
    """
    _run("perplexity", diq.score_perplexity, ScorePerplexityOptions, as_json=as_json, quiet=quiet, given=given)


@score.command()
@options_of(ScoreSimilarityOptions)
@output_options
def similarity(as_json: bool, quiet: bool, **given: Any) -> None:
    """Cosine similarity of every sample of DATASET with each validation set, for `diq select --strategy similarity`.

    A text that is longer than the encoder takes is cut by it, and counted.
    """
    _run("similarity", diq.score_similarity, ScoreSimilarityOptions, as_json=as_json, quiet=quiet, given=given)


@score.command()
@options_of(ScoreLengthOptions)
@output_options
def length(as_json: bool, quiet: bool, **given: Any) -> None:
    """Answer tokens of every sample of DATASET, for `diq select --strategy length`.

    A tokenizer is enough, no model runs. Counted is what a training would learn: reasoning and answer.
    """
    _run("length", diq.score_length, ScoreLengthOptions, as_json=as_json, quiet=quiet, given=given)


@score.command()
@options_of(ScoreIfdOptions)
@output_options
def ifd(as_json: bool, quiet: bool, **given: Any) -> None:
    """Instruction-following difficulty of every sample of DATASET, for `diq select --strategy ifd`.

    The loss of the answer behind its question, over its loss with the question left empty. Above 1 it is not selected.
    """
    _run("ifd", diq.score_ifd, ScoreIfdOptions, as_json=as_json, quiet=quiet, given=given)


@score.command()
@options_of(ScoreBm25Options)
@output_options
def bm25(as_json: bool, quiet: bool, **given: Any) -> None:
    """BM25 of every sample of DATASET against the questions of each validation set, for `diq select --strategy bm25`.

    No model runs: how rare the words are that they share. A dataset that grew is counted again as a whole.
    """
    _run("bm25", diq.score_bm25, ScoreBm25Options, as_json=as_json, quiet=quiet, given=given)


@score.command()
@options_of(ScoreRdsOptions)
@output_options
def rds(as_json: bool, quiet: bool, **given: Any) -> None:
    """RDS+ embeddings of every sample of DATASET and of each validation set, for `diq select --strategy rds`.

    Position-weighted means of the model's last hidden states, kept beside the store. A further set costs its samples.
    """
    _run("rds", diq.score_rds, ScoreRdsOptions, as_json=as_json, quiet=quiet, given=given)


@score.command("pass-rate")
@options_of(ScorePassRateOptions)
@output_options
def pass_rate(as_json: bool, quiet: bool, **given: Any) -> None:
    """How often the model itself solves each question of DATASET, for `diq select --strategy pass_rate`.

    Questions with options, or with an answer of a few words, are asked K times; answers are kept beside the store. The
    share of wrong ones is a difficulty too, from 1 to 5, for `diq select --difficulty-run`.
    """
    _run("pass rate", diq.score_pass_rate, ScorePassRateOptions, as_json=as_json, quiet=quiet, given=given)


def _run(
    kind: str, verb: Callable[..., ScoreSummary], record: type, *, as_json: bool, quiet: bool, given: dict[str, Any]
) -> None:
    """Call the verb of a command with what was given to it, and show what it did."""
    with progress(quiet=quiet or as_json) as report:
        summary = verb(**keywords(record, given), progress=report)
    _show(kind, summary.to_dict(), as_json)


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
