"""Projection of gradients on the CPU: ours, whose matrix is made on the fly, against traker's BasicProjector and
against a plain torch product with a stored matrix; and the sketch of a gradient against forming that gradient.

Right answer first: ours is compared with the slow reference on a part of the rows. BasicProjector needs the environment
of the peers (`bash benches/peers/setup.sh`); without it its row says so.

    python benches/bench_projection.py [--repeats 3] [--threads 2]
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import subprocess
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import torch

from diq.gradients.kernels import reference
from diq.gradients.kernels.projections import project_rademacher, sketch_matrices, sketch_outer

HERE = Path(__file__).resolve().parent
PEERS = HERE.parent / ".venv-peers" / "bin" / "python"
KEY = reference.parameter_key(0, "bench.weight")


def seconds_of(run: Callable[[], object], repeats: int) -> float:
    run()
    found = []
    for _ in range(repeats):
        start = time.perf_counter()
        run()
        found.append(time.perf_counter() - start)
    return statistics.median(found)


def dense(gradients: torch.Tensor, dim: int) -> torch.Tensor:
    projected = torch.zeros(len(gradients), dim)
    project_rademacher(gradients, projected, key=KEY)
    return projected


def basic_projector(n: int, p: int, dim: int, threads: int, repeats: int) -> float | str:
    if not PEERS.exists():
        return "not installed (bash benches/peers/setup.sh)"
    command = [str(PEERS), str(HERE / "peers" / "basic_projector.py"), "--n", str(n), "--p", str(p)]
    command += ["--dim", str(dim), "--threads", str(threads), "--repeats", str(repeats)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        return f"failed: {done.stderr.strip().splitlines()[-1] if done.stderr.strip() else done.returncode}"
    return float(json.loads(done.stdout.splitlines()[-1])["seconds"])


def compare_dense(threads: int, repeats: int) -> None:
    print("\ndense signs (rademacher), p parameters to dim columns; seconds a call")
    print(
        f"{'n':>4} {'p':>9} {'dim':>6} {'ours':>9} {'G signs/s':>10} {'stored':>9} {'BasicProjector':>15} {'ratio':>7}"
    )
    for n, p, dim in ((1, 65_536, 4096), (16, 65_536, 4096), (64, 65_536, 4096), (1, 786_432, 4096)):
        torch.manual_seed(0)
        gradients = torch.randn(n, p)
        part = gradients[:, :512]
        expected = reference.project_rademacher(part.numpy(), dim, key=KEY)
        assert np.abs(dense(part, dim).numpy() - expected).max() < 1e-4, "the projection is wrong; no time is taken"
        ours = seconds_of(partial(dense, gradients, dim), repeats)
        # a stored matrix of the largest case would be 13 GB
        stored = "-"
        if p * dim <= 1 << 29:
            matrix = torch.sign(torch.randn(p, dim))
            stored = f"{seconds_of(partial(torch.matmul, gradients, matrix), repeats):.4f}"
        peer = basic_projector(n, p, dim, threads, max(1, repeats - 2))
        shown = f"{peer:.3f}" if isinstance(peer, float) else peer
        ratio = f"{peer / ours:.0f}x" if isinstance(peer, float) else ""
        print(
            f"{n:4} {p:9} {dim:6} {ours:9.4f} {n * p * dim / ours / 1e9:10.1f} {stored:>9} {shown:>15} {ratio:>7}",
            flush=True,
        )


def compare_sketch(repeats: int) -> None:
    print("\nsparse sketch (dim 65,536) of the gradient of a weight [out, in] over t tokens; seconds a sample")
    print(f"{'out':>5} {'in':>5} {'t':>5} {'fused':>9} {'form it':>9} {'form + sketch':>14} {'fused/form':>11}")
    for out, inner, t in ((512, 512, 200), (1024, 1024, 200), (2048, 2048, 100)):
        torch.manual_seed(0)
        delta, x, offsets = torch.randn(t, out), torch.randn(t, inner), torch.tensor([0, t])
        projected = torch.zeros(1, 65_536)

        def fused(delta=delta, x=x, offsets=offsets, projected=projected) -> None:  # type: ignore[no-untyped-def]
            sketch_outer(delta, x, offsets, projected, key=KEY)

        def formed(delta=delta, x=x) -> torch.Tensor:  # type: ignore[no-untyped-def]
            return delta.T @ x

        def both(projected=projected) -> None:  # type: ignore[no-untyped-def]
            sketch_matrices(formed()[None], projected, key=KEY)

        times = [seconds_of(run, repeats) for run in (fused, formed, both)]
        print(
            f"{out:5} {inner:5} {t:5} {times[0]:9.4f} {times[1]:9.4f} {times[2]:14.4f} {times[0] / times[1]:11.2f}",
            flush=True,
        )


def grow(repeats: int) -> None:
    torch.manual_seed(0)
    gradients = torch.randn(16, 16_384)
    times = {dim: seconds_of(partial(dense, gradients, dim), repeats) for dim in (512, 1024, 2048, 4096, 8192)}
    exponent = math.log(times[8192] / times[512]) / math.log(16)
    shown = ", ".join(f"{dim}: {seconds * 1e3:.1f} ms" for dim, seconds in times.items())
    print(f"\ngrowth with dim (n 16, p 16,384): {shown}; exponent {exponent:.2f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    print(f"torch {torch.__version__}, {options.threads} threads, medians of {options.repeats}")
    compare_dense(options.threads, options.repeats)
    compare_sketch(options.repeats)
    grow(options.repeats)


if __name__ == "__main__":
    main()
