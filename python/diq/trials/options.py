"""What ``diq validate`` takes."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import KW_ONLY, dataclass
from decimal import Decimal
from typing import Annotated

from diq.base.config import DIFFICULTY_DIMENSIONS, MAX_LENGTH, Dimension
from diq.base.options import (
    AnswersOf,
    ChatTemplate,
    ChatTemplateKwargs,
    DatasetName,
    Device,
    InStore,
    LanguageModel,
    ModelName,
    Needs,
    Option,
)
from diq.base.text import Ratio
from diq.selection.options import Strategy
from diq.training.options import TrainDtype


@dataclass(frozen=True)
class ValidateOptions(InStore):
    """Options of ``diq validate``."""

    dataset: DatasetName
    _: KW_ONLY
    model: LanguageModel
    proxy: Annotated[
        str | os.PathLike[str] | None,
        Option(
            "Train this smaller model in place of --model, whose scores are tried: cheaper, and only a hint.",
            metavar="FOLDER|ID",
            reads="model",
            name=True,
        ),
    ] = None
    strategy: Annotated[
        Sequence[Strategy],
        Option(
            "Strategy to race against random; repeat.", default="diq, where the dataset has a difficulty; influence"
        ),
    ] = ()
    selection: Annotated[
        Sequence[str],
        Option(
            "Stored selection of the dataset to race against random of its size; repeat. Needs --held-out.",
            metavar="NAME",
            reads="selection",
        ),
        Needs("held_out"),
    ] = ()
    ratio: Annotated[
        Sequence[str | float | Decimal],
        Option("Ratio to race at; repeat.", metavar="RATIO", default="0.1", check=Ratio.parse),
    ] = ()
    held_out: Annotated[
        Sequence[str],
        Option(
            "Validation set that no score has seen, to measure the race on; repeat.",
            metavar="NAME",
            default="half of each validation set, by folds: one half chooses, the other measures",
            reads="validation set",
        ),
    ] = ()
    seeds: Annotated[int, Option("Trainings of each entrant of the race.", least=0)] = 3
    subsets: Annotated[
        int, Option("Random subsets to train on for the linear datamodelling score; 0: none.", least=0)
    ] = 32
    subset_size: Annotated[
        int | None, Option("Samples of such a subset.", default="a tenth of the dataset, 256 at most", least=1)
    ] = None
    minutes: Annotated[
        float | None, Option("Start no training after so many minutes; the same command goes on.", above=0)
    ] = None
    runs: Annotated[int | None, Option("Start no more trainings than so many now.", least=0)] = None
    influence: Annotated[
        str, Option("What the raced strategies rank by, dots or cosines.", choices=("dot", "cosine"))
    ] = "dot"
    run: Annotated[
        int | None,
        Option("Run of the dots of the raced strategies, when there are several.", metavar="NUMBER"),
    ] = None
    difficulty: Annotated[Dimension, Option("Dimension of the difficulty.")] = "overall"
    difficulty_percentile: Annotated[float, Option("p of the threshold tau.", least=0, most=1)] = 0.5
    difficulty_run: Annotated[int | None, Option("Difficulty run, when the dataset has several.", metavar="NUMBER")] = (
        None
    )
    params: Annotated[
        str | None,
        Option("What is trained, as in `diq train`.", metavar="qkv|all-linear|full|REGEX", default="qkv"),
    ] = None
    epochs: Annotated[float, Option("Passes over a subset or selection.", above=0)] = 1.0
    learning_rate: Annotated[
        float | None, Option("Highest learning rate.", default="1e-4; --params full: 1e-5", above=0)
    ] = None
    batch_size: Annotated[int, Option("Samples of an optimizer step.", least=1)] = 8
    max_length: Annotated[int, Option("Tokens after which a sample is cut on the right.", least=2)] = MAX_LENGTH
    seed: Annotated[int, Option("Seed of the subsets, the random selections and the trainings.", least=0)] = 0
    template: ChatTemplate = None
    chat_template_kwargs: ChatTemplateKwargs = ()
    turns: AnswersOf = "last"
    model_name: ModelName = None
    device: Device = "auto"
    dtype: TrainDtype = "auto"


# strategies that no validation sample has a part in: any may measure them
BLIND = ("random", "perplexity", "length", "ifd", "pass_rate", *DIFFICULTY_DIMENSIONS)
