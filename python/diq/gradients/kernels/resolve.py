"""Which form of a kernel runs: the CPU's, Triton's or plain torch.

Decided once for each kernel, device and dtype: before Triton is used on a GPU, it has to agree with the reference on a
tiny input. ``DIQ_KERNELS=triton`` or ``DIQ_KERNELS=torch`` forces the choice; on CPU tensors Triton runs in its
interpreter (``TRITON_INTERPRET=1``), which is how tests reach it.
"""

from __future__ import annotations

import functools
import logging
import os
import warnings
from collections.abc import Callable
from typing import Literal

import torch

from diq.base.errors import RunFailedError, UsageError

log = logging.getLogger(__name__)

Form = Literal["cpu", "triton", "torch"]
Check = Callable[[torch.device, torch.dtype], None]
"""Runs the Triton kernel on a tiny input and raises :class:`KernelMismatch` when it is not the reference's result."""


class KernelMismatch(ArithmeticError):  # noqa: N818 - what it says reads as a sentence
    """A kernel's result is not the reference's."""


def form_of(kernel: str, check: Check, device: torch.device, dtype: torch.dtype) -> Form:
    """The form that computes ``kernel`` on tensors of this device and dtype.

    Args:
        kernel: name, for the log.
        check: see :data:`Check`.
        device: of the tensors.
        dtype: of the tensors.

    Raises:
        UsageError: ``DIQ_KERNELS`` holds another word, or forces Triton where it cannot run.
        RunFailedError: ``DIQ_KERNELS=triton``, and the kernel fails or is wrong on this machine.
    """
    return _form_of(kernel, check, device, dtype, os.environ.get("DIQ_KERNELS", ""), interpreted())


@functools.cache
def _form_of(
    kernel: str, check: Check, device: torch.device, dtype: torch.dtype, forced: str, interpreter: bool
) -> Form:
    if forced not in ("", "triton", "torch"):
        raise UsageError(f"DIQ_KERNELS is `{forced}`", "set it to triton or torch, or unset it")
    if forced == "triton" and device.type == "cpu" and not interpreter:
        raise UsageError("DIQ_KERNELS=triton on a CPU", "unset it, or set TRITON_INTERPRET=1 to interpret the kernels")
    form: Form = "torch"
    if not forced and device.type == "cpu":
        form = "cpu"
    elif forced != "torch" and (device.type == "cuda" or forced == "triton"):
        form = "triton"
        try:
            with warnings.catch_warnings():
                # triton warns of its own defaults once a process; nothing here depends on them
                warnings.simplefilter("ignore")
                check(device, dtype)
        except Exception as error:  # the compiler and the driver raise whatever they do
            reason = f"{type(error).__name__}: {str(error).strip().splitlines()[0] if str(error).strip() else ''}"
            if forced:
                raise RunFailedError(
                    f"the Triton kernel `{kernel}` does not work on {device} with {dtype}: {reason}",
                    "unset DIQ_KERNELS to fall back to torch",
                ) from error
            log.warning(
                "the Triton kernel `%s` does not work on %s with %s, torch does its work, slower: %s",
                kernel, device, dtype, reason,
            )  # fmt: skip
            form = "torch"
    # on a CPU there is no choice to tell of
    level = logging.DEBUG if form == "cpu" else logging.INFO
    log.log(level, "kernel %s on %s with %s: %s", kernel, device, dtype, form)
    return form


def forget() -> None:
    """Decide again on the next call (for tests)."""
    _form_of.cache_clear()


def interpreted() -> bool:
    """Whether Triton runs its kernels in Python, on CPU tensors."""
    return os.environ.get("TRITON_INTERPRET", "").lower() in ("1", "true", "yes", "on")


def key_words(key: int) -> tuple[int, int]:
    """The two halves of a key as signed 32-bit numbers, so that Triton types every key alike."""
    halves = key & 0xFFFFFFFF, key >> 32
    low, high = (half - (1 << 32) if half >> 31 else half for half in halves)
    return low, high
