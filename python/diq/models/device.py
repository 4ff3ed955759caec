"""Devices, precision, and what is recorded of the machine."""

from __future__ import annotations

import contextlib
import platform
import warnings
from collections.abc import Iterator
from importlib import metadata

import torch

from diq.base.errors import ModelError


def pick_device(device: str) -> torch.device:
    """``auto`` is a GPU if there is one, else the CPU.

    Raises:
        ModelError: the device is not there.
    """
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        place = torch.device(device)
    except RuntimeError as error:
        raise ModelError(f"unknown device `{device}`", "use auto, cpu or cuda") from error
    if place.type == "cuda" and not torch.cuda.is_available():
        raise ModelError(f"device `{device}` was asked for, but torch sees no GPU", "use --device cpu")
    return place


def pick_dtype(dtype: str, device: torch.device) -> str:
    """``auto`` is float32 on a CPU and bfloat16 on a GPU."""
    if dtype == "auto":
        return "bfloat16" if device.type == "cuda" else "float32"
    return dtype


@contextlib.contextmanager
def quiet_libraries(*, warn: bool = True) -> Iterator[None]:
    """No progress bars of transformers beside our own, and no advice on how its other users should call it.

    Args:
        warn: whether its warnings are shown.
    """
    from transformers.utils import logging as transformers_logging

    had_bars, before = transformers_logging.is_progress_bar_enabled(), transformers_logging.get_verbosity()
    transformers_logging.disable_progress_bar()
    if not warn:
        transformers_logging.set_verbosity_error()
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", category=FutureWarning, module=r"transformers\.")
            yield
    finally:
        transformers_logging.set_verbosity(before)
        if had_bars:
            transformers_logging.enable_progress_bar()


def describe_environment(device: torch.device | str = "cpu") -> dict[str, str]:
    """Versions and hardware, recorded with every run."""
    facts = {
        "python": platform.python_version(),
        "machine": platform.machine(),
        "threads": str(torch.get_num_threads()),
    }
    for package in ("diq", "torch", "transformers", "peft", "trl"):
        try:
            facts[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    place = torch.device(device)
    facts["device"] = torch.cuda.get_device_name(place) if place.type == "cuda" else "cpu"
    return facts
