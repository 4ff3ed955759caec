"""``diq score difficulty``, ``influence``, ``perplexity`` and ``similarity``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

from diq.base.config import MAX_LENGTH
from diq.base.errors import UsageError
from diq.cli.console import print_json, progress, table
from diq.cli.options import device_options, output_options, pairs, store_option


@click.group()
def score() -> None:
    """Compute the scores that are missing, nothing else.

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
@click.option("--batch-tokens", type=int, help="Padded tokens a batch; default 1024 on a CPU, 65536 on a GPU.")
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
    from diq.difficulty.score import score_difficulty

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
@click.option(
    "--model", help="Folder or hub id of the causal language model; with --rater its folder, or its name in the store."
)
@click.option(
    "--rater",
    metavar="DIR",
    type=click.Path(path_type=Path),
    help="Predict the dots with a rater of `diq rater train`, in place of gradients: a run of its own, method rater.",
)
@click.option("--model-name", help="Name of the model in the store; default the hub id or the folder's name.")
@click.option(
    "--validation-set", "validation_sets", multiple=True, metavar="NAME", help="Validation set; repeat. Default: all."
)
@click.option(
    "--method",
    type=click.Choice(["exact", "forward", "central", "projected", "less"]),
    default="exact",
    show_default=True,
    help="exact; forward or central: the same dots without a backward pass; projected: through a gradient index; "
    "less: projected Adam directions at checkpoints, cosine.",
)
@click.option(
    "--params",
    help="Weights that count: qkv (default), all-linear, lora (A and B of a checkpoint's adapter; default of less), or "
    "a regular expression over module names.",
)
@click.option(
    "--checkpoint",
    "checkpoints",
    multiple=True,
    metavar="DIR[:WEIGHT]",
    help="Score at a trained checkpoint of --model, an adapter or a full model; repeat, and the dots add up, each "
    "times its weight (default: the learning rate at the checkpoint). DIR may be a pattern: 'out/checkpoint-*'.",
)
@click.option(
    "--warmup",
    metavar="SHARE",
    help="First train an adapter on this random share of DATASET, such as 0.05, and score at its checkpoints.",
)
@click.option("--warmup-epochs", default=4, show_default=True, help="Passes of the warm-up; each leaves a checkpoint.")
@click.option(
    "--warmup-output",
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="Folder of the warm-up adapter; default beside the store.",
)
@click.option("--folds", type=int, help="Parts of each validation set, for standard errors; default 2 (forward: 1).")
@click.option(
    "--rank",
    type=int,
    help="exact: leading singular directions that stand for each validation gradient, which makes many sets cheap; "
    "subspace: directions a side and module (default 8).",
)
@click.option("--norms", is_flag=True, help="Also the norm of each sample's gradient, for `select --influence cosine`.")
@click.option(
    "--kind", type=click.Choice(["rademacher", "sparse", "subspace"]), help="Kind of a projection; default sparse."
)
@click.option(
    "--dim", type=int, help="Columns of a random projection; default 65536 (lora 16384), rademacher 4096, less 8192."
)
@click.option("--seed", type=int, help="Seed of a random projection; default 0.")
@click.option(
    "--element",
    type=click.Choice(["float16", "bfloat16", "int8", "float32"]),
    help="How a gradient index keeps its numbers; default float16.",
)
@click.option(
    "--index", type=click.Path(path_type=Path), help="Folder of the gradient index; default beside the store."
)
@click.option(
    "--from-index",
    type=click.Path(path_type=Path),
    help="Score from a gradient index that exists: its settings hold, and the dataset is not passed through the model.",
)
@click.option(
    "--formula",
    type=click.Choice(["code", "paper", "adam"]),
    help="less: the Adam direction as in the released code (default), as printed in the paper, or as Adam steps.",
)
@click.option("--max-length", type=int, help=f"Tokens after which a sample is cut; default {MAX_LENGTH}.")
@click.option(
    "--loss-reduction",
    type=click.Choice(["mean", "sum"]),
    help="Over the answer tokens of a sample, default mean; it changes the ranking and is part of the run.",
)
@click.option(
    "--template",
    type=click.Choice(["auto", "none"]),
    help="auto (default) uses the tokenizer's chat template if it has one.",
)
@click.option("--devices", type=int, default=1, show_default=True, help="Processes, one a GPU (or sharing the CPU).")
@click.option("--attention", help="Attention implementation of transformers, such as sdpa or flash_attention_2.")
@click.option("--packed", is_flag=True, help="Pack samples without padding, where the attention keeps them apart.")
@click.option("--checkpointing", is_flag=True, help="Compute layers again on the way back: slower, less memory.")
@click.option("--batch-tokens", type=int, help="Padded tokens a batch; default 2048 on a CPU, 16384 on a GPU.")
@device_options
@store_option
@output_options
@click.pass_context
def influence(
    ctx: click.Context,
    /,
    dataset: str,
    model: str | None,
    rater: Path | None,
    store: Path,
    as_json: bool,
    quiet: bool,
    batch_tokens: int | None,
    device: str,
    dtype: str,
    warmup: str | None,
    warmup_epochs: int,
    warmup_output: Path | None,
    **options: Any,
) -> None:
    """Dot of every sample's gradient with the mean gradient of each validation set.

    Exactly, unless another --method is named: no projection, no per-sample gradient. With --rater an encoder predicts
    the dots from the texts; predictions are never mixed with dots.
    """
    if rater is not None:
        _only_with_gradients(ctx, {**options, "warmup": warmup})
    elif model is None:
        raise UsageError("neither a model nor a rater was named", "give --model FOLDER, or --rater DIR")
    from diq.influence.score import score_influence
    from diq.rater.score import score_rater

    where: dict[str, Any] = {"store": store, "token_budget": batch_tokens, "device": device, "dtype": dtype}
    with progress(quiet=quiet or as_json) as report:
        if rater is not None:
            summary = score_rater(dataset, rater=rater, model=model, progress=report, **where)
        else:
            assert model is not None
            if warmup is not None:
                options["checkpoints"] = _warm_up(
                    dataset, model, warmup, warmup_epochs, warmup_output, {**options, **where, "progress": report}
                )
            summary = score_influence(dataset, model=model, progress=report, **where, **options)
    _show("influence", summary.to_dict(), as_json)


def _warm_up(
    dataset: str, model: str, share: str, epochs: int, output: Path | None, options: dict[str, Any]
) -> list[str]:
    """The checkpoints of a warm-up, which is trained unless it is there."""
    if options["checkpoints"] or options["from_index"]:
        raise UsageError("--warmup makes its own checkpoints", "leave out --checkpoint and --from-index, or --warmup")
    from diq.training.warm_up import warm_up

    names = ("store", "max_length", "template", "dtype", "device", "devices", "attention", "model_name", "progress")
    shared = {name: options[name] for name in names}
    found = warm_up(dataset, model=model, share=share, epochs=epochs, output=output, **shared)
    return [str(one) for one in found]


def _only_with_gradients(ctx: click.Context, options: dict[str, Any]) -> None:
    """Refuse what a rater has no use for, rather than ignore it."""
    given = {name for name in options if ctx.get_parameter_source(name) is not ParameterSource.DEFAULT}
    for parameter in ctx.command.params:
        if parameter.name in given:
            raise UsageError(
                f"{parameter.opts[0]} has no place with --rater: its predictions are what it was trained for",
                "leave it out, or leave out --rater to compute dots",
            )


@score.command()
@click.argument("dataset")
@click.option("--model", required=True, help="Folder or hub id of the causal language model.")
@click.option("--model-name", help="Name of the model in the store; default the hub id or the folder's name.")
@click.option("--adapter", metavar="DIR", help="Score with this LoRA adapter (or full checkpoint) of --model.")
@click.option("--max-length", type=int, help=f"Tokens after which a sample is cut; default {MAX_LENGTH}.")
@click.option(
    "--template",
    type=click.Choice(["auto", "none"]),
    help="auto (default) uses the tokenizer's chat template if it has one.",
)
@click.option("--attention", help="Attention implementation of transformers, such as sdpa or flash_attention_2.")
@click.option("--batch-tokens", type=int, help="Padded tokens a batch; default 4096 on a CPU, 32768 on a GPU.")
@device_options
@store_option
@output_options
def perplexity(dataset: str, store: Path, as_json: bool, quiet: bool, batch_tokens: int | None, **options: Any) -> None:
    """Perplexity of the full text of every sample of DATASET: template, prompt, reasoning and answer.

    The exponential of the mean cross-entropy of all tokens but the first, for `diq select --strategy perplexity`.
    """
    from diq.baselines.score_perplexity import score_perplexity

    with progress(quiet=quiet or as_json) as report:
        summary = score_perplexity(dataset, store=store, token_budget=batch_tokens, progress=report, **options)
    _show("perplexity", summary.to_dict(), as_json)


@score.command()
@click.argument("dataset")
@click.option("--encoder", required=True, help="Folder or hub id of a sentence-transformers model.")
@click.option("--encoder-name", help="Name of the encoder in the store; default the hub id or the folder's name.")
@click.option(
    "--validation-set", "validation_sets", multiple=True, metavar="NAME", help="Validation set; repeat. Default: all."
)
@click.option(
    "--reduction",
    type=click.Choice(["mean", "max"]),
    default="mean",
    show_default=True,
    help="mean of the cosines with the samples of a validation set, or the largest of them.",
)
@click.option(
    "--text",
    type=click.Choice(["prompt", "full"]),
    default="prompt",
    show_default=True,
    help="What is embedded of a sample: the question, or question, reasoning and answer.",
)
@click.option("--batch-tokens", type=int, help="Padded tokens a batch; default 4096 on a CPU, 65536 on a GPU.")
@device_options
@store_option
@output_options
def similarity(dataset: str, store: Path, as_json: bool, quiet: bool, batch_tokens: int | None, **options: Any) -> None:
    """Cosine similarity of every sample of DATASET with each validation set, for `diq select --strategy similarity`.

    A text that is longer than the encoder takes is cut by it, and counted.
    """
    from diq.baselines.similarity import score_similarity

    with progress(quiet=quiet or as_json) as report:
        summary = score_similarity(dataset, store=store, token_budget=batch_tokens, progress=report, **options)
    _show("similarity", summary.to_dict(), as_json)


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
