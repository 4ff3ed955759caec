"""What ``diq select`` and ``diq compare`` take."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from dataclasses import KW_ONLY, dataclass
from decimal import Decimal
from typing import Annotated, Literal, get_args

from diq.base.config import DIFFICULTY_DIMENSIONS, Dimension
from diq.base.errors import UsageError
from diq.base.options import DatasetName, Excludes, InStore, Needs, Option, check_name
from diq.base.text import Ratio
from diq.encoders.options import Text

Strategy = Literal[
    "diq",
    "random",
    "perplexity",
    "similarity",
    "length",
    "ifd",
    "bm25",
    "rds",
    "pass_rate",
    "less",
    "influence",
    "knowledge",
    "reasoning",
    "overall",
    "q1",
    "q2",
    "q3",
    "q4",
]
STRATEGIES: tuple[Strategy, ...] = get_args(Strategy)

QUADRANT_STRATEGIES = ("diq", "q1", "q2", "q3", "q4")
"""Strategies that take a part of the ranking of Algorithm 1."""

DOT_STRATEGIES = (*QUADRANT_STRATEGIES, "influence", "less")
"""Strategies that rank by dots."""

DIFFICULTY_STRATEGIES = (*QUADRANT_STRATEGIES, *DIFFICULTY_DIMENSIONS)
"""Strategies that rank by difficulty."""

TEXT_STRATEGIES = ("perplexity", "similarity", "length", "ifd", "bm25", "rds", "pass_rate")
"""Strategies that rank by the text score of their name."""

MODEL_STRATEGIES = ("perplexity", "ifd", "rds", "pass_rate")
"""Those of them whose scores belong to a language model."""

SET_STRATEGIES = ("similarity", "bm25", "rds")
"""Those of them whose scores are with validation sets."""

DEFAULT_BAND = "0.2-0.8"


def read_band(text: str) -> tuple[float, float]:
    """The two pass rates of a band such as ``0.2-0.8``.

    Raises:
        UsageError: it is none.
    """
    low, _, high = text.partition("-")
    try:
        found = float(low), float(high)
    except ValueError:
        found = 1.0, 0.0
    if not 0 <= found[0] <= found[1] <= 1:
        raise UsageError(f"the band `{text}` is none of pass rates", "give two numbers of 0 to 1 such as 0.2-0.8")
    return found


_OF_QUADRANTS = Needs("strategy", QUADRANT_STRATEGIES)


def norm_quantile(text: str) -> float:
    """The quantile of ``--drop-outliers norm=QUANTILE``.

    Raises:
        UsageError: it is no such text, or the quantile is outside (0, 1).
    """
    measure, _, number = text.partition("=")
    try:
        quantile = float(number)
    except ValueError:
        quantile = math.nan
    if measure != "norm" or not 0 < quantile < 1:
        raise UsageError(
            f"--drop-outliers `{text}` is not norm=QUANTILE with a quantile between 0 and 1",
            "give norm=0.99 to leave out the samples with the largest 1 % of the gradient norms",
        )
    return quantile


@dataclass(frozen=True)
class SelectOptions(InStore):
    """Options of ``diq select``."""

    dataset: DatasetName
    _: KW_ONLY
    ratio: Annotated[
        str | float | Decimal,
        Option("How much, in (0, 1]: 0.01, 1% or 1e-2, as it is typed.", metavar="RATIO", check=Ratio.parse),
    ]
    model: Annotated[
        str | None,
        Option("Name of a scored model in the store: the hub id or the folder's name.", metavar="NAME"),
        Needs("strategy", (*DOT_STRATEGIES, *MODEL_STRATEGIES)),
    ] = None
    encoder: Annotated[
        str | None,
        Option("Encoder of the similarities, when the dataset has those of several.", metavar="NAME"),
        Needs("strategy", ("similarity",)),
    ] = None
    output: Annotated[
        str | os.PathLike[str] | None,
        Option(
            ".jsonl, .jsonl.gz or .parquet file to write; without it the selection is only recorded.",
            short="o",
            metavar="FILE",
            writes="path",
        ),
    ] = None
    difficulty: Annotated[Dimension, Option("Dimension of the difficulty."), _OF_QUADRANTS] = "overall"
    difficulty_percentile: Annotated[
        float,
        Option("p of the threshold tau.", least=0, most=1, hint="give 0.5 for the median"),
        _OF_QUADRANTS,
        Excludes("difficulty_threshold"),
    ] = 0.5
    difficulty_threshold: Annotated[
        float | None,
        Option("An absolute tau in place of the percentile.", hint="give a value such as 3"),
        _OF_QUADRANTS,
    ] = None
    validation_set: Annotated[
        Sequence[str],
        Option(
            "Validation set whose dots (or text scores) count; repeat.",
            metavar="NAME[=WEIGHT]",
            default="all of the run, by their samples (Eq. 3)",
            reads="validation set",
        ),
        Needs("strategy", (*DOT_STRATEGIES, *SET_STRATEGIES)),
    ] = ()
    strategy: Annotated[Strategy, Option("What ranks the samples; docs/method.md has the formula of each.")] = "diq"
    influence: Annotated[
        Literal["dot", "cosine"],
        Option(
            "cosine: dots over the norms of the samples' gradients (scored with --norms); column dot then holds them."
        ),
        Needs("strategy", (*QUADRANT_STRATEGIES, "influence")),
    ] = "dot"
    run: Annotated[
        int | None,
        Option("Run of the dots (or text scores), when there are several.", metavar="NUMBER"),
        Needs("strategy", (*DOT_STRATEGIES, *TEXT_STRATEGIES)),
    ] = None
    difficulty_run: Annotated[
        int | None,
        Option("Difficulty run, when the dataset has several.", metavar="NUMBER"),
        Needs("strategy", DIFFICULTY_STRATEGIES),
    ] = None
    band: Annotated[
        str,
        Option(
            "Pass rates that are taken, both ends included, those nearest to the middle first.",
            metavar="LOW-HIGH",
            check=read_band,
        ),
        Needs("strategy", ("pass_rate",)),
    ] = DEFAULT_BAND
    seed: Annotated[
        int,
        Option("Seed of the strategy random.", least=0, most=2**64 - 1, hint="give a number such as 0"),
        Needs("strategy", ("random",)),
    ] = 0
    dedupe: Annotated[
        Literal["exact", "near"] | None,
        Option(
            "Leave out samples that repeat an earlier one: up to case and spaces, or nearly (MinHash, exact Jaccard)."
        ),
    ] = None
    dedupe_threshold: Annotated[
        float,
        Option("Least Jaccard similarity of near duplicates, over runs of five words.", above=0, most=1),
        Needs("dedupe", ("near",)),
    ] = 0.8
    decontaminate: Annotated[
        Sequence[str],
        Option(
            "Leave out samples that hold 13 words in a row of a question of this dataset, validation set or file, "
            "or of any validation set; repeat.",
            metavar="BENCHMARK",
            name=True,
        ),
    ] = ()
    decontaminate_share: Annotated[
        float,
        Option(
            "Share of the question that must be held; 0.5 spares stock phrases that benchmarks and pools share.",
            least=0,
            most=1,
        ),
        Needs("decontaminate"),
    ] = 0.0
    drop_outliers: Annotated[
        str | None,
        Option(
            "Leave out samples whose gradient norm is above this quantile of the dataset's (scored with --norms).",
            metavar="norm=QUANTILE",
            check=norm_quantile,
        ),
    ] = None
    norms_run: Annotated[
        int | None,
        Option("Run of these norms.", metavar="NUMBER", default="the run of the dots, or the only one with norms"),
        Needs("drop_outliers"),
    ] = None
    balance: Annotated[
        Literal["tasks", "sources"] | None,
        Option(
            "Validation sets (each by its own dots) or sources (each in rank order) take turns; within each quadrant."
        ),
    ] = None
    diverse: Annotated[
        float | None,
        Option(
            "In rank order, leave out a sample whose cosine with one that is taken is above this value.",
            above=0,
            below=1,
            hint="give a cosine such as 0.9",
        ),
        Needs("diverse_by"),
    ] = None
    diverse_by: Annotated[
        str | os.PathLike[str] | None,
        Option(
            "What is compared: embeddings of this encoder (kept beside the store), or the gradient index of this run "
            "or folder.",
            metavar="ENCODER|RUN|DIR",
            reads="model",
            name=True,
        ),
        Needs("diverse"),
    ] = None
    diverse_text: Annotated[
        Text, Option("What the encoder reads of a sample: the question, or all of it."), Needs("diverse")
    ] = "full"
    order: Annotated[
        Literal["ranked", "easy", "hard"],
        Option("Order of the file: best first, or by difficulty; `diq train --follow-order` keeps it."),
        Needs("strategy", DIFFICULTY_STRATEGIES),
    ] = "ranked"
    weights: Annotated[
        bool,
        Option("Add a column weight: the dot (or similarity), 0 where it is negative, divided by its mean."),
        Needs("strategy", (*DOT_STRATEGIES, "similarity", "bm25")),
    ] = False
    name: Annotated[
        str | None,
        Option(
            "Name of the selection in the store.",
            default="DATASET-STRATEGY-RATIO, and what else was asked for",
            writes="selection",
            check=check_name,
        ),
    ] = None


@dataclass(frozen=True)
class CompareOptions(InStore):
    """Options of ``diq compare``."""

    selections: Annotated[
        Sequence[str | int], Option("Names or numbers of two or more selections.", positional=True, reads="selection")
    ]


def default_name(options: SelectOptions) -> str:
    """Name of a selection where none was given: what is selected, and every setting that is not the default.

    So two configurations have two names. Whose scores count (model, encoder, runs) is not in it; ``diq select`` says
    when a name changes hands.
    """
    parts = [options.dataset, options.strategy, Ratio.parse(options.ratio).text]
    quadrants = options.strategy in QUADRANT_STRATEGIES
    uses_sets = quadrants or options.strategy in ("influence", "less", *SET_STRATEGIES)
    if quadrants and options.difficulty != "overall":
        parts.append(options.difficulty)
    if quadrants and options.difficulty_threshold is not None:
        parts.append(f"tau{options.difficulty_threshold:g}")
    elif quadrants and options.difficulty_percentile != 0.5:
        parts.append(f"p{options.difficulty_percentile:g}")
    if uses_sets and options.validation_set:
        parts.append("+".join(sorted(options.validation_set)))
    if options.influence != "dot" and (quadrants or options.strategy == "influence"):
        parts.append(options.influence)
    if options.strategy == "pass_rate" and read_band(options.band) != read_band(DEFAULT_BAND):
        parts.append(options.band)
    if options.strategy == "random" and options.seed:
        parts.append(f"seed{options.seed}")
    if options.dedupe == "near" and options.dedupe_threshold != 0.8:
        parts.append(f"near{options.dedupe_threshold:g}")
    elif options.dedupe:
        parts.append(options.dedupe)
    if options.decontaminate:
        # names of files without their folders
        names = sorted(one.rstrip("/").rpartition("/")[2] for one in options.decontaminate)
        share = f"{options.decontaminate_share:g}" if options.decontaminate_share else ""
        parts.append(f"not{share}-{'+'.join(names)}")
    if options.drop_outliers:
        parts.append(f"norm{norm_quantile(options.drop_outliers):g}")
    if options.balance:
        parts.append(f"balanced-{options.balance}")
    if options.diverse is not None:
        by = os.fspath(options.diverse_by or "").rstrip("/").rpartition("/")[2]
        parts.append(f"diverse{options.diverse:g}-{by}" + ("-prompt" if options.diverse_text == "prompt" else ""))
    if options.order != "ranked":
        parts.append(options.order)
    if options.weights:
        parts.append("weights")
    return "-".join(parts)
