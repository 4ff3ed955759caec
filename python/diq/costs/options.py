"""What ``diq cost`` takes, and what a count assumes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import KW_ONLY, dataclass
from decimal import Decimal
from typing import Annotated, Literal

from diq.base.config import MAX_LENGTH
from diq.base.options import Device, Dtype, Excludes, InStore, Needs, Option
from diq.base.text import Ratio
from diq.training.options import EPOCHS, LORA_RANK, Method

Params = Literal["qkv", "all-linear", "full"]
CHARACTERS_PER_TOKEN = 4.0
QKV = ("q", "k", "v")
ENCODER_CONTEXT = 512
VALIDATION_SAMPLES = 180  # the paper's: 20 of each of nine benchmarks

_Source = Annotated[
    str | None,
    Option("Name of a dataset in the store, or a file.", metavar="[DATASET|FILE]", positional=True, name=True),
]
_Model = Annotated[
    str,
    Option(
        "Folder or hub id (only config.json is read), or llama-3.1-8b, qwen3-8b, qwen3-14b, qwen3-32b.",
        metavar="MODEL",
        name=True,
    ),
]
_Tokens = Annotated[float | None, Option("Tokens a sample, without a dataset.", metavar="T", above=0)]
_Rater = Annotated[
    str | None,
    Option("Encoder of difficulty and rater.", metavar="DIR", default="BERT-base and ModernBERT-base", name=True),
]
_Params = Annotated[Params, Option("What is adapted and scored; full trains all weights, and scores with qkv.")]
_Rank = Annotated[int, Option("Rank of the adapter.", least=1), Excludes("params", ("full",))]
_Checkpointing = Annotated[bool, Option("Training computes every layer once more.")]
_Length = Annotated[int, Option("Tokens after which a sample is cut.", least=2)]


@dataclass(frozen=True)
class CostOptions(InStore):
    """Options of ``diq cost``."""

    source: _Source = None
    _: KW_ONLY
    model: _Model
    samples: Annotated[int | None, Option("Number of samples, without a dataset.", metavar="N", least=1)] = None
    tokens: _Tokens = None
    validation_samples: Annotated[
        int | None,
        Option(
            "Samples of all validation sets together.",
            metavar="V",
            default=f"the store's, else {VALIDATION_SAMPLES}",
            least=0,
        ),
    ] = None
    validation_sets: Annotated[
        int | None, Option("Number of validation sets.", metavar="N", default="the store's, else 1", least=1)
    ] = None
    ratio: Annotated[
        Sequence[str | float | Decimal],
        Option("Ratio that is to be trained on; repeat.", metavar="R", check=Ratio.parse),
    ] = ("0.01", "0.1")
    method: Annotated[Method, Option("Kind of training: supervised, or by preference pairs.")] = "sft"
    epochs: Annotated[float, Option("Passes of training.", above=0)] = EPOCHS["sft"]
    params: _Params = "qkv"
    lora_rank: _Rank = LORA_RANK
    gradient_checkpointing: _Checkpointing = False
    max_length: _Length = MAX_LENGTH
    rater: _Rater = None
    questions: Annotated[
        int | None, Option("Questions of an evaluation; without it none is counted.", metavar="N", least=1)
    ] = None
    question_tokens: Annotated[float, Option("Tokens of a question and its output.", above=0), Needs("questions")] = (
        1024.0
    )
    characters_per_token: Annotated[
        float | None,
        Option(
            "Characters a token, such as a probe measures.",
            default=f"as an influence run counted, else {CHARACTERS_PER_TOKEN:g}",
            above=0,
        ),
    ] = None


@dataclass(frozen=True)
class ProbeOptions(InStore):
    """Options of ``diq.probe``, and of ``diq cost --probe TIME``."""

    source: _Source = None
    _: KW_ONLY
    model: Annotated[
        str, Option("Folder or hub id of the causal language model, with its weights.", metavar="MODEL", name=True)
    ]
    seconds: Annotated[
        float, Option("Time to measure, shared evenly.", metavar="SECONDS", above=0, hint="give some, such as 60")
    ] = 60.0
    tokens: _Tokens = None
    validation_sets: Annotated[int, Option("Number of validation sets, each with two folds.", metavar="N", least=1)] = 1
    rater: Annotated[
        str | None,
        Option(
            "Folder of an encoder with a head (difficulty classifier or rater).",
            metavar="DIR",
            default="none",
            name=True,
        ),
    ] = None
    params: _Params = "qkv"
    lora_rank: _Rank = LORA_RANK
    gradient_checkpointing: _Checkpointing = False
    max_length: _Length = MAX_LENGTH
    device: Device = "auto"
    dtype: Dtype = "auto"
