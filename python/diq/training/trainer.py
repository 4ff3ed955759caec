"""TRL's trainers with checkpoints that appear whole, a clock that survives a kill, and no talk to the outside."""

from __future__ import annotations

import math
import os
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import datasets
from torch.utils.data import SequentialSampler
from transformers import PrinterCallback, TrainerCallback
from trl import DPOConfig, DPOTrainer, SFTConfig, SFTTrainer
from trl.trainer.dpo_trainer import DataCollatorForPreference
from trl.trainer.sft_trainer import DataCollatorForLanguageModeling

from diq.base.errors import RunFailedError
from diq.base.files import publish
from diq.base.progress import Progress
from diq.models.saving import saving_errors
from diq.training.output_folder import LOGS, OutputFolder, checkpoint_step

# a checkpoint at the latest after this time, so that a kill costs no more of a long epoch
SAVE_SECONDS = 600.0
# points of the loss curve that are kept
_LOG_POINTS = 200
# one process may wait this long for another, which takes validation losses or writes a checkpoint
PATIENCE_S = 6 * 3600
# what a step says besides its loss, in our words
_MEASURES = {
    "rewards/accuracies": "preferred",
    "rewards/margins": "margin",
    "rewards/chosen": "reward_chosen",
    "rewards/rejected": "reward_rejected",
}


@dataclass(frozen=True, slots=True)
class Course:
    """How the steps of a training are laid out.

    Attributes:
        n: samples.
        epochs: passes over them.
        batch_size: samples of a step.
        micro_batch_size: samples that go through the model at a time, on each device.
        devices: processes that share a step.
        save_steps: a checkpoint is kept every so many steps, besides the end of every epoch; None: no others.
    """

    n: int
    epochs: float
    batch_size: int
    micro_batch_size: int
    devices: int = 1
    save_steps: int | None = None

    @property
    def epoch_steps(self) -> int:
        """Steps of a pass; the last one may be short."""
        return math.ceil(self.n / self.batch_size)

    @property
    def steps(self) -> int:
        """Steps of the whole training."""
        return math.ceil(self.epoch_steps * self.epochs)

    def keeps(self, step: int) -> bool:
        """Whether the checkpoint after a step stays."""
        return (
            step % self.epoch_steps == 0
            or step == self.steps
            or bool(self.save_steps and step % self.save_steps == 0)
        )  # fmt: skip


class _Whole:
    """What both trainers share; stands before TRL's class.

    Attributes:
        follow_order: whether samples come in the order of the file, every epoch.
    """

    follow_order = False

    def __init__(self, folder: OutputFolder, course: Course, **options: Any) -> None:
        self.folder, self.course = folder, course
        self.started, self.earlier_seconds = time.monotonic(), 0.0
        super().__init__(**options)

    def _get_train_sampler(self, train_dataset: Any = None) -> Any:
        """Samples in the order of the file where that is asked for, else as the trainer shuffles them."""
        if self.follow_order:
            return SequentialSampler(self.train_dataset if train_dataset is None else train_dataset)  # type: ignore[attr-defined]
        return super()._get_train_sampler(train_dataset)  # type: ignore[misc]

    def _send_telemetry(self) -> None:
        """TRL reports every training to the hub; this one does not."""

    def create_model_card(self, *_: Any, **__: Any) -> None:
        """The record says what the adapter is; a half-empty README would not."""

    def log(self, logs: dict[str, float], *rest: Any, **more: Any) -> None:
        """Add the time that training took so far, over all sessions."""
        logs["seconds"] = self.earlier_seconds + time.monotonic() - self.started
        super().log(logs, *rest, **more)  # type: ignore[misc]

    def create_optimizer(self, model: Any = None) -> Any:
        """Write the names of the parameters beside them: moments are found by name, whatever the order."""
        optimizer = super().create_optimizer(model)  # type: ignore[misc]
        trained = self.model if model is None else model  # type: ignore[attr-defined]
        names = {id(one): name for name, one in trained.named_parameters()}
        for group in optimizer.param_groups:
            group["param_names"] = [names[id(one)] for one in group["params"]]
        return optimizer

    def curve(self) -> list[dict[str, float]]:
        """The logged training losses: step, mean loss since the last one, learning rate, seconds, measures of DPO."""
        names = ("step", "loss", "learning_rate", "seconds")
        return [
            {name: one[name] for name in names} | {ours: one[name] for name, ours in _MEASURES.items() if name in one}
            for one in self.state.log_history  # type: ignore[attr-defined]
            if "loss" in one
        ]

    def validation_curve(self) -> list[dict[str, float]]:
        """The validation losses on the way: step, and the loss of each set."""
        return [
            {"step": one["step"]} | {name[5:-5]: one[name] for name in one if _is_validation(name)}
            for one in self.state.log_history  # type: ignore[attr-defined]
            if any(map(_is_validation, one))
        ]

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        # the trainer writes into the folder of unfinished things
        state, wait = self.state, self.accelerator.wait_for_everyone  # type: ignore[attr-defined]
        with saving_errors(self.folder.path):
            super()._save_checkpoint(model, trial)  # type: ignore[misc]
            wait()
            if state.is_world_process_zero:
                name = f"checkpoint-{state.global_step}"
                publish(self.folder.unfinished / name, self.folder.path / name)
        if state.is_world_process_zero:
            for one in self.folder.checkpoints():
                if checkpoint_step(one) < state.global_step and not self.course.keeps(checkpoint_step(one)):
                    shutil.rmtree(one)
        wait()


class SftTrainer(_Whole, SFTTrainer):  # type: ignore[misc]
    """Supervised fine-tuning on tokens that are ready."""


class DpoTrainer(_Whole, DPOTrainer):  # type: ignore[misc]
    """Direct preference optimisation on tokens that are ready (Rafailov et al. 2023)."""

    def _prepare_dataset(self, dataset: Any, *_: Any, **__: Any) -> Any:
        # what is handed over is what is trained on
        return dataset


def _is_validation(name: str) -> bool:
    return name.startswith("eval_") and name.endswith("_loss")


class _Steps(TrainerCallback):  # type: ignore[misc]
    """Progress, when to save, validation losses on the way, and a stop when the loss is lost."""

    def __init__(
        self, trainer: Any, progress: Progress | None, validate: Callable[[Any], dict[str, float]] | None
    ) -> None:
        self.trainer, self.progress, self.validate = trainer, progress, validate
        self.saved = time.monotonic()

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Start the clock, from where an earlier session left it."""
        del args, control
        self.trainer.started = self.saved = time.monotonic()
        self.trainer.earlier_seconds = next(
            (one["seconds"] for one in reversed(state.log_history) if "seconds" in one), 0.0
        )
        if self.progress:
            self.progress("training", state.global_step, state.max_steps)

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Save where it was asked for, at the end, and when the last one is long ago."""
        course = self.trainer.course
        # the processes of a training must agree, and their clocks do not
        late = args.world_size == 1 and time.monotonic() - self.saved > SAVE_SECONDS
        if course.keeps(state.global_step) or state.global_step >= state.max_steps or late:
            # the loss since the last log would be lost with the process
            control.should_save = control.should_log = True
            self.saved = time.monotonic()
        if self.progress:
            self.progress("training", state.global_step, state.max_steps)

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, float], **_: Any) -> None:
        """Stop at a loss that is not a number: every later step would be noise."""
        del args, control
        if not math.isfinite(logs.get("loss", 0.0)):
            raise RunFailedError(
                f"the training loss is not finite at step {state.global_step}",
                "lower --learning-rate or use --dtype float32",
            )

    def on_epoch_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Take the validation losses, except after the last step, where they are taken anyway."""
        del args, control
        if self.validate is None or not state.is_world_process_zero or state.global_step >= state.max_steps:
            return
        losses = self.validate(self.trainer.model)
        self.trainer.log({f"eval_{name}_loss": loss for name, loss in losses.items()})


def make_trainer(
    network: Any,
    tokenizer: Any,
    tokens: Path,
    folder: OutputFolder,
    course: Course,
    settings: dict[str, Any],
    *,
    method: str,
    reference: Any | None,
    gpu: bool,
    gradient_checkpointing: bool,
    report_to: tuple[str, ...],
    progress: Progress | None,
    validate: Callable[[Any], dict[str, float]] | None,
) -> Any:
    """TRL's trainer over a file of tokens, with the settings of a run.

    Args:
        network: what is trained, see :func:`diq.training.network.load_network`.
        tokenizer: of the model; saved with the checkpoints.
        tokens: Arrow stream, see :class:`diq.training.data.Tokenized`.
        folder: where checkpoints go.
        course: the layout of the steps.
        settings: of the run.
        method: ``sft`` or ``dpo``.
        reference: frozen model of a DPO run over whole weights; None: the adapter's first state, or none at all.
        gpu: whether the model is on one.
        gradient_checkpointing: compute activations twice instead of keeping them.
        report_to: ``tensorboard``, ``wandb``.
        progress: called after every step.
        validate: losses of a model on the validation sets, taken after every epoch.
    """
    options: dict[str, Any] = {
        "output_dir": str(folder.unfinished),
        "num_train_epochs": settings["epochs"],
        "per_device_train_batch_size": course.micro_batch_size,
        "gradient_accumulation_steps": course.batch_size // (course.micro_batch_size * course.devices),
        "learning_rate": settings["learning_rate"],
        "lr_scheduler_type": settings["scheduler"],
        "warmup_steps": math.ceil(course.steps * settings["warmup_ratio"]),
        "weight_decay": settings["weight_decay"],
        "max_grad_norm": settings["max_gradient_norm"],
        "optim": settings["optimizer"],
        "seed": settings["seed"],
        "data_seed": settings["seed"],
        "bf16": settings["dtype"] == "bfloat16",
        "use_cpu": not gpu,
        "ddp_timeout": PATIENCE_S,
        "ddp_find_unused_parameters": False,
        "gradient_checkpointing": gradient_checkpointing,
        # the loss is that of the answers, as in the scoring; the one that balances experts would come with some configs
        "router_aux_loss_coef": 0.0,
        # what is handed over is what is trained on
        "max_length": None,
        "save_strategy": "no",
        "logging_strategy": "steps",
        "logging_first_step": True,
        "logging_steps": max(1, course.steps // _LOG_POINTS),
        "logging_nan_inf_filter": False,
        "report_to": list(report_to) or "none",
        "run_name": folder.path.resolve().name,
        "push_to_hub": False,
        "disable_tqdm": True,
        "dataloader_pin_memory": gpu,
    }
    if not gpu and course.devices > 1:
        options["ddp_backend"] = "gloo"
    if "tensorboard" in report_to:
        # where its writer looks; the folder of unfinished things goes at the end
        os.environ["TENSORBOARD_LOGGING_DIR"] = str(folder.path / LOGS)
    args = (
        SFTConfig(**options, dataset_kwargs={"skip_prepare_dataset": True})
        if method == "sft"
        else DPOConfig(**options, beta=settings["beta"])
    )
    if gpu:
        # one process uses one GPU; the trainer would spread a plain process over all that it sees
        args._n_gpu = min(args.n_gpu, 1)
    pad = next((one for one in (tokenizer.pad_token_id, tokenizer.eos_token_id) if one is not None), 0)
    shared: dict[str, Any] = {
        "model": network,
        "args": args,
        "train_dataset": datasets.Dataset.from_file(str(tokens)),
        "processing_class": tokenizer,
    }
    trainer: SftTrainer | DpoTrainer
    if method == "sft":
        collator = DataCollatorForLanguageModeling(pad_token_id=pad, padding_free=settings.get("packing", False))
        trainer = SftTrainer(folder, course, **shared, data_collator=collator)
    else:
        pairs = DataCollatorForPreference(pad_token_id=pad)
        trainer = DpoTrainer(folder, course, **shared, data_collator=pairs, ref_model=reference)
    trainer.follow_order = settings.get("follow_order", False)
    trainer.remove_callback(PrinterCallback)
    trainer.add_callback(_Steps(trainer, progress, validate))
    return trainer
