"""What decides the outcome of a training: defaults, ranges, and the words for a difference."""

from __future__ import annotations

import importlib.util
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from diq.base.errors import UsageError
from diq.base.text import did_you_mean

METHODS = ("sft", "dpo")
SCHEDULERS = ("cosine", "linear", "constant", "constant_with_warmup")
REPORTERS = ("tensorboard", "wandb")
QUANTIZATIONS = ("nf4",)
FULL = "full"

# passes over the samples and learning rate where none was given: the paper's for SFT (section 4.1); DPO and whole
# weights take the order of magnitude that TRL's examples use
_EPOCHS = {"sft": 3.0, "dpo": 1.0}
_LEARNING_RATE = {("sft", False): 1e-4, ("dpo", False): 5e-6, ("sft", True): 1e-5, ("dpo", True): 5e-7}
_LORA = {"lora_rank": 8, "lora_alpha": 16.0, "lora_dropout": 0.0}
_LOSSES = {
    "sft": "mean over the answer tokens of a step",
    "dpo": "sigmoid of the difference of summed log-probabilities",
}
_MAX_GRADIENT_NORM = 1.0

_Range = tuple[Callable[[Any], bool], str]
_RANGES: dict[str, _Range] = {
    "epochs": (lambda value: 0 < value < math.inf, "a number above 0"),
    "learning_rate": (lambda value: 0 < value < math.inf, "a number above 0, such as 1e-4"),
    "beta": (lambda value: 0 < value < math.inf, "a number above 0, such as 0.1"),
    "lora_rank": (lambda value: value >= 1, "1 or more"),
    "lora_alpha": (lambda value: 0 < value < math.inf, "a number above 0"),
    "lora_dropout": (lambda value: 0 <= value < 1, "a number from 0 to below 1"),
    "max_length": (lambda value: value >= 2, "2 or more: a prompt and an answer need room"),
    "batch_size": (lambda value: value >= 1, "1 or more"),
    "warmup_ratio": (lambda value: 0 <= value <= 1, "a share from 0 to 1"),
    "weight_decay": (lambda value: 0 <= value < math.inf, "0 or more"),
    "seed": (lambda value: 0 <= value < 2**32, "0 to 4294967295"),
    "save_steps": (lambda value: value >= 1, "1 or more"),
    "devices": (lambda value: value >= 1, "1 or more"),
}


def make_settings(
    *,
    method: str,
    params: str | None,
    starts: bool,
    lora: Mapping[str, float | int | None],
    quantization: str | None,
    beta: float,
    epochs: float | None,
    learning_rate: float | None,
    packing: bool,
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
        others: settings that need no default.

    Raises:
        UsageError: settings that do not go together, or out of range.
    """
    _check_known("method", method, METHODS)
    _check_known("scheduler", others["scheduler"], SCHEDULERS)
    if quantization is not None:
        _check_known("quantization", quantization, QUANTIZATIONS)
    full = params == FULL
    given = [f"--{name.replace('_', '-')}" for name, value in {"params": params, **lora}.items() if value is not None]
    if starts and given:
        raise UsageError(
            f"{given[0]} belongs to a new adapter, and --adapter goes on with its own", f"leave out {given[0]}"
        )
    if full and len(given) > 1:
        raise UsageError(f"{given[1]} needs an adapter, and --params full trains the weights", f"leave out {given[1]}")
    if full and quantization:
        raise UsageError("packed weights cannot be trained", "leave out --quantization, or train an adapter")
    if packing and method == "dpo":
        raise UsageError("--packing is for --method sft alone", "leave it out")
    settings: dict[str, Any] = {
        **others,
        "epochs": float(_EPOCHS[method] if epochs is None else epochs),
        "learning_rate": float(_LEARNING_RATE[method, full] if learning_rate is None else learning_rate),
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
    check_ranges(settings)
    return settings


def check_ranges(values: Mapping[str, Any]) -> None:
    """Refuse numbers out of range; None is no number.

    Raises:
        UsageError: naming the option and what it takes.
    """
    for name, (fits, wanted) in _RANGES.items():
        value = values.get(name)
        if value is not None and not fits(value):
            raise UsageError(f"--{name.replace('_', '-')} {value} is out of range", f"give {wanted}")


def check_place(
    *, batch_size: int, micro_batch_size: int | None, devices: int, dtype: str, report_to: Sequence[str]
) -> None:
    """Refuse what cannot be run anywhere, before anything is read.

    Raises:
        UsageError: sizes that do not divide each other, an unknown precision, or a reporter that is not installed.
    """
    if batch_size % devices:
        raise UsageError(
            f"--batch-size {batch_size} cannot be shared by {devices} devices", f"give a multiple of {devices}"
        )
    share = batch_size // devices
    if micro_batch_size is not None and (micro_batch_size < 1 or share % micro_batch_size):
        of_device = f"the {share} samples of a device" if devices > 1 else f"--batch-size {batch_size}"
        raise UsageError(
            f"--micro-batch-size {micro_batch_size} does not divide {of_device}",
            "a step takes a whole number of micro-batches",
        )
    if dtype not in ("auto", "float32", "bfloat16"):
        raise UsageError(f"nothing can be trained in `{dtype}`", "use --dtype float32 or bfloat16")
    for one in report_to:
        _check_known("reporter", one, REPORTERS)
        if importlib.util.find_spec(one) is None:
            raise UsageError(f"--report-to {one} needs the package `{one}`", f"run `pip install {one}`")


def _check_known(noun: str, value: str, known: Sequence[str]) -> None:
    if value not in known:
        raise UsageError(f"there is no {noun} `{value}`", did_you_mean(value, known))


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
