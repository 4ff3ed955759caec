"""The model that is trained: an adapter on frozen (perhaps packed) weights, or all weights; and how it is saved."""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel, prepare_model_for_kbit_training
from transformers import set_seed

from diq.base.errors import ModelError
from diq.base.files import publish
from diq.models.adapters import put_adapter
from diq.models.layers import adapted_weights, coverage
from diq.models.network import load_causal_lm, wrap_adapter
from diq.models.saving import saving_errors
from diq.models.source import ModelSource, find_adapter, is_adapter
from diq.training.output_folder import OutputFolder
from diq.training.settings import FULL

log = logging.getLogger(__name__)

ADAPTER = "default"


def load_network(
    source: ModelSource,
    settings: dict[str, Any],
    *,
    device: str,
    attention: str | None,
    start: ModelSource | None,
    gradient_checkpointing: bool,
) -> Any:
    """Load what is trained.

    Args:
        source: base model.
        settings: of the run; ``parameters`` is missing where an adapter is trained on.
        device: ``cpu``, ``cuda`` or ``cuda:N``.
        attention: attention implementation of transformers, or None.
        start: the adapter that is trained on, or None.
        gradient_checkpointing: whether activations are computed twice (packed weights are prepared for it).

    Returns:
        A PEFT model with one adapter that is trainable, or a model whose weights all are.

    Raises:
        ModelError: the model or adapter cannot be used.
    """
    full = settings.get("parameters") == FULL
    # whole weights are kept in float32, and autocast computes in bfloat16: an update of 1e-5 is lost in bfloat16
    network: Any = load_causal_lm(
        source,
        dtype="float32" if full else settings["dtype"],
        device=device,
        attention=attention,
        quantization=settings.get("quantization"),
    )
    if full:
        network.requires_grad_(True)
        network.train()
        return network
    if settings.get("quantization"):
        network = prepare_model_for_kbit_training(network, use_gradient_checkpointing=gradient_checkpointing)
    if start is not None:
        return wrap_adapter(network, start, trainable=True)
    weights = adapted_weights(network, settings["parameters"])
    if not settings.get("quantization"):
        # packed weights have fewer numbers than they stand for
        log.info("the adapter is put on %s", coverage(network, weights, settings["parameters"]))
    # the first values of the adapter
    set_seed(settings["seed"])
    return put_adapter(
        network,
        weights,
        rank=settings["lora_rank"],
        alpha=settings["lora_alpha"],
        dropout=settings["lora_dropout"],
    )


def load_reference(source: ModelSource, settings: dict[str, Any], *, device: str, attention: str | None) -> Any | None:
    """The frozen reference of a DPO run over whole weights; None where adapters are switched instead."""
    if settings.get("parameters") != FULL:
        return None
    return load_causal_lm(source, dtype=settings["dtype"], device=device, attention=attention)


def find_start(adapter: str | os.PathLike[str], base: ModelSource) -> ModelSource:
    """The adapter that a training goes on with.

    Raises:
        ModelError: there is none, it belongs to another base model, or it is no LoRA adapter.
    """
    found = find_adapter(adapter, base)
    if not is_adapter(found):
        raise ModelError(f"`{adapter}` is a whole model, not an adapter", "give it as --model")
    return found


def trained_parameters(network: Any) -> int:
    """How many numbers are trained."""
    return sum(one.numel() for one in network.parameters() if one.requires_grad)


def save_network(network: Any, tokenizer: Any, source: ModelSource, dtype: str, folder: OutputFolder) -> None:
    """Write weights and tokenizer into their folder; the weights appear last.

    Raises:
        RunFailedError: the disk is full.
    """
    part = folder.unfinished / "model"
    with saving_errors(folder.path):
        if isinstance(network, PeftModel):
            config = network.peft_config[ADAPTER]
            if Path(source.source).is_dir():
                config.base_model_name_or_path = str(source.path)
            else:
                # the snapshot folder is named after the commit
                config.base_model_name_or_path, config.revision = source.source.partition("@")[0], source.path.name
            # the reference of a DPO run is another adapter, and it is known already
            network.save_pretrained(part, save_embedding_layers=False, selected_adapters=[ADAPTER])
        else:
            network.to(getattr(torch, dtype)).save_pretrained(part)
        tokenizer.save_pretrained(part)
        (part / "README.md").unlink(missing_ok=True)
        for one in sorted(part.iterdir(), key=_publishing_order):
            publish(one, folder.path / one.name)


def _publishing_order(path: Path) -> int:
    return 2 if path.name.endswith(".index.json") else int(path.suffix == ".safetensors")
