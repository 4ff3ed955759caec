"""Defaults that several commands share, and where the store is found."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Literal, get_args

from diq.base.errors import StoreError
from diq.base.text import short

STORE_VARIABLE = "DIQ_STORE"
DEFAULT_STORE = "diq.duckdb"

# the oldest DuckDB that must be able to open a store: the long-term release before the current one
STORAGE_VERSION = "v1.4.0"

Dimension = Literal["knowledge", "reasoning", "overall"]
DIFFICULTY_DIMENSIONS: tuple[str, ...] = get_args(Dimension)
LIKERT_LEVELS = 5

MAX_LENGTH = 8192  # tokens; the paper's context length (arXiv 2508.01450, section 4.1)


def expanded(path: str | os.PathLike[str]) -> str:
    """A path with the home folder in place of a leading ``~``, as a shell leaves it where it stands in quotes."""
    return os.path.expanduser(path)  # noqa: PTH111 (that of Path fails where there is no such user)


def store_path(option: str | os.PathLike[str] | None = None) -> Path:
    """The store file: the option, else ``$DIQ_STORE``, else ``diq.duckdb`` in the working folder.

    Raises:
        StoreError: nothing can be known of the file, since a folder above it may not be read, say.
    """
    path = Path(expanded(option or os.environ.get(STORE_VARIABLE) or DEFAULT_STORE))
    try:
        path.exists()
    except OSError as error:
        text = f"the store `{short(path)}` cannot be reached: {error.strerror}"
        raise StoreError(text, "name another with --store") from error
    return path
