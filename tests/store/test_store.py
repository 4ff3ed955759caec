"""The store: what it refuses, its transactions, and the SQL face in clients that never import diq."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import duckdb
import numpy as np
import pyarrow as pa
import pytest

from conftest import fill_store
from diq.base.errors import StoreError, UsageError
from diq.store.store import Store

PREVIOUS_DUCKDB = Path(sys.prefix) / "duckdb-previous"


@pytest.fixture
def scored(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    path = tmp_path / "s.duckdb"
    dots = {"a": rng.normal(size=200), "b": rng.normal(size=200)}
    fill_store(path, dots=dots, difficulty=rng.integers(1, 6, 200), sizes={"a": 20, "b": 10})
    return path


def test_another_duckdb_file_and_another_kind_of_file_are_refused(tmp_path: Path) -> None:
    other = tmp_path / "other.duckdb"
    with duckdb.connect(str(other)) as connection:
        connection.execute("CREATE TABLE invoices (x INTEGER)")
    with pytest.raises(StoreError, match="not a diq store"):
        Store(other)
    text = tmp_path / "text.duckdb"
    text.write_text("hello, this is no database at all, but some text of some length\n" * 50)
    with pytest.raises(StoreError, match="cannot be opened as a store"):
        Store(text)


def test_a_missing_store_is_not_made_by_a_reader(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="there is no store") as caught:
        Store(tmp_path / "none.duckdb", read_only=True)
    assert "diq ingest" in caught.value.hint
    assert list(tmp_path.iterdir()) == []


def test_a_failed_transaction_leaves_nothing(scored: Path) -> None:
    with Store(scored) as store:
        with pytest.raises(ZeroDivisionError), store.transaction():
            store.connection.execute("DELETE FROM samples")
            raise ZeroDivisionError
        assert store.connection.execute("SELECT count(*) FROM samples").fetchone() == (200,)
        with pytest.raises(StoreError, match="refused"), store.transaction():
            store.connection.execute("DELETE FROM samples")
            store.connection.execute("INSERT INTO datasets VALUES (1, 'pool', 'training', TIMESTAMP '2026-01-01')")
        assert store.connection.execute("SELECT count(*) FROM samples").fetchone() == (200,)


def test_a_full_disk_is_one_line_and_nothing_is_half_written(small_disk: Callable[[int], Path]) -> None:
    path = small_disk(3000) / "s.duckdb"
    rows = pa.table({"text": [os.urandom(300).hex() for _ in range(20_000)]})
    with Store(path, create=True) as store, pytest.raises(StoreError, match="is full") as caught, store.transaction():
        store.connection.register("rows", rows)
        store.connection.execute("INSERT INTO samples SELECT uuid(), json_object('a', text), NULL FROM rows")
    assert "\n" not in caught.value.message
    with Store(path) as store:
        assert store.connection.execute("SELECT count(*) FROM samples").fetchone() == (0,)


def test_unknown_names_get_a_hint(scored: Path) -> None:
    with Store(scored, read_only=True) as store:
        with pytest.raises(UsageError, match="no dataset named `pol`") as caught:
            store.dataset("pol")
        assert caught.value.hint == "did you mean `pool`?"
        with pytest.raises(UsageError, match="no validation set named `zzz`") as caught:
            store.validation_set("zzz")
        assert "`a`, `b`" in caught.value.hint


PLAIN_CLIENT = """
import json, sys
import duckdb
connection = duckdb.connect(sys.argv[1], read_only=True)
queries = {
    "scores": "SELECT position, overall, dot, loss, answer_tokens FROM diq_scores('pool', 'model')",
    "ranking": "SELECT position, rank FROM diq_ranking('pool', 'model', difficulty := 'knowledge', percentile := 0.3)",
    "select": "SELECT CAST(sample_id AS VARCHAR), rank FROM diq_select('pool', 'model', 0.57)",
    "text": "SELECT prompt, answer FROM sample_texts ORDER BY prompt LIMIT 3",
}
assert not any(name == "diq" or name.startswith("diq.") for name in sys.modules)
print(json.dumps({"version": duckdb.__version__, **{k: connection.execute(q).fetchall() for k, q in queries.items()}}))
"""


def plain_client(store: Path, duckdb_folder: Path | None) -> dict[str, object]:
    environment = dict(os.environ)
    if duckdb_folder:
        environment["PYTHONPATH"] = str(duckdb_folder)
    done = subprocess.run(
        [sys.executable, "-c", PLAIN_CLIENT, str(store)], capture_output=True, text=True, env=environment, check=False
    )
    assert done.returncode == 0, done.stderr
    answer: dict[str, object] = json.loads(done.stdout)
    return answer


def test_a_plain_client_runs_the_macros(scored: Path) -> None:
    answer = plain_client(scored, None)
    with Store(scored, read_only=True) as store:
        here = store.connection.execute(
            "SELECT position, overall, dot, loss, answer_tokens FROM diq_scores('pool', 'model')"
        )
        assert [tuple(row) for row in answer["scores"]] == here.fetchall()  # type: ignore[attr-defined]
    assert len(answer["ranking"]) == 200  # type: ignore[arg-type]
    assert [row[1] for row in answer["select"]] == list(range(114))  # type: ignore[attr-defined]
    assert answer["text"][0][1] == "a"  # type: ignore[index]


@pytest.mark.skipif(not PREVIOUS_DUCKDB.is_dir(), reason="no previous DuckDB here; `make setup` installs it")
def test_the_previous_duckdb_reads_the_store_and_runs_the_macros(scored: Path) -> None:
    current, previous = plain_client(scored, None), plain_client(scored, PREVIOUS_DUCKDB)
    assert current.pop("version") != previous.pop("version")
    assert current == previous
