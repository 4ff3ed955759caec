"""The schema: new stores and migrated ones are the same, readers write nothing, and macros are those of this diq."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pytest

from conftest import fill_store
from diq.base.errors import StoreError
from diq.selection.select import select
from diq.store import queries
from diq.store.store import Store, now

# the schema of version 1 as it was; no store of it is made any more
FIRST = (Path(__file__).parent.parent / "data" / "schema_1.sql").read_text(encoding="utf-8")
LAST = queries.migrations()[-1].version


def make_old_store(path: Path, version: int) -> None:
    """An empty store of an older schema version."""
    with duckdb.connect(str(path)) as opened:
        opened.execute(FIRST)
        opened.execute("INSERT INTO schema_migrations VALUES (1, 'create_store', ?)", [now()])
        for step in queries.migrations()[: version - 1]:
            opened.execute(step.text)
            opened.execute("INSERT INTO schema_migrations VALUES (?, ?, ?)", [step.version, step.name, now()])


def picture(path: Path) -> dict[str, list[tuple[Any, ...]]]:
    """Everything that makes a schema: tables, columns in their order, views, sequences, constraints and comments."""
    parts = {
        "tables": "SELECT table_name, comment, sql FROM duckdb_tables() WHERE NOT internal",
        "columns": "SELECT table_name, column_index, column_name, data_type, is_nullable, column_default, comment "
        "FROM duckdb_columns() WHERE NOT internal",
        "views": "SELECT view_name, comment, sql FROM duckdb_views() WHERE NOT internal",
        "sequences": "SELECT sequence_name, sql FROM duckdb_sequences()",
        "constraints": "SELECT table_name, constraint_type, constraint_text FROM duckdb_constraints()",
        "macros": "SELECT function_name, macro_definition FROM duckdb_functions() WHERE NOT internal",
    }
    with duckdb.connect(str(path), read_only=True) as opened:
        return {name: opened.execute(f"{text} ORDER BY ALL").fetchall() for name, text in parts.items()}


def test_every_table_view_and_column_has_a_comment(tmp_path: Path) -> None:
    with Store(tmp_path / "s.duckdb", create=True) as store:
        missing = store.connection.execute(
            "SELECT table_name, NULL FROM duckdb_tables() WHERE comment IS NULL AND NOT internal "
            "UNION ALL SELECT view_name, NULL FROM duckdb_views() WHERE comment IS NULL AND NOT internal "
            "UNION ALL SELECT table_name, column_name FROM duckdb_columns() WHERE comment IS NULL AND NOT internal"
        ).fetchall()
    assert missing == []


@pytest.mark.parametrize("version", range(1, LAST))
def test_a_store_of_each_older_version_becomes_what_a_new_one_is(tmp_path: Path, version: int) -> None:
    old, new = tmp_path / "old.duckdb", tmp_path / "new.duckdb"
    make_old_store(old, version)
    for path in (old, new):
        for _ in range(2):
            Store(path, create=path == new).close()
    assert picture(old) == picture(new)
    recorded = "SELECT version, name FROM schema_migrations ORDER BY version"
    with duckdb.connect(str(old)) as opened:
        steps = [(step.version, step.name) for step in queries.migrations()]
        assert opened.execute(recorded).fetchall() == [(1, "create_store"), *steps]
    with duckdb.connect(str(new)) as opened:
        assert opened.execute(recorded).fetchall() == [(LAST, "create_store")]


SCORED = ("datasets", "samples", "dataset_samples", "models", "validation_sets", "runs", "run_datasets")
SCORED += ("run_validation_sets", "influence_scores", "difficulty_scores")


@pytest.mark.parametrize("version", range(1, LAST))
def test_a_store_of_each_older_version_gives_the_same_selections(tmp_path: Path, version: int) -> None:
    rng = np.random.default_rng(4)
    new, old = tmp_path / "new.duckdb", tmp_path / "old.duckdb"
    dots = {"a": rng.integers(-3, 4, 200).astype(float), "b": rng.normal(size=200)}
    fill_store(new, dots=dots, difficulty=rng.integers(1, 6, 200), sizes={"a": 20, "b": 10})
    make_old_store(old, version)
    with duckdb.connect(str(old)) as opened:
        opened.execute(f"ATTACH '{new}' AS new (READ_ONLY)")
        for table in SCORED:
            columns = opened.execute(f"SELECT column_name FROM (DESCRIBE {table})").fetchall()
            names = ", ".join(name for (name,) in columns)
            opened.execute(f"INSERT INTO {table} ({names}) SELECT {names} FROM new.{table}")
    for ratio, settings in (("0.1", {}), ("0.57", {"difficulty": "knowledge", "difficulty_percentile": 0.3})):
        files = []
        for path in (old, new):
            output = path.with_suffix(f".{ratio}.jsonl")
            select("pool", ratio=ratio, store=path, model="model", output=output, **settings)  # type: ignore[arg-type]
            files.append(output.read_bytes())
        assert files[0] == files[1]
        assert files[0]


def test_a_store_of_copied_selections_keeps_them(tmp_path: Path) -> None:
    path = tmp_path / "old.duckdb"
    rows = [(1, r, i, f"Q{1 + r // 2}", 3.0, 1.0 - r) for r, i in enumerate((2, 0, 3, 1))]
    make_old_store(path, 2)
    with duckdb.connect(str(path)) as opened:
        opened.execute("INSERT INTO datasets VALUES (1, 'pool', 'training', now())")
        opened.execute("INSERT INTO dataset_samples SELECT 1, i, uuid(), 1, i + 1, 'train', NULL FROM range(6) AS t(i)")
        ids = dict(opened.execute("SELECT position, sample_id FROM dataset_samples").fetchall())
        opened.execute(
            "INSERT INTO rankings VALUES "
            "(nextval('ranking_ids'), 1, 'diq', 1, 2, 'f', '{}', 3, 0, 6, 0, [2, 2, 1, 1], now()), "
            "(nextval('ranking_ids'), 1, 'random', NULL, NULL, 'g', '{}', NULL, NULL, 6, 0, NULL, now())"
        )
        opened.execute(
            "INSERT INTO selections VALUES (nextval('selection_ids'), 'two', 1, '0.4', 2, 2, NULL, now()), "
            "(nextval('selection_ids'), 'four', 1, '0.7', 4, 4, NULL, now()), "
            "(nextval('selection_ids'), 'chance', 2, '0.2', 1, 1, NULL, now())"
        )
        expected = []
        for selection, n in ((1, 2), (2, 4)):
            expected += [(selection, r, ids[i], i, q, d, v) for _, r, i, q, d, v in rows[:n]]
        expected.append((3, 0, ids[5], 5, None, None, None))
        for row in expected:
            opened.execute("INSERT INTO selection_samples VALUES (?, ?, ?, ?, ?, ?, ?)", list(row))
        opened.execute(
            "INSERT INTO runs VALUES (1, 'text', 'external', NULL, 'x', ?, '{}', NULL, now())",
            ['{"scores":["similarity"]}'],
        )
    with Store(path) as store:
        found = store.connection.execute(
            "SELECT selection_id, rank, sample_id, position, quadrant, difficulty, dot "
            "FROM selection_samples ORDER BY selection_id, rank"
        ).fetchall()
        assert found == expected
        assert store.connection.execute("SELECT strategy FROM selections ORDER BY selection_id").fetchall() == [
            ("diq",),
            ("diq",),
            ("random",),
        ]
        assert store.connection.execute("SELECT kind FROM runs").fetchall() == [("similarity",)]
    # the prefix of an old store is no whole ranking, so it is made anew
    assert select("pool", ratio="0.5", store=path, strategy="random").ranking == "new"


def test_a_newer_store_is_refused_by_reader_and_writer(tmp_path: Path) -> None:
    path = tmp_path / "s.duckdb"
    with Store(path, create=True) as store:
        store.connection.execute("INSERT INTO schema_migrations VALUES (99, 'from_the_future', TIMESTAMP '2026-01-01')")
    for read_only in (False, True):
        with pytest.raises(StoreError, match="schema version 99") as caught:
            Store(path, read_only=read_only)
        assert "upgrade" in caught.value.hint


def test_a_reader_of_an_empty_store_file_migrates_it_first(tmp_path: Path) -> None:
    path = tmp_path / "s.duckdb"
    duckdb.connect(str(path)).close()
    with Store(path, read_only=True) as store:
        assert store.rows("store/list_datasets") == []


@pytest.mark.parametrize("sealed", [False, True])
def test_a_reader_of_an_older_store_reads_a_copy_and_writes_nothing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, read_only: Callable[[Path], None], sealed: bool
) -> None:
    path = tmp_path / "here" / "s.duckdb"
    path.parent.mkdir()
    make_old_store(path, 3)
    before = path.read_bytes()
    if sealed:
        read_only(path.parent)
    caplog.set_level(logging.INFO)
    for _ in range(2):
        with Store(path, read_only=True) as store:
            assert store.path == path
            assert store.rows("store/list_datasets") == []
            with pytest.raises(duckdb.Error, match="read-only"):
                store.connection.execute("DELETE FROM settings")
    # once: what is opened often is copied once
    assert caplog.text.count(f"has schema version 3, this diq reads version {LAST}: it is read from a copy") == 1
    assert path.read_bytes() == before
    assert [one.name for one in path.parent.iterdir()] == [path.name]
    if not sealed:
        Store(path).close()
        caplog.clear()
        Store(path, read_only=True).close()
        assert caplog.text == ""


@pytest.fixture
def other_macros(tmp_path: Path) -> Path:
    """A scored store whose macros and the view beside them are those of another diq."""
    path = tmp_path / "here" / "s.duckdb"
    path.parent.mkdir()
    rng = np.random.default_rng(0)
    fill_store(path, dots={"a": rng.normal(size=200)}, difficulty=rng.integers(1, 6, 200))
    select("pool", ratio="0.1", store=path, model="model")
    with duckdb.connect(str(path)) as opened:
        for name in ("diq_scores", "diq_select"):
            opened.execute(
                f"CREATE OR REPLACE MACRO {name}(dataset, model := '', ratio := 1) AS TABLE SELECT 'old' AS x"
            )
        opened.execute("CREATE OR REPLACE MACRO diq_digest(a, b, c, d) AS 'old'")
        opened.execute("UPDATE settings SET value = 'older' WHERE name = 'macros'")
    return path


def answers(opened: duckdb.DuckDBPyConnection) -> list[Any]:
    queries = (
        "SELECT count(*) FROM diq_scores('pool', 'model')",
        "SELECT count(*) FROM diq_ranking('pool', 'model')",
        "SELECT count(*) FROM diq_select('pool', 'model', 0.1)",
        "SELECT current FROM ranking_states",
    )
    return [opened.execute(query).fetchall()[0][0] for query in queries]


@pytest.mark.parametrize("sealed", [False, True])
def test_a_reader_answers_by_the_macros_of_this_diq_and_writes_nothing(
    other_macros: Path, read_only: Callable[[Path], None], sealed: bool
) -> None:
    before = other_macros.read_bytes()
    if sealed:
        read_only(other_macros.parent)
    with Store(other_macros, read_only=True) as store:
        assert answers(store.connection) == [200, 200, 20, True]
    assert other_macros.read_bytes() == before
    assert [path.name for path in other_macros.parent.iterdir()] == [other_macros.name]
    # a client that knows nothing of diq has what the file holds, until a command writes to it
    with duckdb.connect(str(other_macros), read_only=True) as opened:
        assert opened.execute("FROM diq_select('pool')").fetchall() == [("old",)]
        assert opened.execute("SELECT current FROM ranking_states").fetchall() == [(False,)]
    if not sealed:
        Store(other_macros).close()
        with duckdb.connect(str(other_macros), read_only=True) as opened:
            assert answers(opened) == [200, 200, 20, True]
