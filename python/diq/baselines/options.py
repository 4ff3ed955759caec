"""What the commands of the baselines take: ``diq score length``, ``perplexity``, ``ifd`` and ``similarity``."""

from __future__ import annotations

import os
from dataclasses import KW_ONLY, dataclass
from typing import Annotated

from diq.base.options import (
    Attention,
    ChatTemplate,
    ChatTemplateKwargs,
    DatasetName,
    Device,
    Dtype,
    InStore,
    LanguageModel,
    MaxLength,
    ModelName,
    Option,
    ValidationSets,
    check_name,
)
from diq.encoders.options import Pooled, Text
from diq.models.options import batch_tokens

LARGEST_IFD = 1.0
"""Above it a question makes its answer less likely, and no such sample is selected by IFD."""


@dataclass(frozen=True)
class LanguageModelOptions(InStore):
    """Options of every score that one pass of a causal language model gives."""

    dataset: DatasetName
    _: KW_ONLY
    model: LanguageModel
    model_name: ModelName = None
    adapter: Annotated[
        str | os.PathLike[str] | None,
        Option(
            "Score with this LoRA adapter (or full checkpoint) of --model.", metavar="DIR", reads="model", name=True
        ),
    ] = None
    max_length: MaxLength = None
    template: ChatTemplate = None
    chat_template_kwargs: ChatTemplateKwargs = ()
    attention: Attention = None
    batch_tokens: Annotated[int | None, batch_tokens("perplexity")] = None
    device: Device = "auto"
    dtype: Dtype = "auto"


@dataclass(frozen=True)
class ScorePerplexityOptions(LanguageModelOptions):
    """Options of ``diq score perplexity``."""


@dataclass(frozen=True)
class ScoreIfdOptions(LanguageModelOptions):
    """Options of ``diq score ifd``."""


@dataclass(frozen=True)
class ScoreRdsOptions(LanguageModelOptions):
    """Options of ``diq score rds``."""

    dataset: DatasetName
    _: KW_ONLY
    validation_set: ValidationSets = ()


@dataclass(frozen=True)
class ScoreLengthOptions(InStore):
    """Options of ``diq score length``."""

    dataset: DatasetName
    _: KW_ONLY
    model: Annotated[
        str | os.PathLike[str],
        Option(
            "Folder or hub id whose tokenizer counts; a folder needs no weights.",
            metavar="FOLDER|ID",
            reads="model",
            name=True,
        ),
    ]
    max_length: MaxLength = None
    template: ChatTemplate = None
    chat_template_kwargs: ChatTemplateKwargs = ()


@dataclass(frozen=True)
class ScoreBm25Options(InStore):
    """Options of ``diq score bm25``."""

    dataset: DatasetName
    _: KW_ONLY
    validation_set: ValidationSets = ()
    reduction: Annotated[
        Pooled, Option("mean of the scores against the questions of a validation set, or the largest of them.")
    ] = "mean"
    text: Annotated[Text, Option("What is searched of a sample: the question, or question, reasoning and answer.")] = (
        "prompt"
    )
    k1: Annotated[float, Option("How slowly repeats of a word stop to count.", least=0)] = 1.2
    b: Annotated[
        float, Option("How much long texts are held back: 0 not at all, 1 by their length.", least=0, most=1)
    ] = 0.75


@dataclass(frozen=True)
class ScoreSimilarityOptions(InStore):
    """Options of ``diq score similarity``."""

    dataset: DatasetName
    _: KW_ONLY
    encoder: Annotated[
        str | os.PathLike[str],
        Option("Folder or hub id of a sentence-transformers model.", metavar="FOLDER|ID", reads="model", name=True),
    ]
    encoder_name: Annotated[
        str | None,
        Option(
            "Name of the encoder in the store.",
            metavar="NAME",
            default="the hub id or the folder's name",
            check=check_name,
        ),
    ] = None
    validation_set: ValidationSets = ()
    reduction: Annotated[
        Pooled, Option("mean of the cosines with the samples of a validation set, or the largest of them.")
    ] = "mean"
    text: Annotated[Text, Option("What is embedded of a sample: the question, or question, reasoning and answer.")] = (
        "prompt"
    )
    batch_tokens: Annotated[int | None, batch_tokens("embedding")] = None
    device: Device = "auto"
    dtype: Dtype = "auto"
