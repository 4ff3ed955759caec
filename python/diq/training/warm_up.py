"""Stage: train a warm-up adapter on a random part of a dataset, for influence at its checkpoints.

LESS (Xia et al. 2024, section 4.1) warms up on 5 % of the data for four epochs, looks at the checkpoint after each, and
weighs each by the mean learning rate of its epoch; TracIn (Pruthi et al. 2020) is the sum over checkpoints.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from diq.base.config import MAX_LENGTH
from diq.base.errors import RunFailedError, UsageError
from diq.base.progress import Progress
from diq.models.tokens import Template
from diq.selection.select import select
from diq.training.output_folder import OutputFolder, checkpoint_step
from diq.training.train import train

EPOCHS = 4


def warm_up(
    dataset: str,
    *,
    model: str,
    share: str,
    store: Path,
    output: Path | None = None,
    epochs: int = EPOCHS,
    seed: int = 0,
    max_length: int | None = None,
    template: Template | None = None,
    dtype: str = "auto",
    device: str = "auto",
    devices: int = 1,
    attention: str | None = None,
    model_name: str | None = None,
    validation_sets: Sequence[str] = (),
    progress: Progress | None = None,
) -> list[Path]:
    """Train an adapter on a random part of a dataset; its checkpoints are what ``score_influence`` takes.

    The selection and the training are recorded like any other, and the same call again finds both.

    Args:
        dataset: name of a dataset in the store.
        model: folder or hub id of a causal language model.
        share: of the dataset, as a decimal such as ``0.05``.
        store: the store file.
        output: folder of the adapter; default one beside the store.
        epochs: passes over the part; each leaves a checkpoint.
        seed: of the part and of the training.
        max_length: tokens after which a sample is cut on the right; default 8192.
        template: ``auto`` (default) uses the tokenizer's chat template if there is one, ``none`` never does.
        dtype: ``auto``, ``float32`` or ``bfloat16``.
        device: ``auto``, ``cpu`` or ``cuda``.
        devices: number of devices.
        attention: attention implementation of transformers.
        model_name: name of the model in the store.
        validation_sets: whose losses are taken on the way.
        progress: called after every step.

    Returns:
        The checkpoint after each epoch, in order.

    Raises:
        UsageError: the share or the number of epochs is out of range, or the share is no sample.
        RunFailedError: the checkpoints are gone.
    """
    if epochs < 1:
        raise UsageError(f"--warmup-epochs {epochs} is less than 1", f"LESS takes {EPOCHS}")
    name = f"{dataset}-warmup-{share}"
    made = select(dataset, strategy="random", ratio=share, seed=seed, store=store, name=name)
    folder = output or _default_folder(store, model_name or model, name, seed)
    options: dict[str, Any] = {
        "epochs": epochs,
        "seed": seed,
        "max_length": max_length or MAX_LENGTH,
        "template": template or "auto",
        "dtype": dtype,
        "device": device,
        "devices": devices,
        "attention": attention,
        "model_name": model_name,
        "validation_sets": validation_sets,
        "progress": progress,
    }
    trained = train(str(made.selection_id), model=model, output=folder, store=store, **options)
    per_epoch = trained.steps // epochs
    found = [one for one in OutputFolder(folder).checkpoints() if checkpoint_step(one) % per_epoch == 0][::-1]
    if len(found) < epochs:
        raise RunFailedError(
            f"the warm-up in `{folder}` has {len(found)} of its {epochs} checkpoints",
            "delete the folder, and the same command trains it again",
        )
    return found


def _default_folder(store: Path, model: str, name: str, seed: int) -> Path:
    short = model.rstrip("/").rpartition("/")[2]
    return store.with_suffix(".warmup") / f"{short}-{name}-{seed}"
