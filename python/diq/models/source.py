"""Finding a model or an adapter, and the fingerprint of its weights."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from diq import _core
from diq.base.errors import ModelError
from diq.base.files import read_json, recover_folder
from diq.base.fingerprint import canonical_json, fingerprint_of
from diq.base.text import first_line

log = logging.getLogger(__name__)

# what `diq train` leaves in the folder of every training
TRAINING_RECORD = "diq_run.json"
# the first pattern that matches counts
_WEIGHT_PATTERNS = ("*.safetensors", "pytorch_model*.bin")
# what a module of a sentence encoder is made of beside its weights
_MODULE_PATTERNS = ("*.json", "*.txt", "*.model")
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


def find_model(source: str | os.PathLike[str], *, name: str | None = None) -> ModelSource:
    """Find a model folder, or fetch a hub id (``owner/name`` or ``owner/name@revision``), and fingerprint it.

    Args:
        source: folder or hub id.
        name: name in the store; default the hub id or the folder's name.

    Raises:
        ModelError: there is no such folder or hub id, or the folder lacks a config or weights.
    """
    source = os.fspath(source)
    folder = Path(source)
    if folder.is_dir():
        recover_folder(folder)
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
    config = read_object(folder / "config.json")
    # written by the library that saved it; the same weights saved again are the same model
    config.pop("transformers_version", None)
    return fingerprint_of(canonical_json(config), *_hashes({one.name: one for one in weights}))


def read_object(path: Path) -> dict[str, Any]:
    """A JSON file of a model's folder.

    Raises:
        ModelError: it holds no JSON object.
    """
    try:
        found = read_json(path)
    except ValueError as error:
        raise ModelError(f"`{path}` is not JSON: {first_line(error)}", "download or save it again") from error
    if not isinstance(found, dict):
        raise ModelError(f"`{path}` holds no JSON object but {type(found).__name__}", "download or save it again")
    return found


def fingerprint_modules(folder: Path, modules: Sequence[str]) -> str:
    """BLAKE3 over configs, tokenizer and weights of a sentence encoder's modules, whatever the folder is called.

    Args:
        folder: of the encoder.
        modules: sub-folder of each module; empty for the folder itself.
    """
    files: dict[str, Path] = {}
    for module in modules:
        place = folder / module
        weights = next((found for pattern in _WEIGHT_PATTERNS if (found := list(place.glob(pattern)))), [])
        for one in [*weights, *(found for pattern in _MODULE_PATTERNS for found in place.glob(pattern))]:
            files[f"{module}/{one.name}"] = one
    return fingerprint_of(*_hashes(dict(sorted(files.items()))))


def fingerprint_together(folders: Mapping[str, Path], *, complete: bool) -> str:
    """Of several models that answer as one, in their order.

    Args:
        folders: what each answers for, and its folder.
        complete: whether all that there can be are there; then the names say nothing.

    Raises:
        ModelError: one has no config.json or no weights.
    """
    found = {name: fingerprint_folder(folder) for name, folder in folders.items()}
    return fingerprint_of(*(one if complete else f"{name}:{one}" for name, one in found.items()))


def fingerprint_with(folder: Path, facts: Any) -> str:
    """Of a model whose answers also depend on facts that are not in its weights and config.

    Raises:
        ModelError: no config.json or no weights.
    """
    return fingerprint_of(fingerprint_folder(folder) + canonical_json(facts))


def _hashes(files: Mapping[str, Path]) -> list[str]:
    return [f"{name}:{_core.file_hash(str(path))}" for name, path in files.items()]


def find_adapter(source: str | os.PathLike[str], base: ModelSource) -> ModelSource:
    """Find a checkpoint of a base model: a folder with a LoRA adapter, or with all weights.

    Args:
        source: folder that PEFT's or transformers' save_pretrained (or a Trainer) wrote.
        base: the model that was trained.

    Returns:
        The checkpoint; its name is ``BASE+FOLDER``, its fingerprint covers the base model of an adapter.

    Raises:
        ModelError: the folder is neither, or the record of `diq train` in it names another base model.
    """
    source = os.fspath(source)
    path = Path(source)
    if (path / "config.json").is_file():
        found = find_model(source)
        _check_shape(found, base)
        return ModelSource(source, found.path, f"{base.name}+{found.path.name}", found.model_id)
    if not (path / "adapter_config.json").is_file():
        raise ModelError(
            f"`{source}` is not a checkpoint: it has neither adapter_config.json nor config.json",
            "give a folder that a trainer saved, such as OUT/checkpoint-100",
        )
    config = read_object(path / "adapter_config.json")
    kind = config.get("peft_type")
    if kind != "LORA":
        raise ModelError(
            f"the adapter `{source}` is of type {kind or 'none that it tells'}, not LoRA",
            "merge it and give the folder, or give a LoRA adapter",
        )
    _check_base(path, source, base)
    weights = next((one for pattern in _ADAPTER_PATTERNS if (one := path / pattern).is_file()), None)
    if weights is None:
        raise ModelError(f"the adapter `{source}` has no weights", "save it with save_pretrained")
    # where the base model lay at training time is not part of what the adapter is
    for name in ("base_model_name_or_path", "peft_version", "inference_mode", "revision"):
        config.pop(name, None)
    model_id = fingerprint_of(base.model_id, canonical_json(config), _core.file_hash(str(weights)))
    return ModelSource(source, path.resolve(), f"{base.name}+{path.resolve().name}", model_id)


def _check_shape(checkpoint: ModelSource, base: ModelSource) -> None:
    """Refuse a whole model as a checkpoint of another one."""
    configs = [read_object(one.path / "config.json") for one in (base, checkpoint)]
    parts = [one.get("text_config", one) for one in configs]
    inner = [part if isinstance(part, dict) else {} for part in parts]
    for name in ("model_type", "hidden_size", "num_hidden_layers", "n_embd", "n_layer", "intermediate_size"):
        mine, other = (one.get(name) for one in inner)
        if mine != other:
            raise ModelError(
                f"`{checkpoint.source}` is no checkpoint of `{base.source}`: its {name} is {other}, not {mine}",
                "name the base model that it was trained from",
            )


def _check_base(path: Path, source: str, base: ModelSource) -> None:
    """Refuse an adapter of another base model, before any weights are loaded.

    The record of `diq train` knows the base by its content. Without one, a base folder that the adapter's config names
    and that is still there is compared by its fingerprint, and a hub id by its name; what cannot be compared is left to
    ``wrap_adapter``, which refuses matrices that do not fit.
    """
    name, is_base = _trained_on(path, base)
    if not is_base and quantisation(base.path):
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
            known = read_json(folder / TRAINING_RECORD)
            return str(known["model"]), known["model_id"] == base.model_id
        except (OSError, ValueError, KeyError, TypeError):
            continue
    config = read_object(path / "adapter_config.json")
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


def quantisation(folder: Path) -> Any:
    """What a model's config says of packed weights; None where they are plain."""
    path = folder / "config.json"
    return read_object(path).get("quantization_config") if path.is_file() else None
