"""Defaults that several commands share, and where the store is found."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Literal, get_args

STORE_VARIABLE = "DIQ_STORE"
DEFAULT_STORE = "diq.duckdb"

# the oldest DuckDB that must be able to open a store: the long-term release before the current one
STORAGE_VERSION = "v1.4.0"

Dimension = Literal["knowledge", "reasoning", "overall"]
DIFFICULTY_DIMENSIONS: tuple[str, ...] = get_args(Dimension)
LIKERT_LEVELS = 5

MAX_LENGTH = 8192  # tokens; the paper's context length (arXiv 2508.01450, section 4.1)


def store_path(option: str | os.PathLike[str] | None = None) -> Path:
    """The store file: the option, else ``$DIQ_STORE``, else ``diq.duckdb`` in the working folder."""
    return Path(option or os.environ.get(STORE_VARIABLE) or DEFAULT_STORE)
