"""Stores with a pool and validation sets whose scores are still to be computed."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from conftest import ingest_rows

Conversations = list[list[dict[str, str]]]


def fill(store: Path, pool: Conversations, validation: dict[str, Conversations]) -> Path:
    """Ingest a pool, with a column for its difficulty, and validation sets; returns the store."""
    ingest_rows(store, [{"messages": messages, "level": i % 5 + 1, "tag": "x"} for i, messages in enumerate(pool)])
    for name, conversations in validation.items():
        ingest_rows(store, conversations, name, validation=True)
    return store


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory, make_samples: Callable[..., Conversations]) -> Path:
    """The store that every test of a module has a copy of; a module that needs other samples has its own."""
    return fill(
        tmp_path_factory.mktemp("made") / "s.duckdb",
        make_samples(40, seed=1),
        {"a": make_samples(6, seed=2), "b": make_samples(3, seed=3)},
    )


@pytest.fixture
def filled(made: Path, tmp_path: Path) -> Path:
    """A store to write to, with nothing scored yet."""
    return Path(shutil.copy(made, tmp_path / "s.duckdb"))
