"""What decides the outcome of a training: its settings with the defaults filled in, and the words for a difference."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from diq.base.errors import UsageError
from diq.base.text import amount
from diq.training.options import EPOCHS, LEARNING_RATE, LORA_ALPHA, LORA_DROPOUT, LORA_RANK, Method

FULL = "full"

_LORA = {"lora_rank": LORA_RANK, "lora_alpha": LORA_ALPHA, "lora_dropout": LORA_DROPOUT}
_LOSSES = {
    "sft": "mean over the answer tokens of a step",
    "dpo": "sigmoid of the difference of summed log-probabilities",
}
_MAX_GRADIENT_NORM = 1.0


def make_settings(
    *,
    method: Method,
    params: str | None,
    starts: bool,
    lora: Mapping[str, float | int | None],
    quantization: str | None,
    beta: float,
    epochs: float | None,
    learning_rate: float | None,
    packing: bool,
    follow_order: bool = False,
    **others: Any,
) -> dict[str, Any]:
    """Everything that changes what comes out, with defaults filled in: the identity of the run.

    Args:
        method: ``sft`` or ``dpo``.
        params: which weights are trained.
        starts: whether an adapter is trained on; its own rank and modules count then.
        lora: ``lora_rank``, ``lora_alpha`` and ``lora_dropout`` as given.
        quantization: how the frozen weights are packed, or None.
        beta: of DPO.
        epochs: passes, or None.
        learning_rate: or None.
        packing: whether samples are trained on without padding.
        follow_order: whether they come in their order.
        others: settings that need no default.
    """
    full = params == FULL
    settings: dict[str, Any] = {
        **others,
        "epochs": float(EPOCHS[method] if epochs is None else epochs),
        "learning_rate": float(LEARNING_RATE[method, full] if learning_rate is None else learning_rate),
        "max_gradient_norm": _MAX_GRADIENT_NORM,
        "optimizer": "adamw_torch",
        "loss": _LOSSES[method],
    }
    if not starts:
        settings["parameters"] = params or "qkv"
        if not full:
            settings |= {name: default if lora[name] is None else lora[name] for name, default in _LORA.items()}
    if method == "dpo":
        settings["beta"] = float(beta)
    if quantization:
        settings["quantization"] = quantization
    if packing:
        settings["packing"] = True
    if follow_order:
        settings["follow_order"] = True
    return settings


def check_place(*, batch_size: int, micro_batch_size: int | None, devices: int, report_to: Sequence[str]) -> None:
    """Refuse what cannot be run anywhere, before anything is read.

    Raises:
        UsageError: sizes that do not divide each other, or a reporter that is not installed.
    """
    if batch_size % devices:
        raise UsageError(
            f"--batch-size {batch_size} cannot be shared by {devices} devices", f"give a multiple of {devices}"
        )
    share = batch_size // devices
    if micro_batch_size is not None and share % micro_batch_size:
        of_device = f"the {amount(share, 'sample')} of a device" if devices > 1 else f"--batch-size {batch_size}"
        raise UsageError(
            f"--micro-batch-size {micro_batch_size} does not divide {of_device}",
            "a step takes a whole number of micro-batches",
        )
    for one in report_to:
        if importlib.util.find_spec(one) is None:
            raise UsageError(f"--report-to {one} needs the package `{one}`", f"run `pip install {one}`")


def other_configuration(
    output: Path, record: Mapping[str, Any], model_id: str, settings: Mapping[str, Any]
) -> UsageError:
    """The error that names every setting in which a folder differs from what was asked."""
    there = {"model": record.get("model_id"), "method": record.get("method"), **record.get("settings", {})}
    asked = {"model": model_id, "method": "dpo" if "beta" in settings else "sft", **settings}
    differing = []
    for name in sorted(there.keys() | asked.keys()):
        if there.get(name) == asked.get(name):
            continue
        if name in ("data", "model", "tokenizer", "template", "start"):
            differing.append(f"another {'adapter to start from' if name == 'start' else name}")
        elif name != "n_samples" or there.get("data") == asked.get("data"):
            differing.append(f"{name} {there.get(name)} there, {asked.get(name)} here")
    return UsageError(
        f"`{output}` belongs to a training with other settings: {'; '.join(differing)}",
        "name another --output, use the same settings, or give --overwrite to delete what is there",
    )
