"""Putting a new LoRA adapter on a model."""

from __future__ import annotations

import copy
import logging
from collections.abc import Mapping
from typing import Any

from peft import LoraConfig, get_peft_model

from diq.base.errors import ModelError, UsageError
from diq.base.text import amount, first_line
from diq.models.layers import Weight, target_names

log = logging.getLogger(__name__)


def put_adapter(network: Any, weights: Mapping[str, Weight], *, rank: int, alpha: float, dropout: float) -> Any:
    """A PEFT model with a new, trainable adapter on these weights.

    Args:
        network: a causal language model.
        weights: what :func:`diq.models.layers.adapted_weights` chose.
        rank: of the adapter's matrices.
        alpha: its scale, times the rank.
        dropout: of what goes into it.

    Raises:
        UsageError: experts do not go with a dropout.
        ModelError: PEFT does not adapt this model, or nothing is left that it adapts.
    """
    modules = [name for name, weight in weights.items() if weight.experts is None]
    stacks = [name for name, weight in weights.items() if weight.experts is not None]
    apart = next((name for name in stacks if "." in weights[name].stack), None)
    if apart is not None:
        raise ModelError(
            f"PEFT puts no adapter on experts as {type(network).__name__} keeps them, first `{apart}`",
            "choose other layers with --params",
        )
    if stacks and dropout:
        raise UsageError(
            f"an adapter on experts (`{stacks[0]}`) takes no dropout, and --lora-dropout is {dropout:g}",
            "give --lora-dropout 0",
        )
    modules = _without_refused(network, _without_experts(network, modules))
    if not modules and not stacks:
        raise ModelError(
            f"PEFT takes the chosen layers of {type(network).__name__} for experts", "choose others with --params"
        )
    config = LoraConfig(
        task_type="CAUSAL_LM",
        r=rank,
        lora_alpha=alpha,
        lora_dropout=dropout,
        target_modules=target_names(network, modules) if modules else [],
        target_parameters=stacks or None,
        fan_in_fan_out=any(weights[name].transposed for name in modules),
    )
    try:
        return get_peft_model(network, config)
    except (ValueError, NotImplementedError) as error:
        raise ModelError(
            f"PEFT puts no such adapter on {type(network).__name__}: {first_line(error)}",
            "choose other layers with --params",
        ) from error


def _without_refused(network: Any, modules: list[str]) -> list[str]:
    """The layers that PEFT does not refuse by their names: fused kernels of state-space models go around some."""
    try:
        from peft.tuners.tuners_utils import _check_lora_target_modules_mamba as check
    except ImportError:
        return modules
    refused, config = set(), LoraConfig()
    for last in _last_names(modules):
        try:
            check(config, network, last)
        except ValueError:
            refused.add(last)
    if refused == _last_names(modules).keys():
        # PEFT says it
        return modules
    return _without(modules, refused, "a fused kernel of the model goes around such ones")


def _without_experts(network: Any, modules: list[str]) -> list[str]:
    """The layers whose names PEFT does not read as those that experts had in transformers 4."""
    try:
        from peft.utils.transformers_weight_conversion import convert_peft_config_for_transformers
    except ImportError:
        return modules
    read = set()
    for last in _last_names(modules):
        config = copy.deepcopy(LoraConfig(target_modules=[last]))
        try:
            convert_peft_config_for_transformers(config, network, None)
        except ValueError:
            # one of two that it would have to fuse
            read.add(last)
            continue
        if config.target_parameters:
            read.add(last)
    return _without(modules, read, "PEFT takes them for experts of this model")


def _last_names(modules: list[str]) -> dict[str, None]:
    """The last parts of names, each once, in their order."""
    return dict.fromkeys(name.rsplit(".", 1)[-1] for name in modules)


def _without(modules: list[str], names: set[str], why: str) -> list[str]:
    """The layers whose names do not end so; the others are told of."""
    kept = [name for name in modules if name.rsplit(".", 1)[-1] not in names]
    if names:
        log.warning(
            "%s named %s are left out of the adapter: %s",
            amount(len(modules) - len(kept), "layer"), ", ".join(sorted(names)), why,
        )  # fmt: skip
    return kept
