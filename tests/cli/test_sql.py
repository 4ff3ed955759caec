"""``diq sql -o``: the file of before is there until the new one is, and the store is none."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import click
import pytest

from conftest import fill_store, invoke, refused
from diq.base.errors import RunFailedError, UsageError
from diq.cli.results import results
from diq.cli.sql import sql
from diq.store.store import Store

MANY = "select range as a, md5(range::varchar) as b from range(30000)"


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("sql") / "s.duckdb"
    fill_store(path, dots={"a": [1.0, 2.0]}, difficulty=[1.0, 2.0])
    return path


@pytest.mark.parametrize("kind", ["csv", "json", "parquet"])
def test_a_full_disk_leaves_the_file_of_before(store: Path, small_disk: Callable[[int], Path], kind: str) -> None:
    disk = small_disk(256)
    output = disk / f"o.{kind}"
    run = [sql, "--store", store, "-o", output]
    assert invoke(sql, "select 'é' as a", *run[1:]).exit_code == 0
    before = output.read_bytes()
    error = refused(*run, MANY)
    assert isinstance(error, RunFailedError)
    assert error.message == f"the disk of `{disk}` is full: `o.{kind}` was not written"
    # a query that fails leaves it, too, and its error is its own
    for query in ("select if(range = 2999, error('late'), 'x') from range(3000)", f"from '{disk}/none.parquet'"):
        assert "the query failed" in refused(*run, query).message
    assert (output.read_bytes(), [one.name for one in disk.iterdir()]) == (before, [output.name])
    if kind == "json":
        assert json.loads(before) == {"columns": ["a"], "rows": [{"a": "é"}]}


@pytest.mark.parametrize("command", [sql, results])
def test_the_store_is_no_output(store: Path, tmp_path: Path, command: click.Command) -> None:
    content = store.read_bytes()
    (tmp_path / "link.csv").symlink_to(store)
    query = ["select 1"] if command is sql else []
    for output in (store, tmp_path / "link.csv", f"{store.parent}/../{store.parent.name}/{store.name}.wal"):
        error = refused(command, *query, "--store", store, "--format", "csv", "-o", output)
        assert isinstance(error, UsageError)
        assert error.message == f"the output `{output}` is the store"
    assert "cannot be written" in refused(command, *query, "--store", store, "-o", "/proc/o.csv").message
    assert store.read_bytes() == content
    with Store(store, read_only=True) as opened:
        assert len(opened.rows("store/list_datasets")) == 1
