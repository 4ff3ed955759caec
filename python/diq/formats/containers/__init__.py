"""Containers: how rows lie in a file. One module a family; `CONTAINERS` says which suffix is read by which."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

from diq.base.errors import InputError
from diq.formats.containers import columnar, csv_table, json_lines, json_tree
from diq.formats.rows import BadRow, Meter, Row

Reader = Callable[[Path, Meter], Iterator[Row | BadRow]]

CONTAINERS: dict[str, Reader] = {
    ".jsonl": json_lines.rows,
    ".ndjson": json_lines.rows,
    ".json": json_tree.rows,
    ".csv": csv_table.rows,
    ".tsv": csv_table.rows,
    ".parquet": columnar.rows,
    ".arrow": columnar.rows,
    ".feather": columnar.rows,
}
COMPRESSIONS = (".gz", ".zst")


def suffix(path: Path) -> str:
    """The container's suffix, without that of a compression; empty when it is no container that we know."""
    suffixes = [one.lower() for one in path.suffixes]
    if suffixes and suffixes[-1] in COMPRESSIONS:
        suffixes.pop()
    return suffixes[-1] if suffixes and suffixes[-1] in CONTAINERS else ""


def is_columnar(path: Path) -> bool:
    """Whether the file gives Arrow batches by itself (`columnar.batches`)."""
    return CONTAINERS.get(suffix(path)) is columnar.rows


def is_text_only(path: Path) -> bool:
    """Whether every value comes as text, numbers too."""
    return CONTAINERS.get(suffix(path)) is csv_table.rows


def reader(path: Path) -> Reader:
    """The function that reads the file.

    Raises:
        InputError: its suffix is none of `CONTAINERS`.
    """
    found = suffix(path)
    if not found:
        known = ", ".join(CONTAINERS)
        raise InputError(
            f"`{path}` has no suffix of a container that diq reads",
            f"known: {known}, each also with {' or '.join(COMPRESSIONS)}; rename the file by what it holds",
        )
    return CONTAINERS[found]
