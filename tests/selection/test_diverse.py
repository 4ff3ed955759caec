"""What is too near to something taken, against a double loop in float64."""

from __future__ import annotations

import numpy as np
import pytest

from diq.selection import diverse
from diq.selection.diverse import Taken


def clustered(seed: int, n: int, dim: int, spread: float) -> np.ndarray:
    """Unit vectors around a few centres, some twice, one of zeros."""
    rng = np.random.default_rng(seed)
    centres = rng.standard_normal((max(2, n // 12), dim))
    rows = centres[rng.integers(0, len(centres), n)] + spread * rng.standard_normal((n, dim))
    rows = (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)
    rows[n // 2] = rows[n // 3]
    rows[n // 4] = 0
    return rows


def slow(rows: np.ndarray, threshold: float) -> tuple[list[int], dict[int, tuple[int, float]]]:
    """Rows that are taken, and of the others the first taken one above the threshold."""
    taken: list[int] = []
    out: dict[int, tuple[int, float]] = {}
    for i, row in enumerate(rows.astype(np.float64)):
        for number, other in enumerate(taken):
            cosine = sum(float(a) * float(b) for a, b in zip(row, rows[other].astype(np.float64), strict=True))
            if cosine > threshold:
                out[i] = number, cosine
                break
        else:
            taken.append(i)
    return taken, out


@pytest.mark.parametrize("blocks", [(2048, 8192), (7, 5), (1, 1), (64, 16)])
@pytest.mark.parametrize(("dim", "threshold"), [(8, 0.9), (8, 0.3), (33, 0.7), (2, 0.999)])
def test_equals_the_double_loop(
    monkeypatch: pytest.MonkeyPatch, blocks: tuple[int, int], dim: int, threshold: float
) -> None:
    monkeypatch.setattr(diverse, "CANDIDATES", blocks[0])
    monkeypatch.setattr(diverse, "TAKEN", blocks[1])
    rows = clustered(dim, 160, dim, 0.3)
    kept, out = slow(rows, threshold)
    assert len(out) > 10 or threshold > 0.99
    found = Taken(threshold, dim).offer(rows)
    assert np.flatnonzero(found.kept).tolist() == kept
    assert {i: int(found.matched[i]) for i in out} == {i: number for i, (number, _) in out.items()}
    assert found.similarity[list(out)] == pytest.approx([cosine for _, cosine in out.values()], abs=1e-12)
    assert np.isnan(found.similarity[kept]).all()


def test_in_parts_as_in_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(diverse, "TAKEN", 16)
    rows = clustered(1, 200, 12, 0.4)
    whole = Taken(0.8, 12).offer(rows)
    for size in (1, 13, 100):
        walk = Taken(0.8, 12)
        parts = [walk.offer(rows[start : start + size]).matched for start in range(0, 200, size)]
        assert np.array_equal(np.concatenate(parts), whole.matched)
    # what an earlier walk took is taken again without a look
    first = Taken(0.8, 12)
    first.add(rows[:120][whole.kept[:120]])
    assert np.array_equal(first.offer(rows[120:]).matched, whole.matched[120:])


def test_nothing_that_is_taken_is_near_and_what_is_left_out_is() -> None:
    rows = clustered(3, 300, 16, 0.35)
    found = Taken(0.75, 16).offer(rows)
    products = rows.astype(np.float64) @ rows.astype(np.float64).T
    kept = np.flatnonzero(found.kept)
    among = products[np.ix_(kept, kept)] - 2 * np.eye(len(kept))
    assert among.max() <= 0.75
    # going through what was taken once more takes it all
    assert Taken(0.75, 16).offer(rows[kept]).kept.all()
    for row in np.flatnonzero(~found.kept):
        assert found.similarity[row] > 0.75
        assert kept[found.matched[row]] < row


def test_a_pair_at_the_threshold_is_decided_in_float64() -> None:
    angle = np.arccos(0.9)
    rows = np.asarray([[1, 0], [np.cos(angle), np.sin(angle)]], np.float32)
    exact = float(rows[0].astype(np.float64) @ rows[1].astype(np.float64))
    assert not Taken(np.nextafter(exact, 0), 2).offer(rows).kept[1]
    assert Taken(exact, 2).offer(rows).kept[1]
