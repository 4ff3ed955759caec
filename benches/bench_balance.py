"""Rankings in which tasks or sources take turns, next to the plain ranking of the same store.

Claim: of 10 million rows with four tasks, a first selection with `--balance tasks` or `--balance sources` (its ranking
is made and stored) takes no more than 5 times as long as the plain one; the order is compared with a slow form on the
first thousand places. The last two lines are the work on columns alone, without reading and writing.
Run: `python benches/bench_balance.py --rows 10`.
"""

from __future__ import annotations

import argparse
import logging
import os
import tempfile
import time
from pathlib import Path
from typing import Any

import duckdb
import numpy as np

from bench_store import build, by_sql
from diq.selection.balance import balanced, source_lists, task_lists
from diq.selection.quadrants import rank
from diq.selection.select import select
from diq.store.store import Store, now

LOOKED_AT = 1000


def timed(call: Any) -> tuple[float, Any]:
    """Seconds of a call, and what it returned."""
    start = time.perf_counter()
    found = call()
    return time.perf_counter() - start, found


def slow_start(path: Path, sets: int, quadrant_rows: int) -> list[int]:
    """The first places of the balance of tasks, by a search of each task's best of Q1 in every turn."""
    query = (
        "SELECT r.position FROM ranking_samples AS r JOIN dataset_samples AS d ON d.position = r.position "
        "JOIN influence_scores AS i ON i.sample_id = d.sample_id AND i.validation_set_id = ? "
        "WHERE r.ranking_id = 1 AND r.rank < ? ORDER BY i.dot DESC, r.rank LIMIT ?"
    )
    with duckdb.connect(str(path), read_only=True) as connection:
        best = [
            [p for (p,) in connection.execute(query, [number, quadrant_rows, LOOKED_AT]).fetchall()]
            for number in range(1, sets + 1)
        ]
    found: list[int] = []
    while len(found) < LOOKED_AT:
        for one in best:
            found.append(next(p for p in one if p not in found))
    return found[:LOOKED_AT]


def main() -> None:
    """Build a store, time first selections from it, check one, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=float, default=10, help="million rows")
    parser.add_argument("--sets", type=int, default=4, help="validation sets")
    parser.add_argument("--sources", type=int, default=20, help="sources")
    parser.add_argument("--dir", type=Path, help="where to write; default a temporary folder")
    options = parser.parse_args()
    logging.disable(logging.WARNING)
    n = int(options.rows * 1e6)
    print(f"{n:,} rows, {options.sets} tasks, {options.sources} sources, {os.cpu_count()} cores, {now():%Y-%m-%d}")
    with tempfile.TemporaryDirectory(prefix="diq-bench-", dir=options.dir) as folder:
        path = Path(folder) / "store.duckdb"
        build(path, rows=n, sets=options.sets, folds=False)
        with Store(path) as store:
            store.connection.execute("UPDATE dataset_samples SET source_id = 1 + hash(position) % ?", [options.sources])
        # warms the file
        by_sql(path, "SELECT sum(dot) FROM influence_scores")
        plain = None
        for balance in (None, "tasks", "sources"):
            taken, made = timed(
                lambda balance=balance: select("pool", ratio="0.01", store=path, model="model", balance=balance)
            )
            assert made.ranking == "new", made
            plain = plain or taken
            print(f"first selection, balance {balance}: {taken:6.1f} s, {taken / plain:.2f} times the plain one")
            if balance == "tasks":
                read = "SELECT position FROM selection_samples WHERE selection_id = ? AND rank < ? ORDER BY rank"
                with duckdb.connect(str(path), read_only=True) as connection:
                    mine = [p for (p,) in connection.execute(read, [made.selection_id, LOOKED_AT]).fetchall()]
                expected = slow_start(path, options.sets, made.counts["dataset"]["Q1"])
                assert mine == expected[: len(mine)], "the slow form differs"
    rng = np.random.default_rng(0)
    dots = [rng.standard_normal(n) for _ in range(options.sets)]
    pooled, level = np.mean(dots, axis=0), rng.integers(1, 6, n).astype(float)
    source = rng.integers(0, options.sources, n).astype(np.uint16)
    ranking, made = timed(lambda: rank(pooled, level))
    for name, lists in (
        ("tasks", lambda rows: task_lists(rows, dots)),
        ("sources", lambda rows: source_lists(rows, source)),
    ):
        more, _ = timed(lambda lists=lists: balanced(made.rows, made.counts, lists))
        print(f"columns alone: ranking {ranking:.2f} s, turns of {name} {more:.2f} s more")


if __name__ == "__main__":
    main()
