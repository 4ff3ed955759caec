"""Text encoders with a fresh head: loading, fine-tuning, predicting, and saving as a normal Hugging Face folder.

The difficulty classifier and the influence rater are both such encoders. Training is transformers' own trainer with
length-grouped batches; after every epoch the validation split is measured, the best epoch's weights are kept, and
training stops when no epoch was better for a while.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import math
import shutil
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from transformers import PrinterCallback, Trainer, TrainerCallback, TrainingArguments, set_seed
from transformers.trainer_pt_utils import LengthGroupedSampler
from transformers.utils import logging as transformers_logging

from diq.errors import ModelError, RunFailedError
from diq.models import ModelSource
from diq.records import Progress, first_line
from diq.samples import plan_batches

log = logging.getLogger(__name__)

RECORD = "diq_encoder.json"
"""File beside the weights: what the encoder was trained for, on what, and how well it does."""

SPLITS = ("train", "validation", "test")

TokenIds = Sequence[Any]
"""Token ids of some texts, each a list or an int32 array."""

# padded tokens that go through the model at once in training; a step of more texts adds up the gradients of parts
_CPU_TRAIN_TOKENS = 4096
_GPU_TRAIN_TOKENS = 32768
# padded tokens a batch when predicting
_CPU_TOKEN_BUDGET = 4096
_GPU_TOKEN_BUDGET = 65536
# one of them is in every folder with a tokenizer; without any, transformers makes up an empty one
_TOKENIZERS = ("tokenizer.json", "vocab.txt", "vocab.json", "*.model", "*.spm", "tokenizer_config.json")
# models whose first positions are taken by the padding, so that they hold fewer tokens than positions
_OFFSET_POSITIONS = ("roberta", "xlm-roberta", "camembert", "longformer", "mpnet")


@dataclass(frozen=True, slots=True)
class Examples:
    """Tokenised texts and their targets.

    Attributes:
        ids: token ids of each text.
        targets: ``[n, k]``; NaN where there is no label.
    """

    ids: TokenIds
    targets: npt.NDArray[np.float64]

    def __len__(self) -> int:
        return len(self.ids)


@dataclass(frozen=True, slots=True)
class FitSettings:
    """How an encoder is fine-tuned.

    Attributes:
        epochs: at most so many passes over the training split.
        learning_rate: of AdamW, after the warm-up; it falls linearly to 0.
        batch_size: texts of an optimizer step; long ones go through the model in parts, which changes memory alone.
        weight_decay: of AdamW.
        warmup_ratio: share of the steps in which the learning rate rises, 0 to 1.
        patience: epochs without a better measure after which training stops.
        seed: of the head's first values, the order of the texts and dropout.
        max_length: tokens after which a text is cut; at most the encoder's context.
        dtype: ``float32``, or ``bfloat16`` for mixed precision (the weights stay float32).
        device: where to train.
    """

    epochs: float = 5
    learning_rate: float = 3e-5
    batch_size: int = 32
    weight_decay: float = 0.01
    warmup_ratio: float = 0.06
    patience: int = 2
    seed: int = 0
    max_length: int = 512
    dtype: str = "float32"
    device: str = "cpu"


@dataclass(slots=True)
class FitResult:
    """What a fine-tuning did.

    Attributes:
        best_epoch: 1-based epoch whose weights were kept.
        best_measure: its measure on the validation split; higher is better.
        history: for each epoch its number, the mean training loss and the measure.
        seconds: wall time.
    """

    best_epoch: int = 0
    best_measure: float = -math.inf
    history: list[dict[str, float]] = field(default_factory=list)
    seconds: float = 0.0


def load_encoder(
    source: ModelSource, *, labels: Sequence[str], regression: bool, seed: int = 0
) -> tuple[nn.Module, Any]:
    """A sequence-classification model with a fresh head of ``len(labels)`` outputs, and its tokenizer.

    Args:
        source: what ``find_model`` returned.
        labels: name of each output.
        regression: whether the outputs are numbers rather than logits of classes.
        seed: of the head's first values.

    Raises:
        ModelError: transformers cannot load the folder as a sequence classifier, or it has no tokenizer.
    """
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    if not any(found for pattern in _TOKENIZERS for found in source.path.glob(pattern)):
        raise ModelError(
            f"`{source.source}` has no tokenizer", "save it beside the model with tokenizer.save_pretrained(folder)"
        )
    set_seed(seed)
    names = dict(enumerate(labels))
    with quiet_libraries():
        try:
            model = AutoModelForSequenceClassification.from_pretrained(
                source.path,
                num_labels=len(names),
                id2label=names,
                label2id={name: i for i, name in names.items()},
                problem_type="regression" if regression else "single_label_classification",
                dtype=torch.float32,
                # a classifier may be trained further for other labels: then its head is left out
                ignore_mismatched_sizes=True,
            )
            tokenizer = AutoTokenizer.from_pretrained(source.path)
        except Exception as error:  # loaders raise whatever their back ends do
            raise ModelError(
                f"`{source.source}` cannot be loaded as a text encoder: {first_line(error)}",
                "give the folder or hub id of an encoder such as BERT or ModernBERT, with its tokenizer",
            ) from error
    if tokenizer.pad_token_id is None:
        raise ModelError(
            f"the tokenizer of `{source.source}` has no padding token, so it is no encoder's",
            "give an encoder such as BERT or ModernBERT",
        )
    model.config.pad_token_id = tokenizer.pad_token_id
    return model, tokenizer


def context_length(config: Any, tokenizer: Any) -> int:
    """Tokens that an encoder can take, special tokens included."""
    limit = int(getattr(config, "max_position_embeddings", None) or 512)
    if getattr(config, "model_type", "") in _OFFSET_POSITIONS:
        limit -= int(config.pad_token_id or 0) + 1
    return int(min(limit, getattr(tokenizer, "model_max_length", None) or limit))


def tokenize(
    tokenizer: Any, texts: Sequence[str], *, max_length: int
) -> tuple[list[npt.NDArray[np.int32]], npt.NDArray[np.bool_]]:
    """Token ids of each text with the special tokens, cut to ``max_length``, and whether each was cut.

    What a cut leaves out are the last tokens of the text; the closing special token stays.
    """
    full = tokenizer(list(texts), truncation=False, verbose=False, return_attention_mask=False)["input_ids"]
    cut = np.asarray([len(one) > max_length for one in full], np.bool_)
    # where a text ends: [CLS] text [SEP], but some tokenizers put nothing there
    closing = tokenizer("", verbose=False)["input_ids"]
    n_closing = len(closing) - 1 if len(closing) > 1 else 0
    ids = []
    for one, is_cut in zip(full, cut, strict=True):
        if is_cut:
            one = one[: max_length - n_closing] + one[len(one) - n_closing :]
        ids.append(np.asarray(one, np.int32))
    return ids, cut


def collate(ids: TokenIds, *, pad: int) -> dict[str, Tensor]:
    """Texts as one batch, padded on the right: ``input_ids`` and ``attention_mask``, both int64 ``[n, t]``."""
    width = max(len(one) for one in ids)
    rows = np.full((len(ids), width), pad, np.int64)
    mask = np.zeros((len(ids), width), np.int64)
    for row, one in enumerate(ids):
        rows[row, : len(one)] = one
        mask[row, : len(one)] = 1
    return {"input_ids": torch.from_numpy(rows), "attention_mask": torch.from_numpy(mask)}


@torch.inference_mode()
def predict(
    model: nn.Module,
    tokenizer: Any,
    ids: TokenIds,
    *,
    device: torch.device | str = "cpu",
    token_budget: int | None = None,
    progress: Callable[[int], None] | None = None,
) -> npt.NDArray[np.float64]:
    """Outputs of the model for each text, ``[n, k]``; batches hold texts of one length, or nearly so.

    Args:
        model: a sequence-classification model.
        tokenizer: its tokenizer, for the padding.
        ids: token ids of each text.
        device: where the model is.
        token_budget: padded tokens a batch; None takes a default.
        progress: called with the texts done after every batch.
    """
    place = torch.device(device)
    lengths = np.asarray([len(one) for one in ids], np.int64)
    budget = token_budget or (_GPU_TOKEN_BUDGET if place.type == "cuda" else _CPU_TOKEN_BUDGET)
    network: Any = model
    found = np.zeros((len(ids), network.config.num_labels))
    was_training = model.training
    model.eval()
    done = 0
    for batch in plan_batches(lengths, token_budget=budget):
        inputs = collate([ids[i] for i in batch], pad=tokenizer.pad_token_id)
        logits = model(**{name: one.to(place) for name, one in inputs.items()}).logits
        found[batch] = logits.double().cpu().numpy()
        done += len(batch)
        if progress:
            progress(done)
    model.train(was_training)
    return found


def split_of(
    texts: Sequence[str], *, seed: int, shares: tuple[float, float, float] = (0.8, 0.1, 0.1)
) -> npt.NDArray[np.int8]:
    """Which split each question belongs to, ``[n]``: 0 train, 1 validation, 2 test.

    A pure function of the seed and the question (letters and spacing apart), so equal questions never sit on two
    sides, and a question stays where it is when labels are added.
    """
    bounds = np.cumsum(shares)[:2] / sum(shares)
    at = [_unit(f"{seed}\n{' '.join(text.casefold().split())}") for text in texts]
    return np.searchsorted(bounds, np.asarray(at, np.float64), side="right").astype(np.int8)


def _unit(text: str) -> float:
    """A number in [0, 1) that depends on the text alone."""
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=7).digest(), "big") / 2**56


class _Rows(torch.utils.data.Dataset[dict[str, Any]]):
    def __init__(self, examples: Examples) -> None:
        self.examples = examples

    def __len__(self) -> int:
        return len(self.examples)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return {"input_ids": self.examples.ids[index], "targets": self.examples.targets[index]}


class _Trainer(Trainer):  # type: ignore[misc]
    """transformers' trainer with our loss, over batches of texts of nearly one length."""

    def __init__(self, loss: Callable[[Tensor, Tensor], Tensor], **options: Any) -> None:
        super().__init__(**options)
        self._loss = loss

    def compute_loss(self, model: nn.Module, inputs: dict[str, Tensor], *_: Any, **__: Any) -> Tensor:
        targets = inputs.pop("targets")
        return self._loss(model(**inputs).logits.float(), targets)

    def _get_train_sampler(self, *_: Any, **__: Any) -> Any:
        rows: _Rows = self.train_dataset
        lengths = [len(one) for one in rows.examples.ids]
        generator = torch.Generator().manual_seed(self.args.seed)
        step = self.args.train_batch_size * self.args.gradient_accumulation_steps
        return LengthGroupedSampler(step, lengths=lengths, generator=generator)


class _Epochs(TrainerCallback):  # type: ignore[misc]
    """Measures the validation split after every epoch, keeps the best weights, and stops when patience is over."""

    def __init__(self, measure: Callable[[nn.Module], float], patience: int, progress: Progress | None) -> None:
        self.result = FitResult()
        self.weights: dict[str, Tensor] = {}
        self._measure, self._patience, self._progress = measure, patience, progress
        self._losses: list[float] = []

    def on_log(self, _args: Any, _state: Any, _control: Any, logs: dict[str, float] | None = None, **_: Any) -> None:
        if logs and "loss" in logs:
            if not math.isfinite(logs["loss"]):
                raise RunFailedError(
                    f"the training loss is {logs['loss']} after {len(self._losses)} steps", "lower --learning-rate"
                )
            self._losses.append(logs["loss"])

    def on_step_end(self, _args: Any, state: Any, _control: Any, **_: Any) -> None:
        if self._progress:
            self._progress("training", state.global_step, state.max_steps)

    def on_epoch_end(self, _args: Any, state: Any, control: Any, model: nn.Module | None = None, **_: Any) -> None:
        assert model is not None
        epoch = round(state.epoch, 2)
        value = self._measure(model)
        self.result.history.append({"epoch": epoch, "loss": float(np.mean(self._losses)), "measure": value})
        self._losses = []
        # of equal epochs the later one: it is surer. NaN is better than nothing, and worse than any number
        if not self.weights or value >= self.result.best_measure:
            self.result.best_epoch, self.result.best_measure = len(self.result.history), value
            self.weights = {name: one.detach().cpu().clone() for name, one in model.state_dict().items()}
        elif len(self.result.history) - self.result.best_epoch >= self._patience:
            control.should_training_stop = True


def fit(
    model: nn.Module,
    tokenizer: Any,
    train: Examples,
    validation: Examples,
    *,
    loss: Callable[[Tensor, Tensor], Tensor],
    measure: Callable[[npt.NDArray[np.float64], npt.NDArray[np.float64]], float],
    settings: FitSettings,
    progress: Progress | None = None,
) -> FitResult:
    """Fine-tune all weights of an encoder; afterwards the model holds those of its best epoch.

    Args:
        model: what ``load_encoder`` returned; changed in place, left on the device in evaluation mode.
        tokenizer: its tokenizer.
        train: what is trained on.
        validation: what decides which epoch is best.
        loss: of outputs ``[b, k]`` float32 and targets ``[b, t]``, a number.
        measure: of outputs ``[n, k]`` and targets ``[n, t]`` of the validation split; higher is better.
        settings: see there.
        progress: called after every step.

    Raises:
        RunFailedError: a loss that is not a number, or no memory.
    """
    place = torch.device(settings.device)
    gpu = place.type == "cuda"
    steps = math.ceil(math.ceil(len(train) / settings.batch_size) * settings.epochs)
    pad = tokenizer.pad_token_id
    at_once = _texts_at_once(settings.batch_size, max(map(len, train.ids)), gpu=gpu)

    def measured(network: nn.Module) -> float:
        return measure(predict(network, tokenizer, validation.ids, device=place), validation.targets)

    def batch_of(rows: Sequence[dict[str, Any]]) -> dict[str, Tensor]:
        inputs = collate([one["input_ids"] for one in rows], pad=pad)
        inputs["targets"] = torch.from_numpy(np.stack([one["targets"] for one in rows]))
        return inputs

    epochs = _Epochs(measured, settings.patience, progress)
    started = time.monotonic()
    with quiet_libraries(), tempfile.TemporaryDirectory(prefix="diq-fit-") as folder:
        arguments = TrainingArguments(
            output_dir=folder,
            num_train_epochs=settings.epochs,
            per_device_train_batch_size=at_once,
            gradient_accumulation_steps=settings.batch_size // at_once,
            learning_rate=settings.learning_rate,
            weight_decay=settings.weight_decay,
            warmup_steps=math.ceil(steps * settings.warmup_ratio),
            lr_scheduler_type="linear",
            seed=settings.seed,
            data_seed=settings.seed,
            bf16=settings.dtype == "bfloat16",
            use_cpu=not gpu,
            save_strategy="no",
            logging_strategy="steps",
            logging_steps=1,
            logging_nan_inf_filter=False,
            report_to="none",
            disable_tqdm=True,
            remove_unused_columns=False,
            dataloader_pin_memory=gpu,
        )
        if gpu:
            # one process uses one GPU; the trainer would spread a plain process over all that it sees
            arguments._n_gpu = min(arguments.n_gpu, 1)
        trainer = _Trainer(
            loss, model=model, args=arguments, train_dataset=_Rows(train), data_collator=batch_of, callbacks=[epochs]
        )
        trainer.remove_callback(PrinterCallback)
        # our loss is a mean, so the parts of a step must be averaged, whatever arguments the model takes
        trainer.model_accepts_loss_kwargs = False
        try:
            trainer.train()
        except torch.OutOfMemoryError as error:
            raise RunFailedError(
                f"the GPU has no memory for {settings.batch_size} texts a step of up to {settings.max_length} tokens",
                "lower --batch-size or --max-length",
            ) from error
    model.load_state_dict(epochs.weights)
    model.requires_grad_(False).eval().to(place)
    epochs.result.seconds = time.monotonic() - started
    return epochs.result


def _texts_at_once(batch_size: int, longest: int, *, gpu: bool) -> int:
    """The largest divisor of a batch of the longest texts that fits the budget."""
    budget = _GPU_TRAIN_TOKENS if gpu else _CPU_TRAIN_TOKENS
    return next(n for n in range(batch_size, 0, -1) if batch_size % n == 0 and (n == 1 or n * longest <= budget))


def save(model: nn.Module, tokenizer: Any, folder: Path, *, card: str, record: dict[str, Any]) -> None:
    """Write a normal Hugging Face folder: weights, config, tokenizer, ``README.md`` and :data:`RECORD`.

    The folder appears whole or not at all; one that is there is replaced.

    Raises:
        RunFailedError: the disk is full or the folder cannot be written.
    """
    save_together({"": (model, tokenizer)}, folder, card=card, record=record)


def save_together(
    parts: Mapping[str, tuple[nn.Module, Any]], folder: Path, *, card: str, record: dict[str, Any]
) -> None:
    """As :func:`save`, for several models in sub-folders of the given names."""
    unfinished = folder.with_name(f".{folder.name}.unfinished")
    try:
        shutil.rmtree(unfinished, ignore_errors=True)
        unfinished.mkdir(parents=True)
        with quiet_libraries():
            for name, (model, tokenizer) in parts.items():
                network: Any = model
                network.save_pretrained(unfinished / name)
                tokenizer.save_pretrained(unfinished / name)
        (unfinished / "README.md").write_text(card, encoding="utf-8")
        (unfinished / RECORD).write_text(json.dumps(record, indent=2, sort_keys=True) + "\n", encoding="utf-8")
        if folder.exists():
            shutil.rmtree(folder)
        unfinished.replace(folder)
    except Exception as error:  # safetensors has errors of its own for a full disk
        shutil.rmtree(unfinished, ignore_errors=True)
        raise RunFailedError(
            f"`{folder}` cannot be written: {first_line(error)}", "free some space, or name another folder"
        ) from error


def read_record(folder: Path) -> dict[str, Any] | None:
    """What :func:`save` wrote of an encoder; None for a folder from elsewhere.

    Raises:
        ModelError: the file is damaged.
    """
    path = folder / RECORD
    if not path.is_file():
        return None
    try:
        return dict(json.loads(path.read_text(encoding="utf-8")))
    except (ValueError, TypeError) as error:
        raise ModelError(f"`{path}` is damaged: {first_line(error)}", "train the encoder again") from error


@contextlib.contextmanager
def quiet_libraries() -> Iterator[None]:
    """No progress bars and no advice of the libraries: the caller has its own, and a fresh head is meant."""
    had_bars, before = transformers_logging.is_progress_bar_enabled(), transformers_logging.get_verbosity()
    transformers_logging.disable_progress_bar()
    transformers_logging.set_verbosity_error()
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", category=FutureWarning, module=r"transformers\.")
            yield
    finally:
        transformers_logging.set_verbosity(before)
        if had_bars:
            transformers_logging.enable_progress_bar()
