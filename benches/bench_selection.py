"""Selections from arrays of scores: ours, numpy, polars, DuckDB and pandas, next to one read of the two columns.

Claim: from 10 million rows (float32 dots with ties, ratings from 1 to 5), both thresholds included, 1 % and 10 % are
taken at least 8 times faster than by the fastest of the others, 50 % at least 4 times; extra memory, the result
included, stays below 12 bytes a row. Everybody gets the same columns in the form it likes best, and must return the
same rows.
Run: `python benches/bench_selection.py`; the others are installed by `make bench`.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import date
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa

import diq

RATIOS = {"1 %": "0.01", "10 %": "0.1", "50 %": "0.5"}
GROWTH = (1, 2, 5, 10, 20)


def columns(n: int, decimals: int, seed: int = 0) -> tuple[Any, Any]:
    """Dots of a few decimals, so that they tie, and ratings; every 1000th row lacks one of them."""
    rng = np.random.default_rng(seed)
    dot = np.round(rng.standard_normal(n, np.float32), decimals)
    level = rng.choice(np.asarray([1, 2, 2, 3, 3, 3, 3, 4, 4, 5], np.float32), n)
    dot[::1000] = np.nan
    level[500::1000] = np.nan
    return dot, level


def read_once(dot: Any, level: Any, threads: int) -> Callable[[], Any]:
    """The floor: every byte of both columns, by all threads."""
    parts = [part for column in (dot, level) for part in np.array_split(column.view(np.uint32), threads)]
    pool = ThreadPoolExecutor(threads)
    return lambda: list(pool.map(np.max, parts))


def by_numpy(dot: Any, level: Any, ratio: float) -> Any:
    """Only the quadrants of the prefix are sorted, and of the last one only what is wanted of it."""
    rows = np.flatnonzero(np.isfinite(dot) & np.isfinite(level))
    dots, levels = dot[rows], level[rows]
    tau, median = np.quantile(levels, 0.5), np.quantile(dots, 0.5)
    quadrant = 1 + (levels < tau) + 2 * (dots < median)
    k, taken = int(len(rows) * ratio), []
    for number in (1, 2, 3, 4):
        mine = np.flatnonzero(quadrant == number)
        if k < len(mine):
            # whatever ties with the last wanted dot may still be in
            least = np.partition(dots[mine], len(mine) - k)[len(mine) - k]
            mine = mine[dots[mine] >= least]
        mine = mine[np.lexsort((rows[mine], -levels[mine], -dots[mine]))][:k]
        taken.append(rows[mine])
        k -= len(mine)
        if not k:
            break
    return np.concatenate(taken)


def by_pandas(frame: Any, ratio: float) -> Any:
    """Sort the scored rows by all keys."""
    scored = frame[np.isfinite(frame["dot"]) & np.isfinite(frame["level"])]
    tau, median = scored["level"].quantile(0.5), scored["dot"].quantile(0.5)
    quadrant = 1 + (scored["level"] < tau) + 2 * (scored["dot"] < median)
    order = scored.assign(quadrant=quadrant).sort_values(
        ["quadrant", "dot", "level", "row"], ascending=[True, False, False, True]
    )
    return order["row"].head(int(len(scored) * ratio)).to_numpy()


def by_polars(frame: Any, ratio: float, *, lazy: bool) -> Any:
    """As a lazy query, in which polars pushes the limit into the sort, or as a stable sort of all rows."""
    import polars as pl

    scored = frame.lazy().filter(pl.col("dot").is_finite() & pl.col("level").is_finite())
    scored = scored if lazy else scored.collect().lazy()
    tau, median, n = (
        scored.select(
            pl.col("level").quantile(0.5, "linear").alias("tau"),
            pl.col("dot").quantile(0.5, "linear").alias("median"),
            pl.len().alias("n"),
        )
        .collect()
        .row(0)
    )
    quadrant = 1 + (pl.col("level") < tau).cast(pl.Int8) + 2 * (pl.col("dot") < median).cast(pl.Int8)
    placed = scored.with_columns(quadrant=quadrant)
    if lazy:
        order = placed.sort("quadrant", "dot", "level", "row", descending=[False, True, True, False])
        return order.head(int(n * ratio)).select("row").collect().to_series().to_numpy()
    keys = ("quadrant", "dot", "level")
    order = placed.collect().sort(*keys, descending=[False, True, True], maintain_order=True)
    return order["row"].head(int(n * ratio)).to_numpy()


def by_duckdb(connection: duckdb.DuckDBPyConnection, ratio: float) -> Any:
    """One statement; its LIMIT makes the sort a top-n where DuckDB finds that cheaper."""
    tau, median, n = connection.execute(
        "SELECT quantile_cont(level, 0.5), quantile_cont(dot, 0.5), count(*) FROM scores "
        "WHERE isfinite(dot) AND isfinite(level)"
    ).fetchall()[0]
    return connection.execute(
        "SELECT row FROM scores WHERE isfinite(dot) AND isfinite(level) ORDER BY "
        "1 + CAST(level < $tau AS INTEGER) + 2 * CAST(dot < $median AS INTEGER), dot DESC, level DESC, row LIMIT $n",
        {"tau": tau, "median": median, "n": int(n * ratio)},
    ).fetchnumpy()["row"]


def contestants(dot: Any, level: Any, threads: int) -> dict[str, Callable[[str], Any]]:
    """Each way to select, given the ratio as text."""
    arrow = pa.table({"dot": dot, "level": level, "row": np.arange(len(dot))})
    connection = duckdb.connect(config={"threads": threads})
    connection.register("arrow", arrow)
    connection.execute("CREATE TABLE scores AS FROM arrow")
    ways: dict[str, Callable[[str], Any]] = {
        "diq": lambda ratio: diq.rank(dot, level, ratio=ratio).rows,
        "numpy": lambda ratio: by_numpy(dot, level, float(ratio)),
        "DuckDB": lambda ratio: by_duckdb(connection, float(ratio)),
    }
    try:
        import polars as pl

        frame = pl.DataFrame({"dot": dot, "level": level, "row": np.arange(len(dot))})
        ways["polars (lazy)"] = lambda ratio: by_polars(frame, float(ratio), lazy=True)
        ways["polars (sort)"] = lambda ratio: by_polars(frame, float(ratio), lazy=False)
    except ImportError:
        print("polars is missing: `make bench` installs it", file=sys.stderr)
    try:
        import pandas as pd

        table = pd.DataFrame({"dot": dot, "level": level, "row": np.arange(len(dot))})
        ways["pandas"] = lambda ratio: by_pandas(table, float(ratio))
    except ImportError:
        print("pandas is missing: `make bench` installs it", file=sys.stderr)
    return ways


def seconds_of(call: Callable[[], Any], times: int) -> tuple[float, float]:
    """Median and 20th percentile of so many calls."""
    seconds = []
    for _ in range(times):
        start = time.perf_counter()
        call()
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds), float(np.quantile(seconds, 0.2))


def extra_bytes(n: int, decimals: int) -> int:
    """By how much one ranking of 10 % raises the memory of a process at its highest. Linux only."""
    code = (
        "import sys; sys.path.insert(0, sys.argv[1]); import bench_selection as b; "
        "print(b.peak_of_one(int(sys.argv[2]), int(sys.argv[3])))"
    )
    arguments = [str(Path(__file__).parent), str(n), str(decimals)]
    done = subprocess.run([sys.executable, "-c", code, *arguments], check=True, capture_output=True, text=True)
    return int(done.stdout)


def peak_of_one(n: int, decimals: int) -> int:
    """The same, in this process, which must not have ranked as much before."""
    dot, level = columns(n, decimals)
    # threads and code are there before anything is measured
    diq.rank(dot[:1000], level[:1000])
    Path("/proc/self/clear_refs").write_text("5")
    before = _status("VmRSS")
    diq.rank(dot, level, ratio="0.1")
    return _status("VmHWM") - before


def _status(name: str) -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(name):
            return int(line.split()[1]) * 1024
    raise SystemExit(f"this system tells no {name}")


def race(n: int, decimals: int, times: int, threads: int) -> None:
    """The table of everybody at every ratio."""
    dot, level = columns(n, decimals)
    floor, _ = seconds_of(read_once(dot, level, threads), 20)
    print(f"{n:,} rows, dots of {decimals} decimals ({len(np.unique(dot)):,} values), {threads} threads")
    print(f"  one read of both columns {floor * 1e3:8.1f} ms")
    ways = contestants(dot, level, threads)
    for label, ratio in RATIOS.items():
        rows = {name: way(ratio) for name, way in ways.items()}
        for name, found in rows.items():
            assert np.array_equal(found, rows["diq"]), f"{name} selects other rows at {label}"
        medians = {
            name: seconds_of(lambda way=way, ratio=ratio: way(ratio), times if name == "diq" else 3)[0]
            for name, way in ways.items()
        }
        mine = medians.pop("diq")
        best = min(medians, key=lambda name: medians[name])
        print(
            f"  {label:>5} diq {mine * 1e3:7.1f} ms ({mine / floor:5.1f} reads); "
            + ", ".join(f"{name} {seconds * 1e3:,.0f}" for name, seconds in medians.items())
            + f"; fastest of them ({best}) / diq {medians[best] / mine:.1f}"
        )


def growth(decimals: int, times: int) -> None:
    """Time and memory over the number of rows, with the exponents."""
    print("growth, 10 %: rows, ms, extra bytes a row (the result included)")
    sizes, medians = [], []
    for millions in GROWTH:
        n = millions * 1_000_000
        dot, level = columns(n, decimals)
        median, _ = seconds_of(lambda dot=dot, level=level: diq.rank(dot, level, ratio="0.1"), times)
        extra = extra_bytes(n, decimals)
        sizes.append(n)
        medians.append(median)
        print(f"  {n:>12,} {median * 1e3:8.1f} {extra / n:8.2f}")
    print(f"  time grows with the power {np.polyfit(np.log(sizes), np.log(medians), 1)[0]:.2f} of the rows")


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=float, default=10, help="million rows")
    parser.add_argument("--decimals", type=int, default=3, help="decimals of the dots: fewer tie more")
    parser.add_argument("--times", type=int, default=11, help="repetitions of ours")
    options = parser.parse_args()
    threads = int(os.environ.get("RAYON_NUM_THREADS", os.cpu_count() or 1))
    print(f"{date.today()}, {threads} threads")
    race(int(options.rows * 1e6), options.decimals, options.times, threads)
    growth(options.decimals, options.times)


if __name__ == "__main__":
    main()
