"""What a model folder holds: its class in transformers, and the part of it that reads and writes text."""

from __future__ import annotations

import logging
from typing import Any, NamedTuple

import torch
from torch import nn

from diq.base.errors import ModelError
from diq.base.text import first_line
from diq.models.pretrained import load_pretrained
from diq.models.source import ModelSource

log = logging.getLogger(__name__)

# change of the logits before a changed token, relative to those after it: none in a decoder but for rounding
_LOOKS_AHEAD = {torch.float32: 1e-3, torch.float64: 1e-3}
_LOOKS_AHEAD_ROUNDED = 0.02
_PROBE_TOKENS = 8


def read_config(model: ModelSource) -> Any:
    """The model's config, read without running any code of the folder's own.

    Raises:
        ModelError: transformers cannot read it, or it needs code of its own.
    """
    from transformers import AutoConfig

    try:
        return load_pretrained(AutoConfig, model.path, model.source)
    except ModelError:
        raise
    except Exception as error:  # loaders raise whatever their back ends do
        raise ModelError(
            f"`{model.source}` has no usable config: {first_line(error)}",
            "check that transformers knows its architecture",
        ) from error


def loader_of(model: ModelSource, config: Any) -> Any:
    """The class of transformers that loads a model for text: a causal one, or that of a vision-language model.

    The class that the folder was saved with is taken where there are two, so that an adapter of it fits the folder.

    Raises:
        ModelError: it is no model that predicts the next token from those before it.
    """
    import transformers
    from transformers import AutoModelForCausalLM, AutoModelForImageTextToText, AutoModelForMultimodalLM

    saved = list(config.architectures or [])
    held = f"`{model.source}` holds a {saved[0] if saved else config.model_type}"
    if config.is_encoder_decoder or getattr(config.get_text_config(decoder=True), "is_encoder_decoder", False):
        raise ModelError(f"{held}, an encoder-decoder", "diq works with decoders, such as Qwen/Qwen3-0.6B")
    loaders = [AutoModelForCausalLM, AutoModelForImageTextToText, AutoModelForMultimodalLM]
    known = {loader: _classes(loader, config) for loader in loaders}
    for loader, names in known.items():
        if set(saved) & set(names):
            return loader
    named = getattr(transformers, saved[0], None) if saved else None
    if named is not None and saved[0].endswith(("ForCausalLM", "ForConditionalGeneration")) and not any(known.values()):
        # the language part of a composite model, saved by itself: its class loads it, and no table knows its config
        return named
    found = next((loader for loader, names in known.items() if names), None)
    # a class that transformers knows for another task has no head for words, or a head that was not trained as one
    other = next((one for one in saved if hasattr(transformers, one) and not one.endswith("Model")), None)
    if found is None or other is not None:
        raise ModelError(
            f"{held}, which is no causal language model",
            "give a model that predicts the next token, such as Qwen/Qwen3-0.6B",
        )
    return found


def _classes(loader: Any, config: Any) -> list[str]:
    mapping = loader._model_mapping
    if type(config) not in mapping.keys():  # noqa: SIM118 (a lazy mapping without __contains__ for classes)
        return []
    found = mapping[type(config)]
    return [one.__name__ for one in (found if isinstance(found, tuple | list) else [found])]


def check_whole(model: ModelSource, network: Any, info: dict[str, Any]) -> None:
    """Refuse a model that transformers filled up with random weights.

    Args:
        model: where it came from.
        network: what was loaded.
        info: what ``from_pretrained(..., output_loading_info=True)`` tells.

    Raises:
        ModelError: the folder lacks weights that the class has, or has them in other shapes.
    """
    mismatched = sorted(info.get("mismatched_keys", ()), key=str)
    if mismatched:
        name, there, wanted = mismatched[0]
        raise ModelError(
            f"{len(mismatched)} weights of `{model.source}` do not fit its config, first `{name}`: "
            f"{list(there)} in the file, {list(wanted)} by the config",
            "check that config and weights belong together",
        )
    missing = sorted(info.get("missing_keys", ()))
    if missing:
        raise ModelError(
            f"`{model.source}` lacks {len(missing)} weights of a {type(network).__name__}, first `{missing[0]}`: "
            "random numbers would stand in their place",
            "give the folder of the whole language model, as save_pretrained wrote it",
        )
    unexpected = sorted(info.get("unexpected_keys", ()))
    if unexpected:
        log.warning(
            "`%s` holds %d weights that a %s has no place for, first `%s`: they are left out",
            model.name, len(unexpected), type(network).__name__, unexpected[0],
        )  # fmt: skip


def is_composite(network: Any) -> bool:
    """Whether the model has parts beside its language model: towers for images or sound, and what joins them."""
    config = getattr(network, "config", None)
    return config is not None and config.get_text_config(decoder=True) is not config


def language_part(network: Any) -> tuple[str, nn.Module]:
    """The part of a model that reads and writes text, by its name in it.

    Returns:
        Empty name and the model itself, where it has no other part.
    """
    if not is_composite(network):
        return "", network
    part = network.get_decoder()
    if part is network:
        return "", network
    return next(name for name, module in network.named_modules() if module is part), part


def name_decoder(network: Any) -> None:
    """Let ``network.base_model`` be the decoder where the class names a part that this model lacks.

    A class that also serves as the language part of a vision-language model (Llama 4, Mllama) keeps that part's name;
    TRL and the head in parts look there for the decoder.
    """
    from transformers import PreTrainedModel

    inner = [name for name, child in network.named_children() if isinstance(child, PreTrainedModel)]
    if network.base_model is network and len(inner) == 1:
        network.base_model_prefix = inner[0]


def prepare_for_text(model: ModelSource, network: Any) -> None:
    """Run a loaded model on a few tokens, so that one that cannot be used is refused before the work.

    Raises:
        ModelError: the model does not run on text alone, or a prediction depends on what comes after it.
    """
    try:
        _check_causal(model, network)
    except ModelError:
        raise
    except Exception as error:  # models raise whatever they do
        name, whole = _whole_language_model(network)
        if whole is None:
            raise ModelError(
                f"`{model.source}` ({type(network).__name__}) does not run on text alone: {first_line(error)}",
                "check that the folder is complete and that transformers can run it",
            ) from error
        log.info("text goes through `%s` of `%s` alone: the whole does not take it", name, model.source)
        network.forward = whole.forward
        # what stands below the head, for those who run the head by themselves; not as a module: it has its name already
        trunk = next(iter(layers_of(network))).rsplit(".", 2)[0]
        object.__setattr__(network, network.base_model_prefix, network.get_submodule(trunk))
        _check_causal(model, network)


def _whole_language_model(network: Any) -> tuple[str, Any]:
    """A part that is a language model with a head of its own, if the network has one."""
    name, _ = language_part(network)
    while name:
        part: Any = network.get_submodule(name)
        if getattr(part, "get_output_embeddings", lambda: None)() is not None:
            return name, part
        name = name.rpartition(".")[0]
    return "", None


@torch.no_grad()
def _check_causal(model: ModelSource, network: Any) -> None:
    """Refuse a model whose logits before a token change with it: an encoder with a decoder's class."""
    vocabulary = vocabulary_size(network)
    first = torch.arange(_PROBE_TOKENS) % vocabulary
    second = first.clone()
    second[-1] = (second[-1] + vocabulary // 2) % vocabulary
    ids = torch.stack([first, second]).to(next(network.parameters()).device)
    logits = network(input_ids=ids, use_cache=False).logits.float()
    change = (logits[0] - logits[1]).abs().amax(dim=-1)
    bound = _LOOKS_AHEAD.get(next(network.parameters()).dtype, _LOOKS_AHEAD_ROUNDED)
    if bool(change[:-1].max() > bound * change[-1]):
        raise ModelError(
            f"`{model.source}` ({type(network).__name__}) sees the tokens after the one that it predicts: it is an "
            "encoder",
            "give a model that predicts the next token, such as Qwen/Qwen3-0.6B",
        )


def plain_experts(network: Any) -> None:
    """Let experts be computed one after another: the grouped kernels know neither float64 nor forward mode."""
    if hasattr(network, "set_experts_implementation") and network._can_set_experts_implementation():
        network.set_experts_implementation("eager")


def vocabulary_size(network: Any) -> int:
    """Tokens that the model can both read and write; an embedding may have more rows, for images."""
    return int(network.config.get_text_config(decoder=True).vocab_size)


class RopeChange(NamedTuple):
    """Above which length of the longest sample of a batch a model turns positions into other angles.

    Attributes:
        length: tokens.
        each: whether every length above has angles of its own (dynamic NTK), or all the same (LongRoPE).
    """

    length: int
    each: bool


def rope_change(config: Any) -> RopeChange | None:
    """The change of a model's rotary embedding with the length of a batch; None where there is none.

    Source: LongRoPE, arXiv 2402.13753; dynamic NTK scaling as transformers' ``modeling_rope_utils`` has it.
    """
    text = config.get_text_config(decoder=True)
    found = getattr(text, "rope_parameters", None) or getattr(text, "rope_scaling", None) or {}
    # some models have one set for each kind of layer
    for one in [found, *(value for value in found.values() if isinstance(value, dict))]:
        kind = one.get("rope_type", one.get("type"))
        if kind in ("longrope", "dynamic"):
            length = one.get("original_max_position_embeddings") or getattr(
                text, "original_max_position_embeddings", None
            )
            return RopeChange(int(length or text.max_position_embeddings), kind == "dynamic")
    return None


def forget_lengths(network: nn.Module) -> None:
    """Let a rotary embedding that grows with the longest sample it has met look at the present batch alone."""

    def forget(module: Any, _: Any) -> None:
        module.max_seq_len_cached = 0

    for module in network.modules():
        if getattr(module, "rope_type", None) == "dynamic" and hasattr(module, "max_seq_len_cached"):
            module.register_forward_pre_hook(forget)


def layers_of(network: Any) -> dict[str, nn.Module]:
    """The layers of the language part, by name; empty where the model has no list of as many as its config says."""
    name, part = language_part(network)
    n = getattr(network.config.get_text_config(decoder=True), "num_hidden_layers", None)
    for below, module in part.named_modules():
        if isinstance(module, nn.ModuleList) and len(module) == n:
            return {".".join(filter(None, [name, below, str(i)])): layer for i, layer in enumerate(module)}
    return {}


@torch.no_grad()
def silent_layers(network: Any) -> list[str]:
    """Names of the layers of the language part that text alone does not pass (cross-attention to images, say)."""
    if not is_composite(network):
        return []
    layers = layers_of(network)
    called: set[nn.Module] = set()
    handles = [one.register_forward_hook(lambda module, *_: called.add(module)) for one in layers.values()]
    was_training = network.training
    network.eval()
    try:
        ids = torch.ones(1, 2, dtype=torch.long, device=next(network.parameters()).device)
        network(input_ids=ids, use_cache=False)
    finally:
        network.train(was_training)
        for one in handles:
            one.remove()
    return [name for name, layer in layers.items() if layer not in called]
