"""Streaming dots: stored gradients times validation gradients, next to the machine's read bandwidth and to others.

Claim: the dots of 200,000 x 4096 float16 gradients (page cache warm) with one vector run at 90 % or more of the
measured read bandwidth of the same files, and nine vectors share the read. bfloat16 and int8 stand beside it; torch,
numpy and DuckDB do the same product, each on the part that it gets through in a reasonable time, as bytes a second.
Run: `python benches/bench_dots.py`; `RAYON_NUM_THREADS` sets the threads.
"""

from __future__ import annotations

import argparse
import mmap
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import date
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa

from diq.gradient_index.index import GradientIndex, ShardRecord
from diq.gradient_index.numbers import Element

ELEMENTS: tuple[Element, ...] = ("float16", "bfloat16", "int8")
SHARD_ROWS = 25_000
OTHERS_ROWS = 25_000
DUCKDB_ROWS = 5_000


def write(folder: Path, element: Element, rows: int, dim: int) -> tuple[GradientIndex, list[ShardRecord]]:
    """An index of random gradients, in shards of 25,000 rows."""
    rng = np.random.default_rng(0)
    index = GradientIndex.create(folder, {"kind": "sparse", "dim": dim}, element=element)
    records = []
    for start in range(0, rows, SHARD_ROWS):
        n = min(SHARD_ROWS, rows - start)
        gradients = rng.standard_normal((n, dim), np.float32)
        ids = [f"{start + i:032x}" for i in range(n)]
        ids = [f"{one[:8]}-{one[8:12]}-{one[12:16]}-{one[16:20]}-{one[20:]}" for one in ids]
        records.append(index.write_shard(len(records), gradients, ids, np.ones(n), np.ones(n)))
    return index, records


def median_seconds(call: Callable[[], Any], times: int) -> float:
    """Median of so many calls, after one that does not count."""
    call()
    seconds = []
    for _ in range(times):
        start = time.perf_counter()
        call()
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds)


def read_bandwidth(paths: list[Path], threads: int, times: int) -> float:
    """Bytes a second of the fastest plain read of the mapped files by all threads: the limit of all that reads them."""
    maps = []
    for path in paths:
        with path.open("rb") as file:
            maps.append(np.frombuffer(mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ), np.uint8))
    parts = [part for one in maps for part in np.array_split(one[: len(one) // 64 * 64], threads)]
    parts = [part[: len(part) // 8 * 8].view(np.uint64) for part in (part[-part.ctypes.data % 8 :] for part in parts)]
    total = sum(len(one) for one in maps)
    reads: dict[str, Callable[[Any], Any]] = {"max": np.max, "or": np.bitwise_or.reduce, "sum": np.sum}
    with ThreadPoolExecutor(threads) as pool:
        return max(
            total / median_seconds(lambda read=read: list(pool.map(read, parts)), times) for read in reads.values()
        )


def torch_ways(gradients: Any, vectors: Any) -> dict[str, Callable[[], Any]]:
    """torch on float16 in memory: in float16, and widened first."""
    import torch

    half, wide = torch.from_numpy(gradients), torch.from_numpy(vectors)
    narrow = wide.to(torch.float16)
    return {
        "torch float16": lambda: half @ narrow.T,
        "torch widened": lambda: half.float() @ wide.T,
    }


def show(name: str, n: int, rate: float, limit: float) -> None:
    """One line of the table."""
    vectors = f"{n} vector{'s' * (n > 1)}"
    print(f"  {name}, {vectors}: {rate / 1e9:5.1f} GB/s, {100 * rate / limit:3.0f} % of the read bandwidth")


def race(index: GradientIndex, records: list[ShardRecord], vectors: Any, limit: float, times: int) -> None:
    """Ours, checked against float64 first."""
    expected = index.read(records[0]).gradients[:500].astype(np.float64) @ vectors.astype(np.float64).T
    found = index.dots(records[0], vectors)[:500]
    assert np.abs(found - expected).max() < 1e-3 * np.sqrt(index.dim), "wrong dots"
    n_bytes = sum(record.n_bytes for record in records)
    for n in (1, len(vectors)):
        some = np.ascontiguousarray(vectors[:n])

        def ours(some: Any = some) -> None:
            for record in records:
                index.dots(record, some)

        show("diq", n, n_bytes / median_seconds(ours, times), limit)


def race_others(gradients: Any, vectors: Any, limit: float, threads: int) -> None:
    """The others, on float16 gradients in memory."""
    for n in (1, len(vectors)):
        some = np.ascontiguousarray(vectors[:n])
        ways = torch_ways(gradients, some)
        ways["numpy"] = lambda some=some: gradients.astype(np.float32) @ some.T
        for name, way in ways.items():
            show(name, n, gradients.nbytes / median_seconds(way, 3), limit)
    dim = gradients.shape[1]
    lists = pa.FixedSizeListArray.from_arrays(pa.array(gradients[:DUCKDB_ROWS].astype(np.float32).ravel()), dim)
    query = f"SELECT sum(array_inner_product(g, $v::FLOAT[{dim}])) FROM gradients"
    with duckdb.connect(config={"threads": threads}) as connection:
        connection.register("incoming", pa.table({"g": lists}))
        connection.execute("CREATE TABLE gradients AS FROM incoming")
        numbers = vectors[0].tolist()
        seconds = median_seconds(lambda: connection.execute(query, {"v": numbers}).fetchall(), 3)
    # as the bytes that float16 would take, though DuckDB has to keep float32
    show("DuckDB", 1, 2 * DUCKDB_ROWS * dim / seconds, limit)


def main() -> None:
    """Write the shards, check the dots, print the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=200_000)
    parser.add_argument("--dim", type=int, default=4096)
    parser.add_argument("--times", type=int, default=9)
    parser.add_argument("--dir", type=Path, help="where to write; default a temporary folder")
    options = parser.parse_args()
    threads = int(os.environ.get("RAYON_NUM_THREADS", os.cpu_count() or 1))
    vectors = np.random.default_rng(1).standard_normal((9, options.dim), np.float32)
    print(f"{date.today()}, {threads} threads, {options.rows:,} x {options.dim}")
    for element in ELEMENTS:
        with tempfile.TemporaryDirectory(prefix="diq-bench-", dir=options.dir) as folder:
            index, records = write(Path(folder) / "index", element, options.rows, options.dim)
            limit = read_bandwidth([index.folder / record.file for record in records], threads, options.times)
            n_bytes = sum(record.n_bytes for record in records)
            print(f"{element}: {n_bytes / 1e9:.2f} GB, read bandwidth {limit / 1e9:.1f} GB/s")
            race(index, records, vectors, limit, options.times)
            if element == "float16":
                gradients = index.read(records[0]).gradients[:OTHERS_ROWS].astype(np.float16)
                race_others(gradients, vectors, limit, threads)


if __name__ == "__main__":
    main()
