"""Selections from a store: the first one, every later one, and the same selection by SQL alone.

Claim: once a ranking is stored, another ratio costs the check that no score has changed and one row; taking 10 % of 10
million rows is at least 20 times faster than ranking them again in SQL. Each time is taken on a warm file, in a process
that opens the store anew, and the rows of both ways are compared before anything is printed.
Run: `python benches/bench_store.py --rows 10`.
"""

from __future__ import annotations

import argparse
import logging
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import duckdb

from diq.selection.select import select as run
from diq.store.store import Store, now

# rows as SQL, so that the bench does not wait for Python; every 1000th sample lacks a dot
FILL = """
INSERT INTO datasets VALUES (1, 'pool', 'training', TIMESTAMP '2026-01-01');
INSERT INTO dataset_samples
SELECT 1, i, CAST(md5(CAST(i AS VARCHAR)) AS UUID), 1, i + 1, 'train', NULL FROM range({rows}) AS t(i);
INSERT INTO validation_sets
SELECT i, 'task' || i, NULL, 20, NULL, TIMESTAMP '2026-01-01' FROM range(1, {sets} + 1) AS t(i);
INSERT INTO run_validation_sets (run_id, validation_set_id, fold_sizes)
SELECT 1, i, {fold_sizes} FROM range(1, {sets} + 1) AS t(i);
INSERT INTO difficulty_scores (run_id, sample_id, knowledge, reasoning, overall)
SELECT 2, sample_id, level, level, level
FROM (SELECT sample_id, CAST(1 + hash(position) % 5 AS DOUBLE) AS level FROM dataset_samples);
"""
# in an order of their own, as batches by length leave them
FILL_SET = """
INSERT INTO influence_scores (run_id, sample_id, validation_set_id, dot, fold_dots, loss, answer_tokens)
SELECT
    1, sample_id, {set}, CASE WHEN position % 1000 <> 7 THEN (a + b) / 2 END, {folds}, 1.0, CAST(100 * b AS INTEGER)
FROM (
    SELECT
        sample_id,
        position,
        CAST(CAST(hash(position, 'a', {set}) % 1000003 AS FLOAT) / 1000003 - 0.5 AS DOUBLE) AS a,
        CAST(CAST(hash(position, 'b', {set}) % 1000003 AS FLOAT) / 1000003 - 0.5 AS DOUBLE) AS b
    FROM dataset_samples
)
ORDER BY hash(position)
"""


def build(path: Path, *, rows: int, sets: int, folds: bool) -> None:
    """A store with one scored dataset of so many rows."""
    with Store(path, create=True) as store:
        with store.transaction():
            store.add_model(model_id="id-model", name="model", source="bench", architecture=None, n_parameters=None)
            for kind, method, model in (("influence", "exact", "id-model"), ("difficulty", "columns", None)):
                run_id = store.open_run(
                    kind=kind, method=method, model_id=model, fingerprint=kind, settings={}, environment={}
                )
                store.start_scoring(run_id, 1)
                store.seal(run_id, 1)
        store.connection.execute(FILL.format(rows=rows, sets=sets, fold_sizes="[10, 10]" if folds else "NULL"))
        for number in range(1, sets + 1):
            store.connection.execute(FILL_SET.format(set=number, folds="[a, b]" if folds else "NULL"))
        store.connection.execute("CHECKPOINT")


def timed(call: Callable[[], Any], times: int) -> tuple[float, Any]:
    """Median seconds of a call, and what it returned last."""
    seconds, found = [], None
    for _ in range(times):
        start = time.perf_counter()
        found = call()
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds), found


def by_sql(path: Path, query: str) -> Any:
    """The answer of a query, as a DuckDB client gets it that has just opened the store."""
    with duckdb.connect(str(path), read_only=True) as connection:
        return connection.sql(query).to_arrow_table()


def main() -> None:
    """Build a store, time selections from it, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=float, default=10, help="million rows")
    parser.add_argument("--sets", type=int, default=1, help="validation sets")
    parser.add_argument("--no-folds", action="store_true", help="dots without folds: no ranking by halves")
    parser.add_argument("--times", type=int, default=5, help="repetitions of what is fast")
    parser.add_argument("--dir", type=Path, help="where to write; default a temporary folder")
    options = parser.parse_args()
    # the made-up dots of two halves disagree, which need not be said each time
    logging.disable(logging.WARNING)
    rows = int(options.rows * 1e6)
    with tempfile.TemporaryDirectory(prefix="diq-bench-", dir=options.dir) as folder:
        path = Path(folder) / "store.duckdb"
        build(path, rows=rows, sets=options.sets, folds=not options.no_folds)
        before = path.stat().st_size
        print(f"{rows:,} rows, {options.sets} validation sets, {os.cpu_count()} cores, {now():%Y-%m-%d}")

        def select(ratio: str) -> Any:
            return run("pool", ratio=ratio, store=path, model="model")

        # warms the file
        by_sql(path, "SELECT sum(dot) FROM influence_scores")
        first, made = timed(lambda: select("0.01"), 1)
        assert made.ranking == "new", made
        print(f"first selection, which makes and stores the ranking: {first:.1f} s")
        for percent in (1, 10, 50):
            ratio = str(percent / 100)
            later, made = timed(lambda ratio=ratio: select(ratio), options.times)
            assert made.ranking == "stored", made
            read = f"SELECT rank, position, sample_id FROM selection_samples WHERE selection_id = {made.selection_id}"
            reading, mine = timed(lambda read=read: by_sql(path, read), options.times)
            sql = f"SELECT rank, position, sample_id FROM diq_select('pool', 'model', {ratio})"
            again, theirs = timed(lambda sql=sql: by_sql(path, sql), 1)
            assert mine.sort_by("rank").equals(theirs.sort_by("rank")), f"SQL selects other rows at {percent} %"
            print(
                f"{percent:3} %: later selection {later * 1e3:6.0f} ms, its {made.n:,} ids read by SQL "
                f"{reading * 1e3:6.0f} ms; ranked again in SQL {again * 1e3:8.0f} ms: "
                f"{again / later:.0f} times the selection, {again / (later + reading):.0f} with the ids"
            )
        print(f"store {before / 1e6:,.0f} MB, with the ranking {path.stat().st_size / 1e6:,.0f} MB")


if __name__ == "__main__":
    main()
