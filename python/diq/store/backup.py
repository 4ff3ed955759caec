"""Stage: a copy of a store as it is at one moment, while others read it."""

from __future__ import annotations

import os
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path

from diq.base import config
from diq.base.errors import UsageError
from diq.base.files import check_file, disk_errors, whole_file
from diq.base.summary import Summary
from diq.store.store import Store, copy_with_log


@dataclass(frozen=True, slots=True, repr=False)
class Backup(Summary):
    """What was copied.

    Attributes:
        store: the store.
        output: the copy.
        size_bytes: its size.
        beside: files and folders that lie beside the store and are not in the copy (answers, factors); scores,
            rankings and selections are.
    """

    store: str
    output: str
    size_bytes: int
    beside: list[str]


def backup(output: str | os.PathLike[str], *, store: str | os.PathLike[str] | None = None) -> Backup:
    """Copy a store as it is at one moment; the copy appears whole, and is a store.

    Others may read meanwhile; a writer waits. What lies beside the store is named, not copied.

    Args:
        output: the copy; a file that is there is refused.
        store: the store file; default ``$DIQ_STORE``, else ``diq.duckdb``.

    Raises:
        UsageError: the copy is there already, or cannot be written.
        StoreError: there is no store, it is damaged, or another process holds it for longer than ten seconds.
        RunFailedError: the disk is full.
    """
    path, place = config.store_path(store), Path(config.expanded(output))
    check_file(place, store=path)
    if place.exists():
        raise UsageError(f"the copy `{place}` is there already", "name another file, or remove it first")
    # as a reader holds the file, no writer changes it
    with Store(path, read_only=True), whole_file(place, replace=False) as file:
        if not path.with_name(f"{path.name}.wal").exists():
            with path.open("rb") as source:
                shutil.copyfileobj(source, file, 1 << 24)
        else:
            # what a killed writer left in the log is brought into one file
            with tempfile.TemporaryDirectory(prefix="diq-") as folder:
                made = Path(folder) / "store.duckdb"
                with disk_errors(made):
                    copy_with_log(path, made)
                Store(made).close()
                with made.open("rb") as source:
                    shutil.copyfileobj(source, file, 1 << 24)
    beside = [one for one in path.parent.iterdir() if _belongs(one, path)]
    return Backup(str(path), str(place), place.stat().st_size, sorted(str(one) for one in beside))


def _belongs(one: Path, store: Path) -> bool:
    return one.is_dir() and one.name.startswith((f"{store.name}.", f"{store.stem}."))
