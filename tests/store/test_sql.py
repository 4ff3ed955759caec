"""``diq.sql``: any query as an Arrow table, with one line and a hint where it goes wrong."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import diq
from conftest import fill_store, invoke, refused, stdout_of
from diq.base import config
from diq.base.errors import StoreError, UsageError
from diq.cli.sql import sql as command
from diq.store.store import Store


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("sql") / "s.duckdb"
    fill_store(path, dots={"a": np.arange(20.0)}, difficulty=np.arange(20) % 5 + 1)
    return path


@pytest.fixture(autouse=True)
def _default_store(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(config.STORE_VARIABLE, str(store))


def test_an_answer_is_an_arrow_table_and_what_the_command_prints() -> None:
    query = "SELECT position, quadrant, dot FROM diq_select('pool', 'model', 0.1)"
    found = diq.sql(query)
    assert isinstance(found, pa.Table)
    assert found.num_rows == 2
    assert found.to_pylist() == json.loads(stdout_of(command, query, "--json"))["rows"]


def test_values_are_bound_by_name_or_in_order(store: Path) -> None:
    query = "SELECT count(*) AS n FROM dataset_samples WHERE position < {}"
    assert diq.sql(query.format("$most"), {"most": 7}, store=str(store)).to_pylist() == [{"n": 7}]
    assert diq.sql(query.format("?"), [7], store=store).to_pylist() == [{"n": 7}]


def test_a_query_changes_the_store_only_when_it_may() -> None:
    add, look = "INSERT INTO settings VALUES ('a', 'b')", "SELECT value FROM settings WHERE name = 'a'"
    with pytest.raises(UsageError, match="the query failed") as caught:
        diq.sql(add)
    assert "write=True" in caught.value.hint
    assert "--write" in caught.value.hint
    assert diq.sql(look).num_rows == 0
    diq.sql(add, write=True)
    assert diq.sql(look).to_pylist() == [{"value": "b"}]
    assert diq.sql("DROP TABLE IF EXISTS nothing", write=True).num_rows == 0


def test_wrong_use_is_one_line_and_a_hint(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="the query is empty"):
        diq.sql(" \n")
    with pytest.raises(UsageError, match="nowhere") as caught:
        diq.sql("FROM nowhere")
    assert "duckdb_tables()" in caught.value.hint
    with pytest.raises(StoreError, match="there is no store"):
        diq.sql("SELECT 1", store=tmp_path / "none.duckdb")
    path = tmp_path / ("n" * 300)
    for opens in (lambda: diq.sql("SELECT 1", store=path), lambda: diq.Store(path)):
        with pytest.raises(StoreError, match="cannot be reached: File name too long") as unreached:
            opens()
        assert len(unreached.value.message) < 200
    with pytest.raises(UsageError, match="the query is no text but `None`"):
        diq.sql(None)  # type: ignore[arg-type]
    for params in (5, "5"):
        with pytest.raises(UsageError, match="the params are neither names with values nor a list: `5`"):
            diq.sql("SELECT ?", params)  # type: ignore[arg-type]


VALUES = (
    "'nan'::DOUBLE AS a, [1.5, 'inf'::DOUBLE] AS b, {'x': '-inf'::FLOAT} AS c, MAP {1: 2} AS d, "
    "MAP {DATE '2026-01-01': [1]} AS e, '\\xAA\\x00'::BLOB AS f, INTERVAL '1 hour' AS g, "
    "UUID '00000000-0000-0000-0000-000000000001' AS h, 1.25::DECIMAL(20, 2) AS i, [UUID '1' || repeat('0', 31)] AS j, "
    "123456789012345678901234567890::HUGEINT AS k, TIME '12:00' AS l, NULL AS m, true AS n, 'é' AS o"
).replace("[UUID '1' || repeat('0', 31)]", "['00000000-0000-0000-0000-000000000001'::UUID]")


def test_json_is_valid_whatever_is_in_it() -> None:
    def refuse(text: str) -> None:
        raise AssertionError(text)

    printed = stdout_of(command, f"SELECT {VALUES}", "--json")
    (row,) = json.loads(printed, parse_constant=refuse)["rows"]
    number = "00000000-0000-0000-0000-000000000001"
    assert row == {
        "a": None, "b": [1.5, None], "c": {"x": None}, "d": {"1": 2}, "e": {"2026-01-01": [1]}, "f": "aa00",
        "g": "1:00:00", "h": number, "i": 1.25, "j": [number], "k": 123456789012345678901234567890, "l": "12:00:00",
        "m": None, "n": True, "o": "é",
    }  # fmt: skip


def test_a_store_is_shown_by_its_path(store: Path) -> None:
    with Store(store, read_only=True) as opened:
        assert repr(opened) == f"Store('{store}')"


def test_columns_of_one_name_are_told_apart(tmp_path: Path) -> None:
    query, names = "SELECT 1 AS a, 2 AS a, 3 AS a_1, 4 AS a", ["a", "a_1", "a_1_1", "a_2"]
    assert json.loads(stdout_of(command, query, "--json")) == {
        "columns": names,
        "rows": [dict(zip(names, (1, 2, 3, 4), strict=True))],
    }
    assert diq.sql(query).to_pylist() == [dict(zip(names, (1, 2, 3, 4), strict=True))]
    stdout_of(command, query, "-o", tmp_path / "a.parquet")
    assert pq.read_schema(tmp_path / "a.parquet").names == names
    assert stdout_of(command, query, "--format", "csv").splitlines()[0] == ",".join(names)


def test_options_of_the_command_that_cannot_be(tmp_path: Path) -> None:
    assert invoke(command, "SELECT 1", "--max-rows", "-1").exit_code == 2
    assert (
        refused(command, "SELECT 1", "--json", "--max-rows", "3").message == "--max-rows has no effect without a table"
    )
    assert refused(command, "SELECT 1", "--json", "--format", "csv").message == "--format has no effect with --json"
    (tmp_path / "q.sql").write_bytes(b"SELECT '\xff'")
    assert "cannot be read" in refused(command, "-f", tmp_path / "q.sql").message


def test_the_command_loads_duckdb_and_click_alone(store: Path) -> None:
    code = (
        "import sys\nfrom diq.cli import diq\ndiq.main(sys.argv[1:], standalone_mode=False)\n"
        "heavy = {'duckdb', 'numpy', 'pandas', 'pyarrow', 'rich', 'torch'}\n"
        "print({name.split('.')[0] for name in sys.modules} & heavy)"
    )
    command = [sys.executable, "-c", code, "sql", "SELECT 1 AS one", "--store", str(store)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "one" in done.stdout
    assert done.stdout.endswith("{'duckdb'}\n")


@pytest.mark.parametrize(
    "query",
    [
        "COPY (SELECT 1) TO '{}'",
        "/* x */ copy datasets to '{}' (format csv)",
        "SELECT 1; COPY (SELECT 1) TO '{}'",
        "EXPLAIN ANALYZE COPY (SELECT 1) TO '{}'",
        "-- why\nEXPLAIN (ANALYZE) COPY (SELECT 1) TO '{}'",
        "EXPORT DATABASE '{}'",
        "ATTACH '{}' AS other",
        "ATTACH '{}' AS other (READ_ONLY false)",
        "CREATE PERSISTENT SECRET s (TYPE http, BEARER_TOKEN '{}')",
        "SET log_query_path = '{}'",
        "SET profiling_output = '{}'",
        "PRAGMA enable_profiling; SET profiling_output = '{}'",
        "PREPARE p AS COPY (SELECT 1) TO '{}'",
        "CALL enable_logging(storage = 'file', storage_path = '{}')",
        "INSTALL '{}'",
        "LOAD '{}'",
        "CHECKPOINT -- {}",
    ],
)
def test_a_query_that_reads_writes_no_file(tmp_path: Path, query: str) -> None:
    with pytest.raises(UsageError, match="the query may only read") as caught:
        diq.sql(query.format(tmp_path / "out"))
    assert "--write" in caught.value.hint
    assert list(tmp_path.iterdir()) == []


def test_reading_of_any_kind_stays(store: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.duckdb"
    with duckdb.connect(str(other)) as made:
        made.execute("CREATE TABLE t AS SELECT 7 AS x")
    (tmp_path / "a.csv").write_text("x\n7\n", encoding="utf-8")
    for query in (
        f"FROM '{tmp_path}/a.csv'",
        f"ATTACH '{other}' AS other (READ_ONLY); SELECT x FROM other.t",
        "SET VARIABLE y = 7; SELECT getvariable('y') AS x",
        "CREATE TEMP TABLE mine AS SELECT 7 AS x; INSERT INTO mine VALUES (7); SELECT DISTINCT x FROM mine",
        "CREATE TEMP MACRO f(a) AS a + 1; SELECT f(6) AS x",
        "SET threads = 1; WITH a AS (SELECT 7 AS x) FROM a",
    ):
        assert diq.sql(query, store=store).to_pylist() == [{"x": 7}], query
    for query in (
        "EXPLAIN SELECT 1",
        "EXPLAIN ANALYZE SELECT 1",
        "DESCRIBE datasets",
        "SUMMARIZE datasets",
        "SHOW TABLES",
    ):
        assert diq.sql(query, store=store).num_rows, query
    assert diq.sql("PRAGMA table_info('datasets')", store=store).num_rows
    assert diq.sql("PIVOT (SELECT 1 AS a, 7 AS x) ON a USING sum(x)", store=store).num_rows == 1
    with pytest.raises(UsageError, match="read-only"):
        diq.sql(f"ATTACH '{other}' AS other (READ_ONLY); DELETE FROM other.t", store=store)


def test_no_query_fetches_an_extension(store: Path) -> None:
    found = diq.sql("SELECT name, value FROM duckdb_settings() WHERE name LIKE 'auto%_known_extensions'", store=store)
    assert {row["value"] for row in found.to_pylist()} == {"false"}
    assert found.num_rows == 2
