"""Seconds of traker's BasicProjector on the CPU, for bench_projection.py: one JSON line."""

from __future__ import annotations

import argparse
import json
import statistics
import time

import torch
from trak.projectors import BasicProjector, ProjectionType


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--n", type=int, required=True)
    parser.add_argument("--p", type=int, required=True)
    parser.add_argument("--dim", type=int, required=True)
    parser.add_argument("--threads", type=int, required=True)
    parser.add_argument("--repeats", type=int, required=True)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    gradients = torch.randn(options.n, options.p)
    projector = BasicProjector(
        grad_dim=options.p,
        proj_dim=options.dim,
        seed=0,
        proj_type=ProjectionType.rademacher,
        device=torch.device("cpu"),
        dtype=torch.float32,
    )
    seconds = []
    for _ in range(options.repeats):
        start = time.perf_counter()
        projector.project(gradients, model_id=0)
        seconds.append(time.perf_counter() - start)
    print(json.dumps({"seconds": statistics.median(seconds)}))


if __name__ == "__main__":
    main()
