"""Start-up of the light commands, as whole processes, against an interpreter that does nothing.

    python benches/bench_startup.py [--repeats 15]

The limits that are promised: ``diq --help`` within 150 ms of ``python -c pass``, ``diq sql 'select 1'`` within 300 ms.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from diq.store.store import Store


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=15)
    options = parser.parse_args()
    diq = str(Path(sys.executable).with_name("diq"))
    with tempfile.TemporaryDirectory() as folder:
        store = Path(folder) / "diq.duckdb"
        Store(store, create=True).close()
        commands = {
            "python -c pass": [sys.executable, "-c", "pass"],
            "diq --help": [diq, "--help"],
            "diq sql 'select 1'": [diq, "sql", "select 1"],
            "diq status": [diq, "status"],
            "python -c 'import duckdb'": [sys.executable, "-c", "import duckdb"],
        }
        environment = {**os.environ, "DIQ_STORE": str(store)}
        times: dict[str, list[float]] = {name: [] for name in commands}
        for round_ in range(options.repeats + 1):
            for name, command in commands.items():
                start = time.perf_counter()
                subprocess.run(command, env=environment, check=True, capture_output=True)
                # the first round warms the page cache
                if round_:
                    times[name].append(1000 * (time.perf_counter() - start))
    base = statistics.median(times["python -c pass"])
    print(f"{'':28} {'median ms':>9} {'min':>7} {'max':>7} {'over python':>12}")
    for name, values in times.items():
        median = statistics.median(values)
        print(f"{name:28} {median:9.0f} {min(values):7.0f} {max(values):7.0f} {median - base:12.0f}")


if __name__ == "__main__":
    main()
