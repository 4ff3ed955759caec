"""The linear layers that influence looks at, and those that LoRA adapts."""

from __future__ import annotations

import re
from typing import Any

import torch
from torch import nn

from diq.base.errors import ModelError

# last part of the names of query, key and value projections, fused or not, in the decoders of transformers
_QKV = frozenset(
    [
        "q_proj",
        "k_proj",
        "v_proj",
        "qkv_proj",
        "qkv",
        "query_key_value",
        "c_attn",
        "Wqkv",
        "W_pack",
        "query",
        "key",
        "value",
        "q_a_proj",
        "q_b_proj",
        "kv_a_proj_with_mqa",
        "kv_b_proj",
        "q_lin",
        "k_lin",
        "v_lin",
    ]
)


def linear_modules(model: nn.Module, params: str = "qkv") -> dict[str, nn.Module]:
    """The linear modules whose weights count as parameters of the gradient, by name, in model order.

    A name is the one that the module has in the base model, also where an adapter is wrapped around it; LoRA's own
    matrices are ``....lora_A`` and ``....lora_B``.

    Args:
        model: a causal language model, with or without a LoRA adapter inside.
        params: ``qkv`` (query, key and value projections, fused or not), ``all-linear`` (every linear layer but the
            language-model head), ``lora`` (A and B of the adapter), or a regular expression searched in module names.

    Raises:
        ModelError: nothing matches (the message lists what there is), or a weight is quantised.
    """
    found = _find_linear(model, params)
    for name, module in found.items():
        weight = module.weight
        if not isinstance(weight, torch.Tensor) or weight.dtype not in _FLOATS:
            raise ModelError(
                f"the weight of `{name}` is quantised ({type(module).__name__}, {getattr(weight, 'dtype', '?')}): "
                "packed integers have no gradient",
                "use --params lora with an adapter (--checkpoint), or load the model unquantised",
            )
    return found


def _find_linear(model: nn.Module, params: str) -> dict[str, nn.Module]:
    # typed as Any: transformers' models have methods that nn.Module does not know
    network: Any = model
    head = network.get_output_embeddings() if hasattr(model, "get_output_embeddings") else None
    linear = {_name(name): module for name, module in model.named_modules() if is_linear(module) and module is not head}
    lora = {name: module for name, module in linear.items() if name.endswith((".lora_A", ".lora_B"))}
    if params == "lora":
        found = lora
        _check_lora(model, found)
    else:
        linear = {name: module for name, module in linear.items() if name not in lora}
        if params == "qkv":
            found = {name: module for name, module in linear.items() if name.rsplit(".", 1)[-1] in _QKV}
        elif params == "all-linear":
            found = linear
        else:
            try:
                pattern = re.compile(params)
            except re.error as error:
                raise ModelError(f"--params `{params}` is not a regular expression: {error}") from error
            found = {name: module for name, module in linear.items() if pattern.search(name)}
    if not found:
        endings = sorted({name.rsplit(".", 1)[-1] for name in linear})
        raise ModelError(
            f"no linear module of {type(model).__name__} matches --params `{params}`",
            f"its linear modules end in: {', '.join(endings) or 'none'}; give a regular expression over module names",
        )
    return found


_FLOATS = frozenset([torch.float16, torch.bfloat16, torch.float32, torch.float64])
# what PEFT puts around a layer (the layer moves to base_layer, lora_A and lora_B hold one module an adapter), and what
# torch.compile puts around a model
_WRAPPING = re.compile(r"\.base_layer\b|(?<=\.lora_[AB])\.[^.]+$|^_orig_mod\.")


def _name(name: str) -> str:
    return _WRAPPING.sub("", name)


def _check_lora(model: nn.Module, found: dict[str, nn.Module]) -> None:
    if not found:
        raise ModelError("--params lora needs an adapter", "name its folder with --checkpoint DIR")
    others = [
        name
        for name, _ in model.named_parameters()
        if "lora_" in name and not re.search(r"\.lora_[AB]\.[^.]+\.weight$", name)
    ]
    if others:
        raise ModelError(
            f"the adapter has {len(others)} parameters beside plain LoRA matrices, first `{others[0]}`",
            "adapters of embeddings and DoRA are not supported: merge the adapter, or use --params qkv",
        )


def is_linear(module: nn.Module) -> bool:
    """Whether the module is a plain linear layer: ``nn.Linear``, or GPT-2's transposed ``Conv1D``."""
    return isinstance(module, nn.Linear) or is_transposed(module)


def is_transposed(module: nn.Module) -> bool:
    """Whether the weight is ``[in, out]`` (GPT-2's Conv1D); its shape cannot tell when it is square."""
    from transformers.pytorch_utils import Conv1D

    return isinstance(module, Conv1D)


def lora_targets(model: nn.Module, params: str = "qkv") -> dict[str, nn.Module]:
    """The modules that an adapter is put on, by the names that PEFT's ``target_modules`` takes.

    Args:
        model: a causal language model without an adapter; its weights may be packed.
        params: as for :func:`linear_modules`, but for ``lora``.

    Returns:
        Last parts of names where these mean no other module; else whole names.

    Raises:
        ModelError: nothing matches.
    """
    found = _find_linear(model, params)
    short = {name.rsplit(".", 1)[-1]: module for name, module in found.items()}
    meant = sum(name.rsplit(".", 1)[-1] in short for name, _ in model.named_modules())
    return short if meant == len(found) else found
