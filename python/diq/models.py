"""Models: finding, fingerprinting and loading them, and naming the modules that influence looks at."""

from __future__ import annotations

import hashlib
import json
import logging
import platform
import re
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
from torch import nn

from diq import _core
from diq.errors import ModelError
from diq.records import canonical_json, first_line

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
_WEIGHT_PATTERNS = ("*.safetensors", "pytorch_model*.bin")


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


def load_causal_lm(
    model: ModelSource, *, dtype: str = "auto", device: str = "auto", attention: str | None = None
) -> nn.Module:
    """Load a causal language model for scoring: evaluation mode, no parameter trainable.

    Args:
        model: what ``find_model`` returned.
        dtype: ``float32``, ``bfloat16``, ``float64`` or ``auto`` (float32 on CPU, bfloat16 on GPU).
        device: ``cpu``, ``cuda``, ... or ``auto`` (a GPU if there is one).
        attention: attention implementation of transformers; None leaves the choice to it.

    Raises:
        ModelError: transformers cannot load the folder as a causal language model.
    """
    from transformers import AutoModelForCausalLM
    from transformers.utils import logging as transformers_logging

    # diq has its own progress, and a captured stderr should hold none
    transformers_logging.disable_progress_bar()
    place = pick_device(device)
    options: dict[str, Any] = {"dtype": getattr(torch, pick_dtype(dtype, place))}
    if attention:
        options["attn_implementation"] = attention
    try:
        loaded: nn.Module = AutoModelForCausalLM.from_pretrained(model.path, **options)
    except Exception as error:  # loaders raise whatever their back ends do
        raise ModelError(
            f"`{model.source}` cannot be loaded as a causal language model: {first_line(error)}",
            "check that the folder is complete and that transformers knows its architecture",
        ) from error
    loaded.requires_grad_(False)
    return loaded.eval().to(place)


def usable_length(model: ModelSource, max_length: int) -> int:
    """The maximum length, or the model's own context if that is shorter (then the log says so).

    Raises:
        ModelError: transformers cannot read the config.
    """
    from transformers import AutoConfig

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

    Args:
        model: a causal language model.
        params: ``qkv`` (query, key and value projections, fused or not), ``all-linear`` (every linear layer but the
            language-model head), or a regular expression searched in module names.

    Raises:
        ModelError: nothing matches; the message lists what there is.
    """
    # typed as Any: transformers' models have methods that nn.Module does not know
    network: Any = model
    head = network.get_output_embeddings() if hasattr(model, "get_output_embeddings") else None
    linear = {name: module for name, module in model.named_modules() if is_linear(module) and module is not head}
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


def is_linear(module: nn.Module) -> bool:
    """Whether the module is a plain linear layer: ``nn.Linear``, or GPT-2's transposed ``Conv1D``."""
    return isinstance(module, nn.Linear) or is_transposed(module)


def is_transposed(module: nn.Module) -> bool:
    """Whether the weight is ``[in, out]`` (GPT-2's Conv1D); its shape cannot tell when it is square."""
    from transformers.pytorch_utils import Conv1D

    return isinstance(module, Conv1D)


def lora_targets(model: nn.Module) -> list[str]:
    """Names of the query, key and value modules, as PEFT's ``target_modules`` wants them: the last parts."""
    return sorted({name.rsplit(".", 1)[-1] for name in linear_modules(model, "qkv")})


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
