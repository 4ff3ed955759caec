"""What the GPU benches share: timing, the two ceilings of the card, and rows of the one table."""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import torch


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the table.

    Attributes:
        group: what is computed, with its size; rows of a group are compared with each other.
        name: who computes it.
        median_ms: median time; p20 and p80 beside it.
        p20_ms: 20th percentile.
        p80_ms: 80th percentile.
        n: timed runs.
        floor_ms: the larger of arithmetic and memory time at the measured ceilings; 0 where none is stated.
        note: anything else worth a column.
    """

    group: str
    name: str
    median_ms: float
    p20_ms: float
    p80_ms: float
    n: int
    floor_ms: float = 0.0
    note: str = ""


@dataclass(frozen=True, slots=True)
class Ceilings:
    """What the card reaches: bfloat16 products in FLOP/s, and copies in bytes/s (read plus written)."""

    flops: float
    bytes_per_s: float

    def floor_ms(self, flops: float, moved: float) -> float:
        """The least time for so many operations and bytes."""
        return 1e3 * max(flops / self.flops, moved / self.bytes_per_s)


def why(error: Exception) -> str:
    """A failure as a note."""
    return f"did not run: {type(error).__name__}: {' '.join(str(error).split())[:90]}"


class Bench:
    """Options, timing and the rows of one script."""

    def __init__(self, description: str) -> None:
        parser = argparse.ArgumentParser(description=description)
        parser.add_argument("--rows", type=Path, help="file that the rows are appended to")
        parser.add_argument("--device", default="cuda")
        parser.add_argument("--tiny", action="store_true", help="sizes that a CPU does in seconds: tests the script")
        parser.add_argument("--repeats", type=int, default=20)
        parser.add_argument("--sweep", action="store_true", help="also time other tile sizes (bench_kernels)")
        self.options = parser.parse_args()
        self.device = torch.device(self.options.device)
        self.tiny: bool = self.options.tiny
        self.repeats: int = 2 if self.tiny else self.options.repeats
        torch.manual_seed(0)

    @property
    def on_gpu(self) -> bool:
        return self.device.type == "cuda"

    def times_ms(self, run: Callable[[], object], repeats: int = 0, warm: int = 2) -> list[float]:
        """Times of single runs: CUDA events on a GPU, so that launches queue up as in real use."""
        for _ in range(warm):
            run()
        n = repeats or self.repeats
        if not self.on_gpu:
            found = []
            for _ in range(n):
                start = time.perf_counter()
                run()
                found.append(1e3 * (time.perf_counter() - start))
            return found
        events = [(torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)) for _ in range(n)]
        torch.cuda.synchronize()
        for start_event, stop_event in events:
            start_event.record()
            run()
            stop_event.record()
        torch.cuda.synchronize()
        return [start_event.elapsed_time(stop_event) for start_event, stop_event in events]

    def time(
        self,
        group: str,
        name: str,
        run: Callable[[], object],
        floor_ms: float = 0.0,
        *,
        note: Callable[[float], str] = lambda median_ms: "",
        repeats: int = 0,
    ) -> Row:
        """Time something and keep its row, with a note made of the median; what fails is a row that says why."""
        try:
            found = sorted(self.times_ms(run, repeats))
        except Exception as error:  # a rival that does not run must not end the bench
            return self.keep(Row(group, name, 0, 0, 0, 0, floor_ms, why(error)))
        low, high = found[int(0.2 * (len(found) - 1))], found[round(0.8 * (len(found) - 1))]
        median = statistics.median(found)
        return self.keep(Row(group, name, median, low, high, len(found), floor_ms, note(median)))

    def keep(self, row: Row) -> Row:
        """Write a row down at once, so that a killed bench keeps what it has."""
        if self.options.rows:
            with self.options.rows.open("a") as file:
                file.write(json.dumps(asdict(row)) + "\n")
        print(f"{row.group:58} {row.name:34} {row.median_ms:10.3f} ms  floor {row.floor_ms:9.3f}  {row.note}")
        return row

    def ceilings(self) -> Ceilings:
        """Measure both ceilings with plain torch, on random data."""
        size = 256 if self.tiny else 8192
        a, b = (torch.randn(size, size, device=self.device).bfloat16() for _ in range(2))
        flops = 2 * size**3 / (min(self.times_ms(lambda: a @ b)) / 1e3)
        source = torch.randn((1 << 16) if self.tiny else (1 << 30), device=self.device)
        target = torch.empty_like(source)
        moved = 8 * source.numel() / (min(self.times_ms(lambda: target.copy_(source))) / 1e3)
        name = torch.cuda.get_device_name(self.device) if self.on_gpu else "cpu"
        print(f"{name}, torch {torch.__version__}: {flops / 1e12:.1f} TFLOP/s bf16, {moved / 1e12:.2f} TB/s copied")
        return Ceilings(flops, moved)
