"""The folder of a trained encoder: written whole, found again by its record."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import nn

from diq.base.errors import ModelError, UsageError
from diq.base.files import is_empty, read_json, recover_folder, whole_folder
from diq.base.text import first_line
from diq.models.device import quiet_libraries
from diq.models.memory import one_line_of_memory
from diq.models.saving import saving_errors

RECORD = "diq_encoder.json"
"""File beside the weights: what the encoder was trained for, on what, and how well it does."""


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
    too_little = one_line_of_memory(f"saving `{folder}`", "take a smaller encoder, or a machine with more memory")
    with too_little, saving_errors(folder), whole_folder(folder) as made:
        with quiet_libraries(warn=False):
            for name, (model, tokenizer) in parts.items():
                network: Any = model
                network.save_pretrained(made / name)
                tokenizer.save_pretrained(made / name)
        (made / "README.md").write_text(card, encoding="utf-8")
        (made / RECORD).write_text(json.dumps(record, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def read_record(folder: Path) -> dict[str, Any] | None:
    """What :func:`save` wrote of an encoder; None for a folder from elsewhere.

    Raises:
        ModelError: the file is damaged.
    """
    recover_folder(folder)
    path = folder / RECORD
    if not path.is_file():
        return None
    try:
        return dict(read_json(path))
    except (ValueError, TypeError) as error:
        raise ModelError(f"`{path}` is damaged: {first_line(error)}", "train the encoder again") from error


def find_trained(folder: Path, *, kind: str, fingerprint: str, overwrite: bool, command: str) -> dict[str, Any] | None:
    """The record of an output folder that holds the same training already; None for one that is to be trained.

    Args:
        folder: the output of a training.
        kind: what the records of that training say.
        fingerprint: identity of the training.
        overwrite: train again, whatever the folder holds of that kind.
        command: that trains, for the message.

    Raises:
        UsageError: the folder holds something else.
    """
    record = read_record(folder)
    if record is None and is_empty(folder):
        return None
    if record is None or record.get("kind") != kind:
        raise UsageError(f"the output `{folder}` holds something that `{command}` did not write", "name a new folder")
    if overwrite:
        return None
    if record["fingerprint"] != fingerprint:
        raise UsageError(
            f"the output `{folder}` holds a {kind} of other data or settings",
            "name a new folder, or replace it with --overwrite",
        )
    return record
