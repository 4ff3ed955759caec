"""Models: finding, fingerprinting and loading them, and naming the modules that influence looks at."""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
import json
import logging
import platform
import re
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
from torch import nn

from diq import _core
from diq.errors import ModelError, UsageError
from diq.records import canonical_json, first_line
from diq.samples import Template, Tokenization

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
    ]
)
# what `diq train` leaves in the folder of every training
TRAINING_RECORD = "diq_run.json"
_WEIGHT_PATTERNS = ("*.safetensors", "pytorch_model*.bin")
_ADAPTER_PATTERNS = ("adapter_model.safetensors", "adapter_model.bin")


@dataclass(frozen=True, slots=True)
class ModelSource:
    """Where a model comes from and what it is.

    Attributes:
        source: folder or hub id, as given.
        path: folder with the files on this machine (for a hub id: the snapshot in the cache).
        name: name in the store.
        model_id: fingerprint; a changed checkpoint has another.
    """

    source: str
    path: Path
    name: str
    model_id: str


def find_model(source: str, *, name: str | None = None) -> ModelSource:
    """Find a model folder, or fetch a hub id (``owner/name`` or ``owner/name@revision``), and fingerprint it.

    Args:
        source: folder or hub id.
        name: name in the store; default the hub id or the folder's name.

    Raises:
        ModelError: there is no such folder or hub id, or the folder lacks a config or weights.
    """
    folder = Path(source).expanduser()
    if folder.is_dir():
        path, model_id = folder.resolve(), fingerprint_folder(folder)
        return ModelSource(source, path, name or path.name, model_id)
    if folder.exists() or source.startswith((".", "/", "~")) or source.count("/") != 1:
        raise ModelError(
            f"there is no model folder `{source}`", "give a folder with config.json, or a hub id such as Qwen/Qwen3-8B"
        )
    hub_id, _, revision = source.partition("@")
    # the hub client is only needed for hub ids
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        snapshot = Path(
            snapshot_download(
                hub_id,
                revision=revision or None,
                allow_patterns=["*.json", "*.safetensors", "*.model", "*.txt", "*.jinja"],
            )
        )
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        reason = first_line(error)
        raise ModelError(
            f"the hub id `{hub_id}` could not be fetched: {reason}",
            "check the name, the network and HF_TOKEN, or give a local folder",
        ) from error
    # the snapshot folder is named after the commit
    return ModelSource(source, snapshot, name or hub_id, f"{hub_id}@{snapshot.name}")


def fingerprint_folder(folder: Path) -> str:
    """BLAKE3 over the weights' and config's content, whatever the folder is called: 32 hexadecimal digits.

    Raises:
        ModelError: no config.json or no weights.
    """
    if not (folder / "config.json").is_file():
        raise ModelError(f"`{folder}` has no config.json", "give a folder that transformers' save_pretrained wrote")
    weights = next((found for pattern in _WEIGHT_PATTERNS if (found := sorted(folder.glob(pattern)))), [])
    if not weights:
        raise ModelError(
            f"`{folder}` has no weights (*.safetensors)", "give a folder that transformers' save_pretrained wrote"
        )
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    # written by the library that saved it; the same weights saved again are the same model
    config.pop("transformers_version", None)
    parts = [canonical_json(config), *(f"{one.name}:{_core.file_hash(str(one))}" for one in weights)]
    return hashlib.blake2b("\n".join(parts).encode(), digest_size=16).hexdigest()


def load_tokenizer(model: ModelSource) -> Any:
    """The model's tokenizer.

    Raises:
        ModelError: the folder has none.
    """
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(model.path)
    except Exception as error:  # loaders raise whatever their back ends do
        raise ModelError(
            f"`{model.source}` has no usable tokenizer: {first_line(error)}",
            "save it beside the model with tokenizer.save_pretrained(folder)",
        ) from error


def find_adapter(source: str, base: ModelSource) -> ModelSource:
    """Find a checkpoint of a base model: a folder with a LoRA adapter, or with all weights.

    Args:
        source: folder that PEFT's or transformers' save_pretrained (or a Trainer) wrote.
        base: the model that was trained.

    Returns:
        The checkpoint; its name is ``BASE+FOLDER``, its fingerprint covers the base model of an adapter.

    Raises:
        ModelError: the folder is neither, or the record of `diq train` in it names another base model.
    """
    path = Path(source).expanduser()
    if (path / "config.json").is_file():
        found = find_model(source)
        return ModelSource(source, found.path, f"{base.name}+{found.path.name}", found.model_id)
    if not (path / "adapter_config.json").is_file():
        raise ModelError(
            f"`{source}` is not a checkpoint: it has neither adapter_config.json nor config.json",
            "give a folder that a trainer saved, such as OUT/checkpoint-100",
        )
    _check_base(path, source, base)
    weights = next((one for pattern in _ADAPTER_PATTERNS if (one := path / pattern).is_file()), None)
    if weights is None:
        raise ModelError(f"the adapter `{source}` has no weights", "save it with save_pretrained")
    config = json.loads((path / "adapter_config.json").read_text(encoding="utf-8"))
    # where the base model lay at training time is not part of what the adapter is
    for name in ("base_model_name_or_path", "peft_version", "inference_mode", "revision"):
        config.pop(name, None)
    parts = [base.model_id, canonical_json(config), _core.file_hash(str(weights))]
    model_id = hashlib.blake2b("\n".join(parts).encode(), digest_size=16).hexdigest()
    return ModelSource(source, path.resolve(), f"{base.name}+{path.resolve().name}", model_id)


def _check_base(path: Path, source: str, base: ModelSource) -> None:
    """Refuse an adapter of another base model, before any weights are loaded.

    The record of `diq train` knows the base by its content. Without one, a base folder that the adapter's config names
    and that is still there is compared by its fingerprint, and a hub id by its name; what cannot be compared is left to
    ``wrap_adapter``, which refuses matrices that do not fit.
    """
    name, is_base = _trained_on(path, base)
    if not is_base and _quantisation(base.path):
        # packed weights have another fingerprint and name than the model that they were made of
        log.info("the adapter `%s` was trained on `%s`; `%s` is taken for a packed copy", source, name, base.source)
    elif not is_base:
        raise ModelError(
            f"the adapter `{source}` was trained on `{name}`, not on `{base.source}`",
            "name that base model; if they are the same weights, say so in adapter_config.json",
        )


def _trained_on(path: Path, base: ModelSource) -> tuple[str, bool]:
    """Name of the base model that an adapter names, and whether it may be this one."""
    # a checkpoint lies in the folder of its training
    for folder in (path, path.parent) if path.name.startswith("checkpoint-") else (path,):
        try:
            known = json.loads((folder / TRAINING_RECORD).read_text(encoding="utf-8"))
            return str(known["model"]), known["model_id"] == base.model_id
        except (OSError, ValueError, KeyError, TypeError):
            continue
    config = json.loads((path / "adapter_config.json").read_text(encoding="utf-8"))
    name = str(config.get("base_model_name_or_path") or "")
    folder = Path(name).expanduser()
    if not name or name in (base.source, base.name) or (folder.is_dir() and folder.resolve() == base.path):
        return name, True
    if (folder / "config.json").is_file():
        return name, fingerprint_folder(folder) == base.model_id
    are_hub_ids = all(one.count("/") == 1 and one[0] not in "./~" for one in (name, base.source))
    if not are_hub_ids or Path(base.source).is_dir():
        return name, True
    # owners differ between mirrors of a model
    return name, name.partition("/")[2] == base.source.partition("@")[0].partition("/")[2]


def is_adapter(model: ModelSource) -> bool:
    """Whether a checkpoint is an adapter, which needs its base model."""
    return (model.path / "adapter_config.json").is_file()


def load_causal_lm(
    model: ModelSource,
    *,
    dtype: str = "auto",
    device: str = "auto",
    attention: str | None = None,
    adapter: ModelSource | None = None,
    quantization: str | None = None,
) -> nn.Module:
    """Load a causal language model for scoring: evaluation mode, no parameter trainable.

    Args:
        model: what ``find_model`` returned.
        dtype: ``float32``, ``bfloat16``, ``float64`` or ``auto`` (float32 on CPU, bfloat16 on GPU).
        device: ``cpu``, ``cuda``, ... or ``auto`` (a GPU if there is one).
        attention: attention implementation of transformers; None leaves the choice to it.
        adapter: a LoRA adapter; its layers are put into the model, unmerged.
        quantization: ``nf4`` packs the weights into 4 bits while they load (bitsandbytes, twice quantised).

    Raises:
        ModelError: transformers cannot load the folder as a causal language model, or PEFT the adapter.
    """
    from transformers import AutoModelForCausalLM
    from transformers.utils import logging as transformers_logging

    # diq has its own progress, and a captured stderr should hold none
    transformers_logging.disable_progress_bar()
    place = pick_device(device)
    precision = getattr(torch, pick_dtype(dtype, place))
    options: dict[str, Any] = {"dtype": precision}
    if attention:
        options["attn_implementation"] = attention
    quantised = _quantisation(model.path) is not None
    if quantization:
        if quantised:
            raise ModelError(f"`{model.source}` is quantised already", "leave out --quantization")
        options["quantization_config"] = _packing(precision)
        quantised = True
    if quantised:
        # packed weights are placed while they load; they cannot be moved or cast afterwards
        options["device_map"] = {"": place}
    try:
        loaded: Any = AutoModelForCausalLM.from_pretrained(model.path, **options)
    except Exception as error:  # loaders raise whatever their back ends do
        raise ModelError(
            f"`{model.source}` cannot be loaded as a causal language model: {first_line(error)}",
            "check that the folder is complete and that transformers knows its architecture",
        ) from error
    if adapter is not None:
        loaded = _with_adapter(loaded, adapter, precision)
    loaded.requires_grad_(False)
    loaded.eval()
    return loaded if quantised else loaded.to(place)  # type: ignore[no-any-return]


def _quantisation(folder: Path) -> Any:
    """What a model's config says of packed weights; None where they are plain."""
    path = folder / "config.json"
    return json.loads(path.read_text(encoding="utf-8")).get("quantization_config") if path.is_file() else None


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
    from peft import PeftModel, get_peft_model_state_dict
    from peft.utils import load_peft_weights

    hint = "check that it was trained on this base model"
    try:
        with warnings.catch_warnings():
            # advice for the authors of peft
            warnings.filterwarnings("ignore", category=FutureWarning, module=r"transformers\.")
            # what does not fit is an error below
            warnings.filterwarnings("ignore", message="Found missing adapter keys", category=UserWarning)
            wrapped: Any = PeftModel.from_pretrained(
                base, adapter.path, is_trainable=trainable, autocast_adapter_dtype=trainable
            )
        there = {
            name.rpartition(".weight")[0] for name in get_peft_model_state_dict(wrapped, save_embedding_layers=False)
        }
        kept = {name.rpartition(".weight")[0] for name in load_peft_weights(adapter.path)}
    except Exception as error:  # loaders raise whatever their back ends do
        raise ModelError(
            f"the adapter `{adapter.source}` cannot be put on the base model: {first_line(error)}", hint
        ) from error
    if there != kept:
        raise ModelError(
            f"the adapter `{adapter.source}` belongs to another base model: {len(kept - there)} of its {len(kept)} "
            f"matrices have no place here, and {len(there - kept)} places stay empty",
            hint,
        )
    return wrapped


def _with_adapter(base: Any, adapter: ModelSource, dtype: torch.dtype) -> nn.Module:
    # on the cpu first: the caller moves base and adapter together
    wrapped = wrap_adapter(base, adapter)
    kind = wrapped.peft_config[wrapped.active_adapter].peft_type
    if str(getattr(kind, "value", kind)) != "LORA":
        raise ModelError(f"the adapter `{adapter.source}` is of type {kind}, not LoRA", "merge it and give the folder")
    for name, parameter in wrapped.named_parameters():
        if "lora_" in name and parameter.dtype != dtype:
            parameter.data = parameter.data.to(dtype)
    # the layers sit inside the base model; the wrapper would only lengthen every name
    network: nn.Module = wrapped.get_base_model()
    return network


def load_tokenization(model: ModelSource, *, max_length: int, template: Template = "auto") -> Tokenization:
    """How samples become tokens of the model.

    Args:
        model: what ``find_model`` returned.
        max_length: tokens after which a sample is cut on the right; at most the model's own context.
        template: as for ``Tokenization``.

    Raises:
        UsageError: the length is below 2.
        ModelError: the model has no usable tokenizer or config.
    """
    return Tokenization(load_tokenizer(model), max_length=usable_length(model, max_length), template=template)


def check_length(max_length: int) -> None:
    """Refuse a maximum length that no sample fits into; ask this before a model is looked for, it costs nothing.

    Raises:
        UsageError: it is below 2.
    """
    if max_length < 2:
        raise UsageError(f"--max-length {max_length} leaves no room for a prompt and an answer", "give 2 or more")


def usable_length(model: ModelSource, max_length: int) -> int:
    """The maximum length, or the model's own context if that is shorter (then the log says so).

    Raises:
        UsageError: the length is below 2.
        ModelError: transformers cannot read the config.
    """
    from transformers import AutoConfig

    check_length(max_length)

    try:
        config = AutoConfig.from_pretrained(model.path).get_text_config()
    except Exception as error:  # loaders raise whatever their back ends do
        raise ModelError(
            f"`{model.source}` has no usable config: {first_line(error)}",
            "check that transformers knows its architecture",
        ) from error
    context = getattr(config, "max_position_embeddings", None) or getattr(config, "n_positions", None) or max_length
    if context < max_length:
        log.info("samples are cut to the %d tokens that `%s` can take", context, model.name)
    return min(int(context), max_length)


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


def environment(device: torch.device | str = "cpu") -> dict[str, str]:
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
