"""Fine-tuning of text encoders: all weights, on texts with targets, by a loss and a measure of the caller's.

It is transformers' own trainer with length-grouped batches; after every epoch the validation split is measured, the
best epoch's weights are kept, and training stops when no epoch was better for a while.
"""

from __future__ import annotations

import math
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from transformers import PrinterCallback, Trainer, TrainerCallback, TrainingArguments
from transformers.trainer_pt_utils import LengthGroupedSampler

from diq.base.errors import RunFailedError
from diq.base.progress import Progress
from diq.base.text import amount
from diq.encoders.network import TokenIds, collate, predict
from diq.models.device import quiet_libraries
from diq.models.memory import default_budget, one_line_of_memory


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

    def identity(self) -> dict[str, Any]:
        """What changes the weights; where it runs does not count."""
        found = asdict(self)
        del found["device"]
        return found


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
                    f"the training loss is {logs['loss']} after {amount(len(self._losses), 'step')}",
                    "lower --learning-rate",
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
    longest = max(map(len, train.ids))
    at_once = _texts_at_once(settings.batch_size, longest, default_budget("fitting", place.type))

    def measured(network: nn.Module) -> float:
        return measure(predict(network, tokenizer, validation.ids, device=place), validation.targets)

    def batch_of(rows: Sequence[dict[str, Any]]) -> dict[str, Tensor]:
        inputs = collate([one["input_ids"] for one in rows], pad=pad)
        inputs["targets"] = torch.from_numpy(np.stack([one["targets"] for one in rows]))
        return inputs

    epochs = _Epochs(measured, settings.patience, progress)
    started = time.monotonic()
    with quiet_libraries(warn=False), tempfile.TemporaryDirectory(prefix="diq-fit-") as folder:
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
        with one_line_of_memory(
            f"{amount(at_once, 'text')} of up to {longest} tokens at a time", "lower --batch-size or --max-length"
        ):
            trainer.train()
    model.load_state_dict(epochs.weights)
    model.requires_grad_(False).eval().to(place)
    epochs.result.seconds = time.monotonic() - started
    return epochs.result


def _texts_at_once(batch_size: int, longest: int, budget: int) -> int:
    """The largest divisor of a batch of the longest texts that fits the budget."""
    return next(n for n in range(batch_size, 0, -1) if batch_size % n == 0 and (n == 1 or n * longest <= budget))
