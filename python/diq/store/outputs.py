"""Outputs that would take the place of what a store was made from, or points to."""

from __future__ import annotations

import os
from pathlib import Path

from diq import _core
from diq.base.errors import UsageError
from diq.store.store import Store


def check_output(opened: Store, output: Path) -> None:
    """Refuse an output that is an ingested source, or a file of answers or gradients.

    It is found by its name, seen from here and from the store's folder, and by its content, since the store may have
    been filled from another folder. A file within a folder that was ingested is a source, too.

    Raises:
        UsageError: the output is such a file; nothing was written.
    """
    if not output.is_file():
        return
    content = _core.file_hash(str(output))
    place = Path(os.path.realpath(output))
    for one in opened.rows("store/list_known_files"):
        places = {Path(os.path.realpath(root / one["path"])) for root in (Path(), opened.path.parent)}
        if one["content_hash"] == content or any(place.is_relative_to(known) for known in places):
            raise UsageError(
                f"the output `{output}` is {one['role']} of the store `{opened.path}`",
                "name another file, or remove this one first",
            )
