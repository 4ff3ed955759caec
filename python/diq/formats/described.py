"""Folders with a `dataset_info.json`, as LLaMA-Factory keeps its data: which file a set is, and its columns.

The keys are those of its data/README.md; tags that rename roles and keys of turns are not needed, for diq knows the
usual ones.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from diq.base.errors import InputError, UsageError
from diq.base.text import amount, did_you_mean

DESCRIPTION = "dataset_info.json"

# name of a column there, to a role of --map
_ROLES = {
    "prompt": "prompt", "query": "input", "response": "answer", "history": "history", "system": "system",
    "messages": "messages", "tools": "tools", "chosen": "chosen", "rejected": "rejected",
}  # fmt: skip
# tags that diq knows anyway
_TAGS = {
    "role_tag": ("from", "role"), "content_tag": ("value", "content"), "user_tag": ("human", "user"),
    "assistant_tag": ("gpt", "assistant"), "observation_tag": ("observation", "tool"),
    "function_tag": ("function_call",), "system_tag": ("system",), "kto_tag": ("kto_tag", "label"),
}  # fmt: skip
_PLACES = frozenset(["file_name", "hf_hub_url", "ms_hub_url", "om_hub_url", "script_url", "cloud_file_name"])
_MEDIA = ("images", "videos", "audios")


@dataclass(frozen=True, slots=True)
class Described:
    """A set of a folder.

    Attributes:
        path: its file.
        columns: role to column; None where the usual names are meant.
    """

    path: Path
    columns: dict[str, str] | None


def describes(folder: Path) -> bool:
    """Whether the folder has such a description; `datasets` gives a file of facts the same name."""
    path = folder / DESCRIPTION
    if not path.is_file() or (folder / "state.json").is_file() or (folder / "dataset_dict.json").is_file():
        return False
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except ValueError:
        # it is said where it is read
        return True
    return isinstance(found, dict) and any(isinstance(one, dict) and _PLACES & one.keys() for one in found.values())


def read(folder: Path, name: str) -> Described:
    """The set of this name.

    Raises:
        UsageError: there is none, or its file is not here.
        InputError: the description cannot be read, or the set needs more than text.
    """
    sets = _sets(folder)
    if name not in sets:
        raise UsageError(f"`{folder / DESCRIPTION}` has no set `{name}`", did_you_mean(name, list(sets)))
    entry = sets[name]
    file = entry.get("file_name")
    if not isinstance(file, str) or not (folder / file).is_file():
        where = entry.get("hf_hub_url") or entry.get("ms_hub_url") or file or "nowhere"
        raise UsageError(
            f"the set `{name}` of `{folder}` is no file here but `{where}`", "name its hub id, or download it"
        )
    columns = entry.get("columns") or {}
    media = [columns[one] for one in _MEDIA if one in columns]
    if media:
        raise InputError(f"the set `{name}` of `{folder}` has images, videos or sounds (column {media[0]})", "use text")
    tags = {**_tags(entry), "kto_tag": columns.get("kto_tag", "kto_tag")}
    other = next((key for key, value in tags.items() if value not in _TAGS.get(key, (value,))), None)
    if other is not None:
        raise UsageError(
            f"the set `{name}` of `{folder}` has `{tags[other]}` for {other}, which diq does not read",
            f"rename it in the data: {' or '.join(_TAGS[other])}",
        )
    roles = {_ROLES[key]: column for key, column in columns.items() if key in _ROLES}
    return Described(folder / file, roles or None)


def _tags(entry: dict[str, Any]) -> dict[str, Any]:
    found = entry.get("tags")
    return found if isinstance(found, dict) else {}


def refuse_unnamed(folder: Path) -> None:
    """A folder of several sets is not one.

    Raises:
        UsageError: always, but for a description that cannot be read.
    """
    names = list(_sets(folder))
    raise UsageError(
        f"`{folder}` holds {amount(len(names), 'set')} by its {DESCRIPTION}: {', '.join(names[:10])}",
        f"name one: `{folder}:{names[0] if names else 'NAME'}`",
    )


def _sets(folder: Path) -> dict[str, dict[str, Any]]:
    path = folder / DESCRIPTION
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise InputError(f"`{path}` is not JSON: {error}", "repair it") from error
    if not isinstance(found, dict) or not all(isinstance(one, dict) for one in found.values()):
        raise InputError(f"`{path}` is no object of sets", "see LLaMA-Factory's data/README.md")
    return found
