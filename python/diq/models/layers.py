"""The linear layers that influence looks at, and those that LoRA adapts."""

from __future__ import annotations

import logging
import operator
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from diq.base.errors import ModelError
from diq.base.text import amount
from diq.models.architecture import language_part, layers_of, silent_layers
from diq.models.experts import Stack, matrices, routers_of, stacks_of

log = logging.getLogger(__name__)

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
        "Wq",
        "Wk",
        "Wv",
        "q",
        "k",
        "v",
    ]
)


_FEED_FORWARD = frozenset(["feed_forward", "mlp", "ffn"])


@dataclass(frozen=True, slots=True, eq=False)
class Weight:
    """A matrix that counts as a parameter of the gradient, or a stack of as many as there are experts.

    Attributes:
        owners: the modules whose forwards make the product with it; several where they share it.
        parameter: as the model stores it.
        transposed: whether a matrix is stored ``[in, out]``, as GPT-2's Conv1D does.
        stack: where it is a stack, its name in the owner; else empty.
        experts: matrices in the stack; None for a single matrix.
    """

    owners: tuple[nn.Module, ...]
    parameter: Tensor
    transposed: bool = False
    stack: str = ""
    experts: int | None = None

    @property
    def matrix(self) -> Tensor:
        """``[out, in]``, or ``[experts, out, in]``, without gradient."""
        if self.experts is not None:
            return matrices(Stack(self.parameter, self.experts, self.transposed))
        weight = self.parameter.detach()
        return weight.T if self.transposed else weight

    @property
    def stack_now(self) -> Tensor:
        """``[experts, out, in]`` with what an adapter adds to it, within a forward of the module of experts."""
        assert self.experts is not None
        value = operator.attrgetter(self.stack)(self.owners[0])
        return matrices(Stack(value, self.experts, self.transposed))

    @property
    def shape(self) -> tuple[int, ...]:
        """Of :attr:`matrix`."""
        return tuple(self.matrix.shape)


def matrix_names(name: str, weight: Weight) -> list[str]:
    """Name of each matrix of a weight: its own, or that of the stack, a dot and the expert's number."""
    return [name] if weight.experts is None else [f"{name}.{expert}" for expert in range(weight.experts)]


def linear_weights(model: nn.Module, params: str = "qkv") -> dict[str, Weight]:
    """The weights of linear layers that count as parameters of the gradient, by name, in model order.

    A name is the one that the layer has in the base model, also where an adapter is wrapped around it; LoRA's own
    matrices are ``....lora_A`` and ``....lora_B``; the stacks of experts have the names of their parameters. Of a
    vision-language model the language part counts alone, without the layers that only images reach.

    Args:
        model: a causal language model, with or without a LoRA adapter inside.
        params: ``qkv`` (query, key and value projections, fused or not), ``all-linear`` (every linear layer but the
            language-model head, with experts and their routers), ``lora`` (A and B of the adapter), or a regular
            expression searched in names.

    Raises:
        ModelError: nothing matches (the message lists what there is), or a weight is quantised.
    """
    found = _find(_all_weights(model), model, params)
    for name, weight in found.items():
        if weight.parameter.dtype not in _FLOATS:
            raise ModelError(
                f"the weight of `{name}` is quantised ({type(weight.owners[0]).__name__}, {weight.parameter.dtype}): "
                "packed integers have no gradient",
                "use --params lora with an adapter (--checkpoint), or load the model unquantised",
            )
    return found


def _all_weights(model: nn.Module) -> dict[str, Weight]:
    found = {}
    routers: dict[str, Weight] = {}
    for name, module in _of_language(model):
        if is_linear(module):
            found[name] = Weight((module,), module.get_parameter("weight"), is_transposed(module))
        elif name in routers:
            found[name] = routers[name]
        for stack, one in stacks_of(module).items():
            found[f"{name}.{stack}"] = Weight((module,), one.parameter, one.transposed, stack, one.experts)
        for child, weight in routers_of(module).items():
            # the block around router and experts makes the product where the router does not make it itself
            routers[f"{name}.{child}"] = Weight((module,), weight)
    return _once(found)


def _once(weights: Mapping[str, Weight]) -> dict[str, Weight]:
    """Weights that several layers share under the name of the first: their gradient is the sum over all of them."""
    first: dict[int, str] = {}
    found: dict[str, Weight] = {}
    for name, weight in weights.items():
        known = first.setdefault(id(weight.parameter), name)
        if known == name:
            found[name] = weight
        else:
            found[known] = replace(found[known], owners=(*found[known].owners, *weight.owners))
    return found


def _find(there: Mapping[str, Weight], model: nn.Module, params: str) -> dict[str, Weight]:
    # typed as Any: transformers' models have methods that nn.Module does not know
    network: Any = model
    head = network.get_output_embeddings() if hasattr(model, "get_output_embeddings") else None
    # an adapter may be wrapped around the head, too
    of_head = set(head.modules()) if head is not None else set()
    named = {_name(name): weight for name, weight in there.items()}
    lora = {name: weight for name, weight in named.items() if name.endswith((".lora_A", ".lora_B"))}
    linear = {name: weight for name, weight in named.items() if name in lora or of_head.isdisjoint(weight.owners)}
    if params == "lora":
        found = lora
        _check_lora(model, found)
    else:
        linear = {name: weight for name, weight in linear.items() if name not in lora}
        if params == "qkv":
            found = {name: weight for name, weight in linear.items() if _is_qkv(name)}
        elif params == "all-linear":
            found = linear
        else:
            try:
                pattern = re.compile(params)
            except re.error as error:
                raise ModelError(f"--params `{params}` is not a regular expression: {error}") from error
            found = {name: weight for name, weight in linear.items() if pattern.search(name)}
    if not found:
        endings = sorted({name.rsplit(".", 1)[-1] for name in linear})
        raise ModelError(
            f"no linear layer of {type(model).__name__} matches --params `{params}`",
            f"its linear layers end in: {', '.join(endings) or 'none'}; give a regular expression over their names",
        )
    return found


def _is_qkv(name: str) -> bool:
    # Moshi's projections are a module that holds one
    *above, last = name.removesuffix(".linear").split(".")
    # RWKV's feed-forward has a key and a value, too
    return last in _QKV and not (above and above[-1] in _FEED_FORWARD)


def _of_language(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """The modules of the language part that text passes, with their names in the whole model."""
    inside, _ = language_part(model)
    silent = silent_layers(model)
    for name, module in model.named_modules():
        out = _REPLACED.search(name) or any(_is_below(name, one) for one in silent)
        if _is_below(name, inside) and not out:
            yield name, module


def _is_below(name: str, above: str) -> bool:
    return not above or name == above or name.startswith(f"{above}.")


@dataclass(frozen=True, slots=True)
class Coverage:
    """How much of a model the chosen weights are.

    Attributes:
        covered: numbers in the chosen weights.
        total: numbers in what text passes of the language part, without embeddings and the language-model head; for an
            adapter, its own.
        left_out: numbers in each part of the model beside its language part, by name; for an adapter also in what it
            holds beside LoRA's matrices.
        unreached: numbers in chosen layers that text does not pass.
        unseen: numbers in chosen layers whose products the model makes in a form that is not known here, by name.
        silent: layers of the language part that text does not pass.
        layers: layers of the language part.
        reached: those of them that have a chosen weight.
    """

    covered: int
    total: int
    left_out: dict[str, int]
    unreached: int
    unseen: dict[str, int]
    silent: int
    layers: int
    reached: int

    def __str__(self) -> str:
        share = f"{self.covered:,} of {self.total:,} weights ({100 * self.covered / max(1, self.total):.1f} %)"
        beside = [f"{name} ({n:,} weights)" for name, n in self.left_out.items()]
        if self.silent:
            beside.append(f"{amount(self.silent, 'layer')} that only images reach")
        if self.unreached:
            beside.append(f"{self.unreached:,} weights that text does not reach")
        if self.unseen:
            beside.append(
                f"{sum(self.unseen.values()):,} weights of {amount(len(self.unseen), 'layer')} of another form"
            )
        return f"{share}; left out: {', '.join(beside)}" if beside else share

    def problem(self, params: str) -> str | None:
        """What was asked for and is not, or mostly not, there, in words."""
        if self.unseen:
            return (
                f"--params {params} covers {self}: the model makes their products in a form that diq does not know, "
                f"first `{next(iter(self.unseen))}`"
            )
        if params == "all-linear" and 2 * self.covered < self.total:
            return f"--params all-linear covers {self}: the rest lies in weights that are no linear layers"
        if params == "qkv" and 2 * self.reached < self.layers - self.silent:
            return (
                f"--params qkv finds projections in {self.reached} of {amount(self.layers, 'layer')} alone, and covers "
                f"{self}; --params all-linear takes the others' as well"
            )
        return None


def coverage(
    model: nn.Module,
    weights: Mapping[str, Weight],
    params: str,
    *,
    unreached: Mapping[str, Weight] | None = None,
    unseen: Mapping[str, Weight] | None = None,
) -> Coverage:
    """Count what :func:`linear_weights` chose, and what it left out.

    Args:
        model: the model that they are in.
        weights: what was chosen.
        params: by what.
        unreached: what was chosen and text does not pass.
        unseen: what was chosen and cannot be tapped.
    """
    unreached, unseen = unreached or {}, unseen or {}
    network: Any = model
    name, part = language_part(network)
    head = network.get_output_embeddings()
    apart = {
        id(one)
        for module in model.modules()
        if module is head or isinstance(module, nn.Embedding)
        for one in module.parameters(recurse=module is head)
    }
    parameters = dict(model.named_parameters())
    adapter = {id(one) for name, one in parameters.items() if ".lora_" in name}
    whole = {_name(name): one for name, one in parameters.items() if _TRAINED_WHOLE.search(name)}
    if params == "lora":
        counted = {id(one): one.numel() for name, one in parameters.items() if OF_ADAPTER.search(name)}
    else:
        adapter |= {id(one) for name, one in parameters.items() if _REPLACED.search(name)}
        unused = {id(one.parameter) for one in unreached.values()}
        unused |= {id(one) for silent in silent_layers(network) for one in model.get_submodule(silent).parameters()}
        counted = {id(one): one.numel() for one in part.parameters() if id(one) not in apart | adapter | unused}
    inside = {id(one) for one in part.parameters()} | apart
    left_out = {f"{one} trained whole": weight.numel() for one, weight in whole.items()} if params == "lora" else {}
    for child, module in _around(model, name):
        n = sum(one.numel() for one in module.parameters() if id(one) not in inside)
        if n:
            left_out[child] = n
    layers = layers_of(network)
    chosen = {id(weight.parameter): weight.parameter.numel() for weight in weights.values()}
    reached = sum(any(id(one) in chosen for one in layer.parameters()) for layer in layers.values())
    silent = len(silent_layers(network))
    return Coverage(
        covered=sum(chosen.values()),
        total=sum(counted.values()),
        left_out=left_out,
        unreached=sum(one.parameter.numel() for one in unreached.values()),
        unseen={name: one.parameter.numel() for name, one in unseen.items()},
        silent=silent,
        layers=len(layers),
        reached=reached,
    )


def _around(model: nn.Module, name: str) -> Iterator[tuple[str, nn.Module]]:
    """The modules beside the one of this name: its siblings, and those of the modules that it is in."""
    if not name:
        return
    above = ""
    for step in name.split("."):
        for child, module in model.get_submodule(above).named_children():
            if child != step:
                yield f"{above}.{child}".lstrip("."), module
        above = f"{above}.{step}".lstrip(".")


_FLOATS = frozenset([torch.float16, torch.bfloat16, torch.float32, torch.float64])
# what PEFT puts around a layer (the layer moves to base_layer, lora_A and lora_B hold one module an adapter; a layer
# that was trained whole lies beside the one that it replaces), and what torch.compile puts around a model
_WRAPPING = re.compile(r"\.base_layer\b|(?<=\.lora_[AB])\.[^.]+$|\.modules_to_save\.[^.]+|^_orig_mod\.")
_REPLACED = re.compile(r"\.original_module\b")
# names of what an adapter adds to a model
OF_ADAPTER = re.compile(r"\.lora_|\.modules_to_save\.|\.trainable_tokens_")
_TRAINED_WHOLE = re.compile(r"\.modules_to_save\.|\.trainable_tokens_delta\b")


def _name(name: str) -> str:
    return _WRAPPING.sub("", name)


def _check_lora(model: nn.Module, found: Mapping[str, Weight]) -> None:
    on_experts = [name for name, module in model.named_modules() if type(module).__name__ == "ParamWrapper"]
    if on_experts:
        raise ModelError(
            f"the adapter is also on experts (`{_name(on_experts[0])}`), whose matrices no layer of its own multiplies",
            "use --params all-linear or a regular expression over the weights themselves",
        )
    others = [
        name
        for name, _ in model.named_parameters()
        if "lora_" in name and not re.search(r"\.lora_[AB]\.[^.]+\.weight$", name)
    ]
    if others:
        raise ModelError(
            f"the adapter has {len(others)} parameters beside plain LoRA matrices, first `{others[0]}`",
            "only A and B of plain LoRA on linear layers count: merge the adapter, or use --params qkv",
        )
    if not found:
        raise ModelError("--params lora needs an adapter", "name its folder with --checkpoint DIR")


def is_linear(module: nn.Module) -> bool:
    """Whether the module is a plain linear layer: ``nn.Linear``, or GPT-2's transposed ``Conv1D``."""
    return isinstance(module, nn.Linear) or is_transposed(module)


def is_transposed(module: nn.Module) -> bool:
    """Whether the weight is ``[in, out]`` (GPT-2's Conv1D); its shape cannot tell when it is square."""
    from transformers.pytorch_utils import Conv1D

    return isinstance(module, Conv1D)


def adapted_weights(model: nn.Module, params: str = "qkv") -> dict[str, Weight]:
    """The layers that an adapter is put on, by name; their weights may be packed.

    Args:
        model: a causal language model without an adapter.
        params: as for :func:`linear_weights`, but for ``lora``; experts are taken where a regular expression names
            them, not with ``all-linear``.

    Raises:
        ModelError: nothing matches.
    """
    named = params not in ("qkv", "all-linear")
    plain = {
        name: weight
        for name, weight in _all_weights(model).items()
        if all(is_linear(one) for one in weight.owners) or (named and weight.experts is not None)
    }
    found = _find(plain, model, params)
    other = [name for name, weight in found.items() if weight.experts is None and not all(map(_adds_up, weight.owners))]
    if other:
        log.warning(
            "left out of the adapter: %s, first `%s`, with more than a product that it could add to",
            amount(len(other), "layer"), other[0],
        )  # fmt: skip
    kept = {name: weight for name, weight in found.items() if name not in other}
    if not kept:
        raise ModelError(
            f"no layer of {type(model).__name__} that --params `{params}` names takes an adapter", "choose others"
        )
    return kept


@torch.no_grad()
def _adds_up(module: Any) -> bool:
    """Whether a layer gives one output for one input, so that an adapter's can be added to it.

    Routers that choose experts as well, and grouped products, are subclasses of ``nn.Linear``, too.
    """
    weight = module.weight
    if type(module).forward is nn.Linear.forward or is_transposed(module) or weight.dtype not in _FLOATS:
        return True
    n_out, n_in = weight.shape
    try:
        given = module(torch.zeros(1, 1, n_in, dtype=weight.dtype, device=weight.device))
    except Exception:  # whatever the layer asks of its input
        return False
    return isinstance(given, Tensor) and given.shape == (1, 1, n_out)


def target_names(model: nn.Module, modules: Iterable[str]) -> list[str]:
    """Names that PEFT's ``target_modules`` takes for the modules of these names and no other.

    Returns:
        Last parts of names where these mean no other module; else whole names.
    """
    modules = list(modules)
    short = {name.rsplit(".", 1)[-1] for name in modules}
    # PEFT looks through the whole model, whose tower for images may have layers of the same names
    meant = sum(name.rsplit(".", 1)[-1] in short for name, _ in model.named_modules())
    return sorted(short if meant == len(modules) else modules)
