"""What ``diq score influence``, ``diq explain`` and ``diq index check`` take."""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping, Sequence
from dataclasses import KW_ONLY, dataclass
from decimal import Decimal
from typing import Annotated, Any

from diq.base.config import Dimension
from diq.base.errors import UsageError
from diq.base.options import (
    AnswersOf,
    Attention,
    ChatTemplate,
    ChatTemplateKwargs,
    DatasetName,
    Device,
    Devices,
    Dtype,
    Excludes,
    InStore,
    LanguageModel,
    MaxLength,
    ModelName,
    Needs,
    Option,
    ValidationSets,
)
from diq.base.text import Ratio
from diq.gradient_index.options import Element
from diq.gradients.options import Formula, Kind, Method, Precondition, Reduction
from diq.models.options import batch_tokens

_PROJECTED, _INDEXED = Needs("method", ("projected",)), Needs("method", ("projected", "less"))
_RANDOM = Excludes("kind", ("subspace",))
_OF_PART = Needs("for_ratio")
_PRECONDITIONED = Needs("precondition", ("adam", "kfac", "ekfac"))

# parts of each validation set where nothing was asked: two for standard errors, one where each costs a pass
FOLDS, FOLDS_OF_A_PASS = 2, 1

WEIGHTS = (
    "Weights that count: qkv, all-linear, lora (A and B of a checkpoint's adapter), or a regular expression over "
    "module names."
)


@dataclass(frozen=True)
class ScoreInfluenceOptions(InStore):
    """Options of ``diq score influence``.

    Raises:
        UsageError: also a rank where nothing has one, or the method less without a checkpoint.
    """

    dataset: DatasetName
    _: KW_ONLY
    model: LanguageModel
    model_name: ModelName = None
    validation_set: ValidationSets = ()
    method: Annotated[
        Method,
        Option(
            "exact; forward or central: the same dots without a backward pass; projected: through a gradient index; "
            "less: projected Adam directions at checkpoints, cosine."
        ),
    ] = "exact"
    params: Annotated[str | None, Option(WEIGHTS, metavar="WEIGHTS", default="qkv; of less: lora")] = None
    checkpoint: Annotated[
        Sequence[str | os.PathLike[str]],
        Option(
            "Score at a trained checkpoint of --model, an adapter or a full model; repeat, and the dots add up, each "
            "times its weight (TracIn). DIR may be a pattern: 'out/checkpoint-*'.",
            metavar="DIR[:WEIGHT]",
            default="no checkpoint; WEIGHT: the learning rate there",
            reads="model",
        ),
        Excludes("from_index"),
    ] = ()
    folds: Annotated[
        int | None,
        Option(
            "Parts of each validation set that every sample gets a dot with, for standard errors.",
            default=f"{FOLDS}; of forward and central, where each costs a pass: {FOLDS_OF_A_PASS}",
            least=1,
            most=64,
            hint="2 is enough for a standard error",
        ),
    ] = None
    rank: Annotated[
        int | None,
        Option(
            "exact: leading singular directions that stand for each validation gradient, which makes many sets cheap; "
            "subspace: directions a side and module.",
            default="exact: all; subspace: 8",
            least=1,
        ),
    ] = None
    norms: Annotated[
        bool,
        Option("Also the norm of each sample's gradient, for `select --influence cosine`."),
        Needs("method", ("exact",)),
    ] = False
    precondition: Annotated[
        Precondition,
        Option(
            "Multiply the validation gradients by an inverse of the curvature: ekfac, kfac (its cheaper form), adam "
            "(the root of squared gradients). It is taken of some samples of DATASET once; scoring costs the same."
        ),
        Needs("method", ("exact", "forward", "central")),
    ] = "none"
    damping: Annotated[
        float | None,
        Option(
            "Of the preconditioner, in means of what is divided by: a larger one is nearer to none.",
            default="0.1",
            least=0,
        ),
        _PRECONDITIONED,
    ] = None
    factor_samples: Annotated[
        int | None,
        Option("Samples of DATASET that the curvature is taken of.", metavar="N", default="2000", least=1),
        _PRECONDITIONED,
    ] = None
    for_ratio: Annotated[
        str | float | Decimal | None,
        Option(
            "Score only what decides a selection of this ratio by strategy diq: the samples above the difficulty "
            "threshold, and a random few of the others. Needs the difficulty.",
            metavar="RATIO",
            check=Ratio.parse,
        ),
        Needs("method", ("exact", "forward", "central")),
        Excludes("checkpoint"),
    ] = None
    difficulty: Annotated[Dimension, Option("Dimension of the difficulty of that selection."), _OF_PART] = "overall"
    difficulty_percentile: Annotated[
        float, Option("p of its threshold.", least=0, most=1, hint="give 0.5 for the median"), _OF_PART
    ] = 0.5
    difficulty_threshold: Annotated[
        float | None, Option("An absolute threshold in its place.", hint="give a value such as 3"), _OF_PART
    ] = None
    difficulty_run: Annotated[
        int | None, Option("Difficulty run, when the dataset has several.", metavar="NUMBER"), _OF_PART
    ] = None
    cascade: Annotated[
        int | None,
        Option(
            "Run of a cheap score of DATASET (a rater, a similarity, dots of few layers) that says which of the hard "
            "samples to score first; a random audit says when enough of the selection is found.",
            metavar="NUMBER",
        ),
        _OF_PART,
    ] = None
    recall: Annotated[
        float, Option("Share of the selection that a cascade shall find.", above=0, most=1), Needs("cascade")
    ] = 0.95
    kind: Annotated[Kind | None, Option("Kind of a projection.", default="sparse; of less: rademacher"), _PROJECTED] = (
        None
    )
    dim: Annotated[
        int | None,
        Option(
            "Columns of a random projection.",
            default="65536; with lora 16384; rademacher 4096; less 8192",
            least=1,
        ),
        _INDEXED,
        _RANDOM,
    ] = None
    seed: Annotated[
        int | None,
        Option("Seed of a random projection.", default="0", least=0, most=2**32 - 1),
        _INDEXED,
        _RANDOM,
    ] = None
    element: Annotated[
        Element | None, Option("How a gradient index keeps its numbers.", default="float16"), _INDEXED
    ] = None
    index: Annotated[
        str | os.PathLike[str] | None,
        Option(
            "Folder of the gradient index; with several checkpoints each has one of its name in it.",
            metavar="DIR",
            default="beside the store",
        ),
        _INDEXED,
        Excludes("from_index"),
    ] = None
    from_index: Annotated[
        str | os.PathLike[str] | None,
        Option(
            "Score from a gradient index that exists: its settings hold, and the dataset is not passed through the "
            "model. Its method is projected.",
            metavar="DIR",
        ),
        _PROJECTED,
    ] = None
    formula: Annotated[
        Formula | None,
        Option(
            "less: the Adam direction as in the released code, as printed in the paper, or as Adam steps.",
            default="code",
        ),
        Needs("method", ("less",)),
    ] = None
    max_length: MaxLength = None
    loss_reduction: Annotated[
        Reduction | None,
        Option("Over the answer tokens of a sample; it changes the ranking and is part of the run.", default="mean"),
    ] = None
    template: ChatTemplate = None
    chat_template_kwargs: ChatTemplateKwargs = ()
    turns: AnswersOf = "last"
    devices: Devices = 1
    attention: Attention = None
    packed: Annotated[bool, Option("Pack samples without padding, where the attention keeps them apart.")] = False
    checkpointing: Annotated[bool, Option("Compute layers again on the way back: slower, less memory.")] = False
    batch_tokens: Annotated[int | None, batch_tokens("gradients")] = None
    device: Device = "auto"
    dtype: Dtype = "auto"

    @classmethod
    def settled(cls, values: Mapping[str, Any], given: Collection[str]) -> dict[str, Any]:
        """See ``Options``: an index holds projected gradients."""
        by_index = values["from_index"] is not None and "method" not in given
        return {**values, "method": "projected"} if by_index else dict(values)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.rank is not None and self.method != "exact" and self.kind != "subspace":
            raise UsageError(
                f"--rank has no effect with --method {self.method}",
                "leave it out, or give --method exact, or --method projected --kind subspace",
            )
        if self.method == "less" and not self.checkpoint:
            raise UsageError(
                "--method less needs a checkpoint with optimizer state", "name its folder with --checkpoint DIR"
            )


@dataclass(frozen=True)
class ExplainOptions(InStore):
    """Options of ``diq explain``."""

    sample_id: Annotated[
        str | None,
        Option("Id of a sample in the store, or its first 6 or more hexadecimal digits.", positional=True),
    ] = None
    _: KW_ONLY
    model: LanguageModel
    dataset: Annotated[
        str | None,
        Option("With --position: name the sample by its row in a dataset.", metavar="NAME", reads="dataset"),
    ] = None
    position: Annotated[int | None, Option("0-based row of --dataset.", metavar="N")] = None
    validation_set: Annotated[
        Sequence[str],
        Option(
            "Validation set to measure with; repeat.",
            metavar="NAME[=WEIGHT]",
            default="all of the store, pooled over their samples",
            reads="validation set",
        ),
    ] = ()
    params: Annotated[str | None, Option(WEIGHTS, metavar="WEIGHTS", default="qkv")] = None
    checkpoint: Annotated[
        str | os.PathLike[str] | None,
        Option(
            "Explain at a trained checkpoint of --model, an adapter or a full model.",
            metavar="DIR",
            reads="model",
            name=True,
        ),
    ] = None
    max_length: MaxLength = None
    loss_reduction: Annotated[Reduction | None, Option("Over the answer tokens of a sample.", default="mean")] = None
    template: ChatTemplate = None
    chat_template_kwargs: ChatTemplateKwargs = ()
    turns: AnswersOf = "last"
    device: Device = "auto"
    dtype: Dtype = "auto"


@dataclass(frozen=True)
class CheckIndexOptions(InStore):
    """Options of ``diq index check``."""

    dataset: DatasetName
    _: KW_ONLY
    model: LanguageModel
    validation_set: ValidationSets = ()
    params: Annotated[str, Option(WEIGHTS, metavar="WEIGHTS")] = "qkv"
    checkpoint: Annotated[
        str | os.PathLike[str] | None,
        Option("An adapter or a full model in place of --model itself.", metavar="DIR", reads="model", name=True),
    ] = None
    samples: Annotated[int, Option("Samples to draw from DATASET.", metavar="N")] = 512
    seed: Annotated[int, Option("Seed of the draw and of the random projections.", least=0)] = 0
    candidate: Annotated[
        Sequence[str],
        Option(
            "Projection to try, such as sparse:65536 or subspace:16; repeat.",
            metavar="KIND:SIZE",
            default="a range of each kind",
        ),
    ] = ()
    max_length: MaxLength = None
    batch_tokens: Annotated[int | None, batch_tokens("gradients")] = None
    device: Device = "auto"
    dtype: Dtype = "auto"
