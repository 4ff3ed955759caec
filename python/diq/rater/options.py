"""What ``diq rater train`` and ``diq score influence --rater`` take."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import KW_ONLY, dataclass
from typing import Annotated, Literal

from diq.base.options import DatasetName, Device, Dtype, InStore, Option
from diq.models.options import batch_tokens

Target = Literal["rank", "standard"]


@dataclass(frozen=True)
class TrainRaterOptions(InStore):
    """Options of ``diq rater train``."""

    datasets: Annotated[
        Sequence[str],
        Option("Datasets that the run has scored.", metavar="DATASET...", positional=True, reads="dataset"),
    ]
    _: KW_ONLY
    model: Annotated[str, Option("Language model whose dots are learnt, as the store has it.", metavar="NAME")]
    output: Annotated[str | os.PathLike[str], Option("Folder of the rater.", metavar="DIR", short="o", writes="path")]
    run: Annotated[int | None, Option("Run of the dots; needed when there are several.", metavar="NUMBER")] = None
    encoder: Annotated[
        str | os.PathLike[str],
        Option("Encoder that is fine-tuned: a folder, or a hub id.", metavar="FOLDER|ID", reads="model", name=True),
    ] = "answerdotai/ModernBERT-base"
    target: Annotated[
        Target, Option("Scale of the regression: normal scores of the ranks of the dots, or standardised dots.")
    ] = "rank"
    coverage: Annotated[float, Option("Share of dots that the intervals are to hold.", above=0, below=1)] = 0.9
    epochs: Annotated[float, Option("At most so many passes over the texts.", above=0)] = 5
    learning_rate: Annotated[float, Option("Highest learning rate of AdamW.", above=0)] = 5e-5
    batch_size: Annotated[int, Option("Texts of an optimizer step.", least=1)] = 32
    max_length: Annotated[int, Option("Tokens that are read of a text; at most the context.", least=8)] = 1024
    patience: Annotated[int, Option("Epochs without progress before it stops.", least=1)] = 2
    shares: Annotated[
        tuple[float, float, float], Option("Shares of the questions.", metavar="TRAIN VALIDATION TEST", above=0)
    ] = (0.7, 0.15, 0.15)
    baselines: Annotated[bool, Option("Also fit the two baselines on the same split.")] = True
    overwrite: Annotated[bool, Option("Replace a rater that another training left in the output.")] = False
    seed: Annotated[int, Option("Seed of the split, the head and the order.", least=0)] = 0
    device: Device = "auto"
    dtype: Dtype = "auto"


@dataclass(frozen=True)
class ScoreRaterOptions(InStore):
    """Options of ``diq score influence --rater``."""

    dataset: DatasetName
    _: KW_ONLY
    rater: Annotated[
        str | os.PathLike[str],
        Option(
            "Predict the dots with a rater of `diq rater train`, in place of gradients: a run of its own, method "
            "rater.",
            metavar="DIR",
            reads="model",
        ),
    ]
    model: Annotated[
        str | None,
        Option(
            "Language model that the rater stands for: its folder, or its name in the store.",
            metavar="NAME",
            default="the rater's own",
            name=True,
        ),
    ] = None
    batch_tokens: Annotated[int | None, batch_tokens("encoder")] = None
    device: Device = "auto"
    dtype: Dtype = "auto"
