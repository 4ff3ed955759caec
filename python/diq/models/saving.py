"""Writing models: what says that the disk is full, whichever library writes."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
from safetensors import SafetensorError

from diq.base.files import unwritable
from diq.models.memory import is_out_of_memory


@contextlib.contextmanager
def saving_errors(path: Path) -> Iterator[None]:
    """As `diq.base.files.disk_errors`, for what safetensors, torch and Arrow write: they have types of their own.

    Raises:
        RunFailedError: the disk is full or cannot be written.
    """
    try:
        yield
    except (OSError, SafetensorError, RuntimeError, pa.ArrowException) as error:
        # too little memory is no matter of the disk: who called can do with less
        if is_out_of_memory(error):
            raise
        raise unwritable(path, error) from error
