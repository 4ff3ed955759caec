"""`diq check` finds what is not as it was written, and `diq backup` copies what is."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pytest

import diq
from conftest import fill_store, run_forked
from diq.base.errors import StoreError, UsageError
from diq.cli import main

N = 600


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with samples, scores, rankings and selections."""
    path = tmp_path_factory.mktemp("check") / "s.duckdb"
    rng = np.random.default_rng(0)
    fill_store(path, dots={"a": rng.normal(size=N), "b": rng.normal(size=N)}, difficulty=rng.integers(1, 6, N))
    diq.select("pool", ratio="0.1", model="model", store=path)
    diq.select("pool", ratio="0.1", strategy="random", store=path)
    return path


@pytest.fixture
def store(filled: Path, tmp_path: Path) -> Path:
    return Path(shutil.copy(filled, tmp_path))


def contents(path: Path) -> dict[str, Any]:
    """Every row of every table, as DuckDB reads it."""
    with duckdb.connect(str(path), read_only=True) as opened:
        names = [name for (name,) in opened.execute("SELECT table_name FROM duckdb_tables()").fetchall()]
        return {
            name: opened.execute(f'SELECT count(*), bit_xor(hash(x)) FROM "{name}" AS x').fetchall() for name in names
        }


def test_a_whole_store_has_no_finding_and_is_not_written(store: Path) -> None:
    before = store.read_bytes()
    found = diq.check(store=store)
    assert found.findings == []
    assert (found.n_samples, found.n_rankings, found.n_files) == (N, 2, 0)
    assert found.n_tables > 20
    assert store.read_bytes() == before
    assert [one.name for one in store.parent.iterdir()] == [store.name]


@pytest.mark.slow
@pytest.mark.parametrize(
    "seeds", [range(6), pytest.param(range(6, 2000), marks=[pytest.mark.exhaustive, pytest.mark.timeout(7200)])]
)
def test_no_flipped_bit_is_silent(filled: Path, tmp_path: Path, seeds: range) -> None:
    """A flip is found, or changes nothing that can be read."""
    data, whole = filled.read_bytes(), contents(filled)
    n_found = 0
    for seed in seeds:
        rng = np.random.default_rng(seed)
        place, bit = int(rng.integers(len(data))), int(rng.integers(8))
        broken = bytearray(data)
        broken[place] ^= 1 << bit
        path = tmp_path / f"{seed}.duckdb"
        path.write_bytes(broken)
        try:
            found = diq.check(store=path)
        except StoreError as error:
            # it cannot be opened at all
            n_found += "\n" not in error.message
        else:
            if found.findings:
                assert all(one.problem and one.remedy for one in found.findings)
                n_found += 1
            else:
                assert contents(path) == whole, f"bit {bit} of byte {place} changes what is read, and nothing says so"
        path.unlink()
    assert n_found > len(seeds) // 4


@pytest.mark.slow
def test_a_damaged_block_is_one_line_of_every_command(store: Path, tmp_path: Path) -> None:
    """In most blocks of the file, of every command that reads them."""
    data = store.read_bytes()
    block = 256 * 1024
    n_told = 0
    for number in range(0, len(data) // block, 6):
        broken = bytearray(data)
        # behind the checksum of the block
        broken[3 * 4096 + number * block + 5000 : 3 * 4096 + number * block + 5008] = b"damaged!"
        store.write_bytes(broken[: len(data)])
        for command in (
            ["status"],
            ["select", "pool", "--model", "model", "--ratio", "0.2"],
            ["sql", "select max(dot) from influence_scores"],
            ["show", "pool"],
        ):
            done = run_forked(main, [*command, "--store", str(store)], folder=tmp_path)
            assert "Traceback" not in done.stderr, done.stderr
            if done.returncode:
                assert done.stderr.startswith("Error: "), done.stderr
                n_told += 1
    assert n_told


def change(store: Path, statement: str) -> None:
    with duckdb.connect(str(store)) as opened:
        opened.execute(statement)


DAMAGE: dict[str, tuple[str, str, str]] = {
    "a text": (
        "UPDATE samples SET messages = replace(messages::VARCHAR, 'a', 'b')::JSON "
        "WHERE sample_id = (SELECT min(sample_id) FROM samples)",
        "table samples",
        "is not that of its id",
    ),
    "a rank": (
        "UPDATE ranking_samples SET dot = dot + 1e-12 WHERE ranking_id = 1 AND rank = 7",
        "ranking 1 of dataset `pool`",
        "are not those that it was stored with",
    ),
    "a dot": (
        "DELETE FROM influence_scores WHERE validation_set_id = 2 AND sample_id IN (SELECT sample_id FROM "
        "dataset_samples WHERE position = 5)",
        "run 1",
        "of the validation set `b` it has the dots of 599 samples",
    ),
    "a column": ("ALTER TABLE exclusions DROP COLUMN reason", "column exclusions.reason", "is missing"),
}


@pytest.mark.parametrize("what", DAMAGE)
def test_what_was_changed_is_found(store: Path, what: str) -> None:
    statement, part, problem = DAMAGE[what]
    change(store, statement)
    (found,) = diq.check(store=store).findings
    assert found.part == part
    assert problem in found.problem
    assert found.state == "damaged"


def test_repair_marks_what_a_command_makes_again(store: Path) -> None:
    chosen = diq.sql("SELECT * FROM selection_samples ORDER BY ALL", store=store).to_pylist()
    change(store, DAMAGE["a rank"][0])
    found = diq.check(store=store, repair=True)
    assert [one.state for one in found.findings] == ["repaired"]
    assert found.n_damaged == 0
    again = diq.select("pool", ratio="0.1", model="model", store=store)
    assert again.ranking == "renewed"
    assert diq.check(store=store).findings == []
    query = "SELECT * EXCLUDE (selection_id) FROM selection_samples WHERE selection_id = $id ORDER BY rank"
    mine = diq.sql(query, {"id": again.selection_id}, store=store).to_pylist()
    assert [row["position"] for row in mine] == [row["position"] for row in chosen if row["selection_id"] == 1]


def test_a_run_that_lacks_a_score_is_open_after_a_repair(store: Path) -> None:
    change(store, DAMAGE["a dot"][0])
    (found,) = diq.check(store=store, repair=True).findings
    assert "--validation-set b" in found.remedy
    with pytest.raises(diq.DiqError, match="not finished"):
        diq.select("pool", ratio="0.3", model="model", store=store)


@pytest.mark.parametrize("damage", ["missing", "changed"])
def test_files_of_answers_and_factors(store: Path, damage: str) -> None:
    files = [store.parent / "s.generations" / "a.parquet", store.parent / "s.duckdb.factors" / "x" / "values.bin"]
    for one in files:
        one.parent.mkdir(parents=True)
        one.write_bytes(b"what was written")
    from diq import _core

    hashed = _core.file_hash(str(files[0]))
    change(
        store,
        "INSERT INTO generation_files VALUES "
        f"(1, 'b', 'q', 0, 0, 's.generations/a.parquet', 3, 1, '{hashed}', TIMESTAMP '2026-01-01')",
    )
    (files[1].parent / "factors.json").write_text(f'{{"files": {{"values.bin": "{hashed}"}}, "sample_ids": []}}')
    found = diq.check(store=store)
    assert (found.findings, found.n_files) == ([], 2)
    for one in files:
        if damage == "missing":
            one.unlink()
        else:
            one.write_bytes(b"what was not")
    answers, factors = diq.check(store=store).findings
    assert answers.part.startswith("answers ")
    assert "3 outputs" in answers.remedy
    assert factors.part.startswith("factors ")
    assert diq.sql("FROM generation_files", store=store).num_rows == 1
    diq.check(store=store, repair=True)
    assert diq.sql("FROM generation_files", store=store).num_rows == 0


def test_the_command(store: Path, tmp_path: Path) -> None:
    done = run_forked(main, ["check", str(store)], folder=tmp_path)
    assert done.returncode == 0
    assert "600 samples, 2 rankings, 0 files" in done.stdout
    assert "nothing damaged" in done.stdout
    change(store, DAMAGE["a text"][0])
    done = run_forked(main, ["check", "--store", str(store)], folder=tmp_path)
    assert done.returncode == 1
    assert "1 damaged" in done.stdout
    assert run_forked(main, ["check", str(store), "--json"], folder=tmp_path).returncode == 1


# copies --------------------------------------------------------------------------------------------------------------


def test_a_copy_is_the_store_while_others_read(store: Path, tmp_path: Path) -> None:
    with duckdb.connect(str(store), read_only=True):
        made = diq.backup(tmp_path / "copy.duckdb", store=store)
    assert contents(tmp_path / "copy.duckdb") == contents(store)
    assert diq.check(store=tmp_path / "copy.duckdb").findings == []
    assert made.beside == []
    (tmp_path / "s.generations").mkdir()
    assert diq.backup(tmp_path / "other.duckdb", store=store).beside == [str(tmp_path / "s.generations")]
    with pytest.raises(UsageError, match="is there already"):
        diq.backup(tmp_path / "copy.duckdb", store=store)
    with pytest.raises(UsageError, match="is the store"):
        diq.backup(store, store=store)


KILLED = """
import os, signal, sys, duckdb
opened = duckdb.connect(sys.argv[1])
opened.execute("SET checkpoint_threshold = '1TB'")
opened.execute("INSERT INTO settings VALUES ('from the log', 'x')")
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_copy_holds_what_a_killed_writer_left_in_the_log(
    store: Path, tmp_path: Path, read_only: Callable[[Path], None]
) -> None:
    subprocess.run([sys.executable, "-c", KILLED, str(store)], check=False)
    log = store.with_name(f"{store.name}.wal")
    assert log.stat().st_size
    diq.backup(tmp_path / "copy.duckdb", store=store)
    assert log.stat().st_size, "a reader left the log as it is"
    query = "SELECT value FROM settings WHERE name = 'from the log'"
    assert diq.sql(query, store=tmp_path / "copy.duckdb").num_rows == 1
    assert sorted(one.name for one in tmp_path.iterdir()) == ["copy.duckdb", store.name, log.name]


def test_a_damaged_log_is_named(store: Path) -> None:
    subprocess.run([sys.executable, "-c", KILLED, str(store)], check=False)
    log = store.with_name(f"{store.name}.wal")
    broken = bytearray(log.read_bytes())
    broken[len(broken) // 2] ^= 0xFF
    log.write_bytes(broken)
    told = ""
    try:
        # DuckDB may leave out the broken end of the log
        assert diq.check(store=store).n_damaged == 0
    except StoreError as error:
        told = f"{error.message} {error.hint}"
    assert not told or str(log) in told or "is damaged" in told
