"""The report and its charts on a store of millions of scored samples.

Claim: on 10 million scored samples the report takes at most 20 s and 2 GB, and its page stays below 2 MB; counts are
exact, not estimated. A store is built by SQL (`bench_store.build`), with texts for its first samples alone.
Run: `python benches/bench_report.py --rows 10`; each part is measured in a process of its own.
"""

from __future__ import annotations

import argparse
import logging
import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from bench_store import build
from diq.store.store import Store, now

# as much text as a report can show, twice
TEXTS = """
INSERT INTO samples (sample_id, messages)
SELECT sample_id, json_array(
    json_object('content', repeat('Which drug is given? ', 20), 'role', 'user'),
    json_object('content', repeat('It is given, for it helps. ', 60), 'role', 'assistant')
)
FROM (
    SELECT d.sample_id
    FROM ranking_samples AS r
    JOIN dataset_samples AS d ON d.position = r.position
    WHERE r.rank < 200000
)
"""


def measured(path: Path, part: str) -> None:
    """Do one part and print its seconds, its peak of memory, and what came out."""
    logging.disable(logging.WARNING)
    start = time.perf_counter()
    if part == "report":
        import diq

        found = diq.report(output=path.parent / "report.html", store=path)
        came = f"{found.size_bytes / 1e6:.2f} MB"
    else:
        from diq.plot import data
        from diq.plot.ground import grounded

        with grounded(path, selection=1) as ground:
            drawn = getattr(data, part)(ground)
        came = f"{len(drawn.rows):,} marks"
    seconds = time.perf_counter() - start
    # of this program alone: the peak that getrusage tells begins with the parent's
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    peak = int(re.findall(r"VmHWM:\s+(\d+) kB", status)[0]) / 1e6
    print(f"{part:10} {seconds:8.1f} s {peak:8.2f} GB   {came}", flush=True)


def main() -> None:
    """Build a store, and time each chart and the whole report."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=float, default=10, help="million rows")
    parser.add_argument("--sets", type=int, default=1, help="validation sets")
    parser.add_argument("--dir", type=Path, help="where to write; default a temporary folder")
    parser.add_argument("--part", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.part:
        measured(Path(options.part[0]), options.part[1])
        return
    import diq

    logging.disable(logging.WARNING)
    with tempfile.TemporaryDirectory(prefix="diq-bench-", dir=options.dir) as folder:
        path = Path(folder) / "store.duckdb"
        rows = int(options.rows * 1e6)
        build(path, rows=rows, sets=options.sets, folds=True)
        diq.select("pool", ratio="0.01", model="model", store=path)
        with Store(path) as store:
            store.connection.execute(TEXTS)
        print(f"{rows:,} rows, {options.sets} validation sets, {os.cpu_count()} cores, {now():%Y-%m-%d}")
        parts = ["plane", "levels", "dots", "lengths", "halves", *(["tasks"] if options.sets > 1 else []), "report"]
        for part in parts:
            # a process of its own, so that each peak of memory is its own
            subprocess.run([sys.executable, __file__, "--part", str(path), part], check=True)


if __name__ == "__main__":
    main()
