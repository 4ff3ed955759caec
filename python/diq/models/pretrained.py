"""Loading what a model's folder holds: the one place that hands a folder to transformers.

A folder comes from anywhere and is data. Transformers would run Python files in it, and ask on stdout whether it may
where nobody has told it; a config may also name a kernel that is fetched and run.
"""

from __future__ import annotations

import pickle
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from diq.base.errors import ModelError
from diq.base.files import read_json
from diq.base.text import short

# files that name the folder's own classes
_NAMES_CODE = ("config.json", "tokenizer_config.json", "modules.json")
_NAMES_KERNEL = ("attn_implementation", "_attn_implementation")


def load_pretrained(loader: Any, folder: Path, source: str, **options: Any) -> Any:
    """What a class of transformers makes of a folder; no code of the folder's is run, and nobody is asked about it.

    Args:
        loader: has ``from_pretrained``.
        folder: on this machine.
        source: what messages call it.
        options: of the loader.

    Raises:
        ModelError: it cannot be loaded without code of its own.
        Exception: whatever the loader raises.
    """
    kernel = next(_kernels(_read(folder / "config.json")), None)
    if kernel is not None:
        raise ModelError(
            f"the config.json of `{source}` wants code from elsewhere (`{short(kernel)}` for its attention), which diq "
            "never runs",
            "take `attn_implementation` out of it",
        )
    try:
        return loader.from_pretrained(folder, trust_remote_code=False, **options)
    except Exception as error:  # loaders raise whatever their back ends do
        raise_if_needs_code(error, folder, source)
        raise


def raise_if_needs_code(error: Exception, folder: Path, source: str) -> None:
    """Tell an error of a loader that would have had to run code of the folder's own; any other stays as it is.

    Raises:
        ModelError: it would have had to.
    """
    pickled = more_than_tensors(error)
    if pickled:
        raise ModelError(
            f"the weights of `{source}` are a pickle that names {pickled}, and diq reads nothing but tensors from one, "
            "since it may run code",
            "save them as safetensors, with save_pretrained",
        ) from error
    # all of them name the option by which they would; a folder whose classes are known needs none of the code that it
    # names, and may fail by something else
    if "trust_remote_code" not in str(error):
        return
    named = [name for name in _NAMES_CODE if (folder / name).is_file()]
    where = next((name for name in named if "auto_map" in _read(folder / name)), named[-1] if named else "config.json")
    raise ModelError(
        f"`{source}` needs code of its own (a class that its {where} names), which diq never runs",
        "use a release of the model that transformers knows by itself",
    ) from error


def more_than_tensors(error: BaseException) -> str:
    """What else a pickle holds that ``torch.load`` refused for it, in words; empty for any other error."""
    if not isinstance(error, pickle.UnpicklingError):
        return ""
    # torch writes a page of advice around it
    named = re.search(r"GLOBAL (\S+)", str(error))
    return f"`{short(named[1])}`" if named else ""


def _read(path: Path) -> dict[str, Any]:
    """A JSON object; empty for anything else, of which the loader will tell."""
    try:
        found = read_json(path)
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _kernels(config: dict[str, Any]) -> Iterator[str]:
    """Kernels that a config and those in it name by an address, ``owner/name``; transformers' own bear no slash."""
    for key, value in config.items():
        if key in _NAMES_KERNEL and "/" in str(value):
            yield str(value)
        elif isinstance(value, dict):
            yield from _kernels(value)
