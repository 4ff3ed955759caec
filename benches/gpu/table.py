"""One table of the rows that the GPU benches wrote: python benches/gpu/table.py ROWS"""

from __future__ import annotations

import itertools
import json
import sys
from pathlib import Path


def main() -> None:
    path = Path(sys.argv[1])
    rows = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
    print(f"{'':40} {'median ms':>10} {'p20':>9} {'p80':>9} {'n':>3} {'floor ms':>9} {'x floor':>7} {'x ours':>7}")
    for group, members in itertools.groupby(rows, key=lambda row: row["group"]):
        print(group)
        found = list(members)
        ours = next((row["median_ms"] for row in found if row["name"].startswith("diq")), 0)
        for row in found:
            if not row["n"]:
                print(f"  {row['name']:38} {row['note']}")
                continue
            floor = f"{row['median_ms'] / row['floor_ms']:7.2f}" if row["floor_ms"] else f"{'':7}"
            against = f"{row['median_ms'] / ours:7.2f}" if ours else f"{'':7}"
            print(
                f"  {row['name']:38} {row['median_ms']:10.3f} {row['p20_ms']:9.3f} {row['p80_ms']:9.3f} {row['n']:3d} "
                f"{row['floor_ms']:9.3f} {floor} {against}  {row['note']}"
            )


if __name__ == "__main__":
    main()
