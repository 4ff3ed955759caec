"""``diq.sql``: any query as an Arrow table, with one line and a hint where it goes wrong."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

import diq
from conftest import fill_store, stdout_of
from diq.base import config
from diq.base.errors import StoreError, UsageError
from diq.cli.sql import sql as command


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
