"""`--diverse 0.9` on embeddings in memory: how long the walk takes, and how far it goes.

Claim: of 1 million samples with 384 numbers each, the first 10 % that are no nearer than 0.9 to each other are found in
less than 10 minutes on 2 cores, exactly. The embeddings are made up: topics of very unequal size (Zipf) in 64 of the
384 directions, and little in the others, as sentence encoders leave them. The floor is the product of matrices alone,
of as many pairs. The start is compared with a double loop, and a draw of the rest with all that was taken, before
anything is printed.
Run: `python benches/bench_diverse.py`.
"""

from __future__ import annotations

import argparse
import os
import time
from datetime import date

import numpy as np

from diq.selection.diverse import CANDIDATES, TAKEN, Taken, Vectors

LOOKED_AT = 1500


def embeddings(n: int, dim: int, topics: int, spread: float, seed: int = 0) -> Vectors:
    """Unit vectors ``[n, dim]`` in an order that has nothing to do with their topics."""
    rng = np.random.default_rng(seed)
    plane = np.linalg.qr(rng.standard_normal((dim, 64)))[0].astype(np.float32)
    centres = rng.standard_normal((topics, 64), np.float32)
    size = 1 / np.arange(1, topics + 1)
    topic = rng.choice(topics, n, p=size / size.sum())
    rows = np.empty((n, dim), np.float32)
    for start in range(0, n, 100_000):
        part = slice(start, min(start + 100_000, n))
        inner = centres[topic[part]] + spread * rng.standard_normal((part.stop - start, 64), np.float32)
        rows[part] = inner @ plane.T + 0.02 * rng.standard_normal((part.stop - start, dim), np.float32)
        rows[part] /= np.linalg.norm(rows[part], axis=1, keepdims=True)
    return rows


def check(rows: Vectors, threshold: float, kept: np.ndarray, matched: np.ndarray) -> None:
    """Hold the start against a double loop, and a thousand rows of the rest against all that was taken."""
    taken: list[int] = []
    for i in range(LOOKED_AT):
        near = rows[taken].astype(np.float64) @ rows[i].astype(np.float64) > threshold
        assert matched[i] == (int(np.argmax(near)) if near.any() else -1), f"row {i} differs"
        if not near.any():
            taken.append(i)
    for i in np.random.default_rng(1).choice(len(kept), 1000, replace=False).tolist():
        before = np.flatnonzero(kept[:i])
        near = rows[before].astype(np.float64) @ rows[i].astype(np.float64) > threshold
        assert matched[i] == (int(np.argmax(near)) if near.any() else -1), f"row {i} differs"


def main() -> None:
    """Walk, check, and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=float, default=1, help="million rows")
    parser.add_argument("--dim", type=int, default=384, help="numbers of an embedding")
    parser.add_argument("--ratio", type=float, default=0.1, help="how much is taken")
    parser.add_argument("--threshold", type=float, default=0.9, help="cosine that is too near")
    parser.add_argument("--topics", type=int, default=20_000, help="topics; fewer leave less to take")
    parser.add_argument("--spread", type=float, default=0.4, help="of a topic; 0.3 leaves one sample a topic or so")
    options = parser.parse_args()
    n, threshold = int(options.rows * 1e6), options.threshold
    rows = embeddings(n, options.dim, options.topics, options.spread)
    wanted = int(n * options.ratio)
    walk, verdicts, walked, pairs = Taken(threshold, options.dim), [], 0, 0
    start = time.perf_counter()
    while walk.n < wanted and walked < n:
        part = rows[walked : walked + TAKEN]
        pairs += len(part) * walk.n
        verdicts.append(walk.offer(part))
        walked += len(part)
    taken = time.perf_counter() - start
    kept = np.concatenate([one.kept for one in verdicts])
    matched = np.concatenate([one.matched for one in verdicts])
    check(rows, threshold, kept, matched)
    block = np.empty((CANDIDATES, TAKEN), np.float32)
    other = rows[-TAKEN:]
    start = time.perf_counter()
    for i in range(5):
        np.matmul(rows[i * CANDIDATES : (i + 1) * CANDIDATES], other.T, out=block)
    floor = (time.perf_counter() - start) / 5 / block.size * pairs
    machine = f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}, {date.today()}"
    print(f"{n:,} x {options.dim}, threshold {threshold:g}, {machine}")
    print(
        f"{walk.n:,} taken of {walked:,} walked in {taken:.0f} s ({pairs:.3g} pairs at most); "
        f"all these pairs as products alone {floor:.0f} s"
    )


if __name__ == "__main__":
    main()
