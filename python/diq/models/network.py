"""Loading a model, and an adapter onto it."""

from __future__ import annotations

import importlib.util
import logging
import warnings
from typing import Any

import torch
from torch import nn

from diq.base.errors import ModelError
from diq.base.text import amount, first_line
from diq.models.architecture import (
    check_whole,
    forget_lengths,
    language_part,
    loader_of,
    name_decoder,
    plain_experts,
    prepare_for_text,
    read_config,
)
from diq.models.device import pick_device, pick_dtype, quiet_libraries
from diq.models.layers import OF_ADAPTER
from diq.models.memory import one_line_of_memory, raise_if_out_of_memory
from diq.models.pretrained import load_pretrained, raise_if_needs_code
from diq.models.source import ModelSource, quantisation

log = logging.getLogger(__name__)

_LARGER = "use --dtype bfloat16, or a device with more memory"


def load_causal_lm(
    model: ModelSource,
    *,
    dtype: str = "auto",
    device: str = "auto",
    attention: str | None = None,
    adapter: ModelSource | None = None,
    quantization: str | None = None,
) -> nn.Module:
    """Load a model that predicts the next token, for scoring: evaluation mode, no parameter trainable.

    A vision-language model is loaded whole; it is used for text alone.

    Args:
        model: what ``find_model`` returned.
        dtype: ``float32``, ``bfloat16``, ``float64`` or ``auto`` (float32 on CPU, bfloat16 on GPU).
        device: ``cpu``, ``cuda``, ... or ``auto`` (a GPU if there is one).
        attention: attention implementation of transformers; None leaves the choice to it.
        adapter: a LoRA adapter; its layers are put into the model, unmerged.
        quantization: ``nf4`` packs the weights into 4 bits while they load (bitsandbytes, twice quantised).

    Raises:
        ModelError: the folder holds another kind of model, lacks weights, needs code of its own, or cannot be loaded;
            or PEFT cannot load the adapter.
        RunFailedError: memory is too small for it.
    """
    place = pick_device(device)
    precision = getattr(torch, pick_dtype(dtype, place))
    config = read_config(model)
    loader = loader_of(model, config)
    text = config.get_text_config(decoder=True)
    if getattr(text, "output_router_logits", False):
        # the loss is that of the answer tokens; the one that balances experts is not a sample's
        text.output_router_logits = False
    options: dict[str, Any] = {
        "config": config,
        "dtype": precision,
        "output_loading_info": True,
        # what does not fit is named below
        "ignore_mismatched_sizes": True,
    }
    if attention:
        options["attn_implementation"] = attention
    quantised = quantisation(model.path) is not None
    if quantization:
        if quantised:
            raise ModelError(f"`{model.source}` is quantised already", "leave out --quantization")
        options["quantization_config"] = _packing(precision)
        quantised = True
    if quantised:
        # packed weights are placed while they load; they cannot be moved or cast afterwards
        options["device_map"] = {"": place}
    what = f"loading `{model.source}`"
    try:
        # diq has its own progress, and what was found in the folder is told below
        with quiet_libraries(warn=False):
            loaded, info = load_pretrained(loader, model.path, model.source, **options)
    except ModelError:
        raise
    except Exception as error:  # loaders raise whatever their back ends do
        raise_if_out_of_memory(error, what, _LARGER)
        raise ModelError(
            f"`{model.source}` cannot be loaded as a language model: {first_line(error)}",
            "install the package that is named there"
            if isinstance(error, ImportError)
            else "check that the folder is complete and that its weights fit its config",
        ) from error
    check_whole(model, loaded, info)
    name_decoder(loaded)
    if precision is torch.float64:
        plain_experts(loaded)
    if adapter is not None:
        loaded = _with_adapter(loaded, adapter, precision)
    loaded.requires_grad_(False)
    loaded.eval()
    forget_lengths(loaded)
    with one_line_of_memory(what, _LARGER):
        network: nn.Module = loaded if quantised else loaded.to(place)
        if not quantised:
            # packed weights on a CPU take a form without a backward pass at their first run without gradients
            prepare_for_text(model, network)
    return network


def _packing(dtype: torch.dtype) -> Any:
    from transformers import BitsAndBytesConfig

    if importlib.util.find_spec("bitsandbytes") is None:
        raise ModelError("--quantization nf4 needs the package `bitsandbytes`", "run `pip install bitsandbytes`")
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=dtype,
    )


def wrap_adapter(base: Any, adapter: ModelSource, *, trainable: bool = False) -> Any:
    """Put an adapter on its base model.

    Args:
        base: the model that ``load_causal_lm`` gave.
        adapter: what ``find_adapter`` gave.
        trainable: whether it is trained on (then its weights are float32); else it has the dtype that it was saved in.

    Returns:
        PEFT's model around the base.

    Raises:
        ModelError: PEFT cannot load it, or it belongs to another base model.
    """
    # peft is only needed for adapters
    from peft import PeftModel
    from peft.utils import load_peft_weights, set_peft_model_state_dict

    hint = "check that it was trained on this base model"
    try:
        with warnings.catch_warnings():
            # advice for the authors of peft
            warnings.filterwarnings("ignore", category=FutureWarning, module=r"transformers\.")
            # what does not fit is an error below
            warnings.filterwarnings("ignore", message="Found missing adapter keys", category=UserWarning)
            # an adapter on tied embeddings is as it was trained
            warnings.filterwarnings("ignore", message="Model has `tie_word_embeddings=True`", category=UserWarning)
            wrapped: Any = PeftModel.from_pretrained(
                base, adapter.path, is_trainable=trainable, autocast_adapter_dtype=trainable
            )
        kept = load_peft_weights(adapter.path)
        # loading keeps to itself what found no place; names of older releases are understood
        outcome: Any = set_peft_model_state_dict(wrapped, kept)
    except Exception as error:  # loaders raise whatever their back ends do
        raise_if_out_of_memory(error, f"loading `{adapter.source}`", _LARGER)
        raise_if_needs_code(error, adapter.path, adapter.source)
        raise ModelError(
            f"the adapter `{adapter.source}` cannot be put on the base model: {first_line(error)}", hint
        ) from error
    foreign = outcome.unexpected_keys
    # tied matrices are saved once, and have two names here
    places, missing = dict(wrapped.named_parameters(remove_duplicate=False)), set(outcome.missing_keys)
    filled = {id(one) for name, one in places.items() if name not in missing}
    empty = [name for name, one in places.items() if OF_ADAPTER.search(name) and id(one) not in filled]
    if foreign or empty:
        raise ModelError(
            f"the adapter `{adapter.source}` belongs to another base model: {len(foreign)} of its "
            f"{amount(len(kept), 'matrix', 'matrices')} have no place here, and "
            f"{amount(len(empty), 'place')} stay empty",
            hint,
        )
    whole = sorted(name.removeprefix("base_model.model.") for name in kept if not OF_ADAPTER.search(name))
    if whole:
        log.info("the adapter `%s` brings whole weights with it: %s", adapter.source, ", ".join(whole))
    _check_reached(base, adapter)
    return wrapped


def _check_reached(network: Any, adapter: ModelSource) -> None:
    """Refuse an adapter that text does not pass."""
    inside, _ = language_part(network)
    head = network.get_output_embeddings()
    of_head = {id(one) for one in head.parameters()} if head is not None else set()
    matrices = {name: one for name, one in network.named_parameters() if OF_ADAPTER.search(name)}
    if not any(not inside or name.startswith(f"{inside}.") or id(one) in of_head for name, one in matrices.items()):
        raise ModelError(
            f"the adapter `{adapter.source}` is on another part of the model alone, first `{next(iter(matrices), '')}`",
            "give one on the language part, which is what text passes",
        )


def _with_adapter(base: Any, adapter: ModelSource, dtype: torch.dtype) -> nn.Module:
    # on the cpu first: the caller moves base and adapter together
    wrapped = wrap_adapter(base, adapter)
    for name, parameter in wrapped.named_parameters():
        if "lora_" in name and parameter.dtype != dtype:
            parameter.data = parameter.data.to(dtype)
    # the layers sit inside the base model; the wrapper would only lengthen every name
    network: nn.Module = wrapped.get_base_model()
    return network
