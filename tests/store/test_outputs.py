"""No output takes the place of what the store was made from or points to."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import diq
from conftest import write_jsonl
from diq.base.errors import UsageError
from diq.store.sql import write_answer

WRITERS: dict[str, Callable[[Path, Path], Any]] = {
    "select": lambda out, store: diq.select("pool", strategy="random", ratio="0.5", output=out, store=store),
    "sql": lambda out, store: write_answer("from datasets", output=out, format="csv", store=store),
}


@pytest.fixture
def pool(tmp_path: Path) -> Path:
    path = tmp_path / "in" / "pool.jsonl"
    path.parent.mkdir()
    write_jsonl(path, [{"instruction": f"q{i}", "output": f"a{i}"} for i in range(8)])
    return path


@pytest.mark.parametrize("writer", WRITERS)
@pytest.mark.parametrize("named", ["as it was", "by another name", "from another folder", "within a folder"])
def test_a_source_is_never_replaced(
    pool: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, writer: str, named: str
) -> None:
    store = tmp_path / "s.duckdb"
    monkeypatch.chdir(tmp_path)
    diq.ingest("in" if named == "within a folder" else "in/pool.jsonl", dataset="pool", store=store)
    output = Path("in/pool.jsonl")
    if named == "by another name":
        output = tmp_path / "link.jsonl"
        output.symlink_to(pool)
    elif named == "from another folder":
        # the name that the store knows leads nowhere from here
        moved = tmp_path / "moved.jsonl"
        pool.rename(moved)
        output, pool = moved, moved
    before = pool.read_bytes()
    with pytest.raises(UsageError, match="is a source of the dataset `pool`"):
        WRITERS[writer](output, store)
    assert pool.read_bytes() == before
    assert diq.sql("from selections", store=store).num_rows == 0


@pytest.mark.parametrize("writer", WRITERS)
def test_another_file_is_replaced(pool: Path, tmp_path: Path, writer: str) -> None:
    store = tmp_path / "s.duckdb"
    diq.ingest(pool, dataset="pool", store=store)
    output = tmp_path / "in" / "out.jsonl"
    for _ in range(2):
        WRITERS[writer](output, store)
    assert output.stat().st_size > 0


def test_a_file_of_answers_is_never_replaced(pool: Path, tmp_path: Path) -> None:
    store = tmp_path / "s.duckdb"
    diq.ingest(pool, dataset="pool", store=store)
    answers = tmp_path / "s.generations" / "a.parquet"
    answers.parent.mkdir()
    answers.write_bytes(b"answers")
    diq.sql(
        "INSERT INTO generation_files VALUES "
        "(1, 'b', 'q', 0, 0, 's.generations/a.parquet', 1, 1, 'c', TIMESTAMP '2026-01-01')",
        store=store,
        write=True,
    )
    for writer in WRITERS.values():
        with pytest.raises(UsageError, match="is a file of answers"):
            writer(answers, store)
