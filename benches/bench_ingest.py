"""Memory and speed of `diq ingest` on a large file: writes synthetic JSON lines, ingests them in a process of its own.

Claim: a 5 GB file needs no more than 1 GB of memory. Prints peak memory, rows/s and MB/s, next to the time that reading
and parsing the same file takes alone (the floor). Run: `python benches/bench_ingest.py --gb 5`.
"""

from __future__ import annotations

import argparse
import json
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

CHILD = """
import json, resource, sys, time
from diq.samples.ingest import ingest as run
start = time.perf_counter()
summary = run([sys.argv[1]], dataset="bench", store=sys.argv[2])
seconds = time.perf_counter() - start
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
print(json.dumps({"seconds": seconds, "peak_mb": peak, "n_rows": summary.n_rows, "n_samples": summary.n_samples,
                  "n_duplicates": summary.n_duplicates, "n_rejects": summary.n_rejects}))
"""


def write(path: Path, n_bytes: int, row_bytes: int) -> dict[str, int]:
    """About ``n_bytes`` of Alpaca rows; every 100th repeats an earlier one, every 1000th has no answer."""
    rng = random.Random(0)
    words = ["".join(rng.choices("abcdefghijklmnopqrstuvwxyz", k=rng.randint(2, 10))) for _ in range(20_000)]
    counts = {"n_rows": 0, "n_duplicates": 0, "n_rejects": 0}
    # ru_maxrss of a child counts what it inherits from here, so this process stays small
    first = ""
    written = 0
    with path.open("w", encoding="utf-8") as file:
        while written < n_bytes:
            n = counts["n_rows"]
            if n % 100 == 99:
                line = first
                counts["n_duplicates"] += 1
            else:
                text = " ".join(rng.choices(words, k=row_bytes // 7))
                row = {"instruction": f"Question {n}: {text[:200]}?", "output": text, "score": n % 7}
                if n % 1000 == 500:
                    row["output"] = ""
                    counts["n_rejects"] += 1
                line = json.dumps(row) + "\n"
                first = first or line
            written += file.write(line)
            counts["n_rows"] += 1
    return counts


def parse_alone(path: Path) -> float:
    """Seconds to read and parse the file and do nothing else."""
    import orjson

    start = time.perf_counter()
    with path.open("rb") as file:
        for line in file:
            orjson.loads(line)
    return time.perf_counter() - start


def main() -> None:
    """Write, ingest, check the counts, print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--gb", type=float, default=1.0, help="size of the file")
    parser.add_argument("--row-bytes", type=int, default=2000, help="text of a row")
    parser.add_argument("--dir", type=Path, help="where to write; default a temporary folder")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="diq-bench-", dir=options.dir) as folder:
        source, store = Path(folder) / "rows.jsonl", Path(folder) / "store.duckdb"
        expected = write(source, int(options.gb * 1e9), options.row_bytes)
        floor = parse_alone(source)
        done = subprocess.run(
            [sys.executable, "-c", CHILD, str(source), str(store)], check=True, capture_output=True, text=True
        )
        found = json.loads(done.stdout)
        for name, n in expected.items():
            if found[name] != n:
                raise SystemExit(f"{name} is {found[name]}, expected {n}")
        size = source.stat().st_size
        seconds = found["seconds"]
        print(f"file            {size / 1e9:8.2f} GB, {found['n_rows']:,} rows of {options.row_bytes:,} bytes")
        print(f"peak memory     {found['peak_mb']:8.0f} MB")
        speed = f"{found['n_rows'] / seconds:,.0f} rows/s, {size / 1e6 / seconds:,.0f} MB/s"
        print(f"ingest          {seconds:8.1f} s, {speed}")
        print(f"parse alone     {floor:8.1f} s (ingest takes {seconds / floor:.1f} times as long)")
        print(f"store           {store.stat().st_size / 1e9:8.2f} GB")


if __name__ == "__main__":
    main()
