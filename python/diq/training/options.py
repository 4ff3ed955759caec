"""What ``diq train`` and the warm-up take."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import KW_ONLY, dataclass
from decimal import Decimal
from typing import Annotated, Literal

from diq.base.config import MAX_LENGTH
from diq.base.options import (
    AnswersOf,
    Attention,
    ChatTemplate,
    ChatTemplateKwargs,
    DatasetName,
    Device,
    Devices,
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

Method = Literal["sft", "dpo"]
Scheduler = Literal["cosine", "linear", "constant", "constant_with_warmup"]
Tracker = Literal["tensorboard", "wandb"]
TrainDtype = Annotated[
    Literal["auto", "float32", "bfloat16"],
    Option("Precision of the model; auto is float32 on a CPU and bfloat16 on a GPU."),
]

# an adapter that is gone on with has modules, rank and scale of its own; full weights have no adapter
_NEW, _LORA = Excludes("adapter"), Excludes("params", ("full",))

# what a new adapter and a training are made with where nothing is asked; `diq cost` counts with the same
# passes and learning rates: the paper's for SFT (section 4.1); DPO and whole weights take the order of magnitude that
# TRL's examples use
LORA_RANK, LORA_ALPHA, LORA_DROPOUT = 8, 16.0, 0.0
EPOCHS: dict[Method, float] = {"sft": 3.0, "dpo": 1.0}
LEARNING_RATE: dict[tuple[Method, bool], float] = {
    ("sft", False): 1e-4,
    ("dpo", False): 5e-6,
    ("sft", True): 1e-5,
    ("dpo", True): 5e-7,
}
"""By method, and whether all weights are trained."""


@dataclass(frozen=True)
class TrainOptions(InStore):
    """Options of ``diq train``."""

    selection: Annotated[
        str,
        Option(
            "A file in any format that `diq ingest` reads; else number or name of a selection in the store; else name "
            "of a dataset in the store (all of it).",
            positional=True,
            reads="selection",
            name=True,
        ),
    ]
    _: KW_ONLY
    model: Annotated[
        str | os.PathLike[str],
        Option("Base model: a folder, or a hub id.", metavar="FOLDER|ID", reads="model", name=True),
    ]
    output: Annotated[
        str | os.PathLike[str],
        Option("Folder of the adapter, or of the model with --params full.", metavar="DIR", short="o", writes="path"),
    ]
    method: Annotated[Method, Option("sft: supervised; dpo: by preference pairs.")] = "sft"
    adapter: Annotated[
        str | os.PathLike[str] | None,
        Option(
            "Go on with this LoRA adapter of --model; with dpo it is also the reference. Without it the base model is.",
            metavar="DIR",
            reads="model",
            name=True,
        ),
    ] = None
    params: Annotated[
        str | None,
        Option(
            "What is trained: an adapter on query, key and value, on all linear layers, or on the modules whose names "
            "match; or full, all weights.",
            metavar="qkv|all-linear|full|REGEX",
            default="qkv",
        ),
        _NEW,
    ] = None
    lora_rank: Annotated[int | None, Option("Rank of a new adapter.", default=f"{LORA_RANK}", least=1), _NEW, _LORA] = (
        None
    )
    lora_alpha: Annotated[
        float | None,
        Option("A new adapter is scaled by alpha / rank.", default=f"{LORA_ALPHA:g}", above=0),
        _NEW,
        _LORA,
    ] = None
    lora_dropout: Annotated[
        float | None, Option("Dropout before a new adapter.", default="0", least=0, below=1), _NEW, _LORA
    ] = None
    quantization: Annotated[Literal["nf4"] | None, Option("Pack the frozen weights into 4 bits (QLoRA)."), _LORA] = None
    beta: Annotated[
        float, Option("How strongly dpo holds on to the reference.", above=0), Needs("method", ("dpo",))
    ] = 0.1
    epochs: Annotated[
        float | None,
        Option("Passes over the selection.", default=f"{EPOCHS['sft']:g}; dpo: {EPOCHS['dpo']:g}", above=0),
    ] = None
    learning_rate: Annotated[
        float | None,
        Option(
            "Highest learning rate of AdamW.",
            default="1e-4; dpo: 5e-6; --params full: 1e-5, and 5e-7 for dpo",
            above=0,
        ),
    ] = None
    max_length: Annotated[int, Option("Tokens after which a sample is cut on the right.", least=2)] = MAX_LENGTH
    batch_size: Annotated[int, Option("Samples of an optimizer step, over all devices.", least=1)] = 8
    micro_batch_size: Annotated[
        int | None,
        Option(
            "Samples that go through the model at a time on a device; halved where memory runs out. Changes memory, "
            "not the result.",
            default="chosen by length",
            least=1,
        ),
    ] = None
    packing: Annotated[
        bool,
        Option("Put the samples of a micro-batch into one row without padding: faster, the same result."),
        Needs("method", ("sft",)),
    ] = False
    follow_order: Annotated[
        bool,
        Option("Take the samples in the order of the file or selection (`diq select --order`), every epoch anew."),
    ] = False
    scheduler: Annotated[Scheduler, Option("Course of the learning rate.")] = "cosine"
    warmup_ratio: Annotated[float, Option("Share of the steps in which it rises.", least=0, most=1)] = 0.03
    weight_decay: Annotated[float, Option("Weight decay of AdamW.", least=0)] = 0.0
    seed: Annotated[int, Option("Seed of the adapter's start, the order and dropout.", least=0, most=2**32 - 1)] = 0
    devices: Annotated[int, Option("GPUs that share a step, a process each.", least=1)] = 1
    attention: Annotated[
        str | None,
        Option(
            "Attention of transformers: flash_attention_2, sdpa, eager.",
            metavar="NAME",
            default="FlashAttention 2 on a GPU that has it",
        ),
    ] = None
    validation_set: Annotated[
        Sequence[str],
        Option(
            "Take the loss of this validation set before, after every epoch, and after; repeat.",
            metavar="NAME",
            reads="validation set",
        ),
    ] = ()
    template: Annotated[
        Literal["auto", "none"],
        Option("auto uses the tokenizer's chat template if it has one; none the plain Question/Answer form."),
    ] = "auto"
    chat_template_kwargs: ChatTemplateKwargs = ()
    turns: Annotated[AnswersOf, Needs("method", ("sft",))] = "last"
    gradient_checkpointing: Annotated[
        bool | None, Option("Compute activations twice instead of keeping them.", default="on a GPU only")
    ] = None
    save_steps: Annotated[
        int | None,
        Option("Also keep a checkpoint every so many steps; every epoch's end is kept.", metavar="N", least=1),
    ] = None
    report_to: Annotated[
        Sequence[Tracker], Option("Also send losses there; TensorBoard's files go to OUTPUT/logs. Repeat.")
    ] = ()
    resume: Annotated[bool, Option("Go on from the newest checkpoint.")] = True
    overwrite: Annotated[bool, Option("Delete what an earlier training left in the output, and train.")] = False
    model_name: ModelName = None
    device: Device = "auto"
    dtype: TrainDtype = "auto"


@dataclass(frozen=True)
class WarmUpOptions(InStore):
    """Options of the warm-up, ``diq score influence --warmup``."""

    dataset: DatasetName
    _: KW_ONLY
    model: LanguageModel
    share: Annotated[
        str | float | Decimal,
        Option("Random share of the dataset to train on, such as 0.05.", metavar="SHARE", check=Ratio.parse),
    ]
    output: Annotated[
        str | os.PathLike[str] | None,
        Option("Folder of the warm-up adapter.", metavar="DIR", default="beside the store", writes="path"),
    ] = None
    epochs: Annotated[int, Option("Passes over the part; each leaves a checkpoint.", least=1)] = 4
    seed: Annotated[int, Option("Seed of the draw and the training.", least=0)] = 0
    max_length: MaxLength = None
    template: ChatTemplate = None
    chat_template_kwargs: ChatTemplateKwargs = ()
    turns: AnswersOf = "last"
    devices: Devices = 1
    attention: Attention = None
    model_name: ModelName = None
    validation_set: ValidationSets = ()
    device: Device = "auto"
    dtype: TrainDtype = "auto"
