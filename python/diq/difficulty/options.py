"""What ``diq difficulty annotate``, ``diq difficulty train`` and ``diq score difficulty`` take."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import KW_ONLY, dataclass
from typing import Annotated, Literal

from diq.base.options import DatasetName, Device, Dtype, InStore, Needs, Option, ToldWithNote
from diq.judging.options import AskedServer, AskSeed, RetryUnreadable
from diq.models.options import batch_tokens

ClassWeights = Literal["balanced", "sqrt", "none"]


@dataclass(frozen=True)
class AnnotateOptions(InStore):
    """Options of ``diq difficulty annotate``."""

    dataset: DatasetName
    _: KW_ONLY
    sample: Annotated[
        int | None,
        Option(
            "Rate N distinct questions, drawn by --seed.",
            metavar="N",
            default="all",
            least=1,
            hint="leave it out to rate every question",
        ),
    ] = None
    seed: AskSeed = 0
    retry_unreadable: RetryUnreadable = False
    dry_run: Annotated[bool, Option("Ask nothing, show how many questions, tokens and what cost it would be.")] = False
    server: AskedServer
    progress: ToldWithNote = None


@dataclass(frozen=True)
class ScoreDifficultyOptions(InStore):
    """Options of ``diq score difficulty``."""

    dataset: DatasetName
    _: KW_ONLY
    model: Annotated[
        str | os.PathLike[str] | None,
        Option("Folder or hub id of a difficulty classifier.", metavar="FOLDER|ID", reads="model", name=True),
    ] = None
    columns: Annotated[
        Mapping[str, str] | None,
        Option(
            "Take it from a number that came with the data, such as overall=complexity; repeat or separate by commas.",
            metavar="DIMENSION=COLUMN",
        ),
    ] = None
    batch_tokens: Annotated[int | None, batch_tokens("encoder"), Needs("model")] = None
    device: Annotated[Device, Needs("model")] = "auto"
    dtype: Annotated[Dtype, Needs("model")] = "auto"


@dataclass(frozen=True)
class TrainDifficultyOptions(InStore):
    """Options of ``diq difficulty train``."""

    datasets: Annotated[
        Sequence[str],
        Option(
            "Datasets with labels: annotations, columns or scores that came with the data.",
            metavar="DATASET...",
            positional=True,
            reads="dataset",
        ),
    ]
    _: KW_ONLY
    output: Annotated[
        str | os.PathLike[str],
        Option(
            "Folder of the classifier; with several encoders, of one folder each, named after them.",
            short="o",
            metavar="DIR",
            writes="path",
        ),
    ]
    encoder: Annotated[
        Sequence[str | os.PathLike[str]],
        Option(
            "Folder or hub id of a text encoder, or biomedbert, clinicalbert, modernbert; repeat to compare several.",
            metavar="NAME",
            reads="model",
        ),
    ] = ("biomedbert",)
    difficulty_run: Annotated[int | None, Option("Run of the labels, when a dataset has several.", metavar="RUN")] = (
        None
    )
    separate: Annotated[bool, Option("Three models, one a dimension, instead of three heads on one encoder.")] = False
    epochs: Annotated[float, Option("At most so many passes over the training split.", above=0)] = 5
    learning_rate: Annotated[float, Option("Learning rate of AdamW.", above=0)] = 3e-5
    batch_size: Annotated[int, Option("Questions of a step.", least=1)] = 32
    max_length: Annotated[
        int, Option("Tokens after which a question is cut; at most the encoder's context.", least=8)
    ] = 512
    patience: Annotated[int, Option("Stop after so many epochs without progress.", least=1)] = 2
    class_weights: Annotated[
        ClassWeights, Option("How much rare levels count; the calibration takes back what it tilts.")
    ] = "balanced"
    ordinal_weight: Annotated[
        float,
        Option(
            "Factor of the ranked probability score beside the cross-entropy; 0 forgets that levels are ordered.",
            least=0,
        ),
    ] = 1.0
    shares: Annotated[
        tuple[float, float, float],
        Option("Shares of the questions.", metavar="TRAIN VALIDATION TEST", above=0),
    ] = (0.8, 0.1, 0.1)
    baselines: Annotated[bool, Option("Also measure TF-IDF and the most frequent level on the same split.")] = True
    overwrite: Annotated[bool, Option("Replace a classifier of other labels or settings.")] = False
    seed: Annotated[int, Option("Seed of the split, the heads and the order.", least=0)] = 0
    device: Device = "auto"
    dtype: Dtype = "auto"
