"""The Triton kernels in Triton's interpreter, on a CPU; ``test_triton.py`` runs this file in a process of its own.

Triton decides at import whether it interprets, so no other test may share the process.
"""

from __future__ import annotations

import os

import numpy as np
import pytest
import torch
import triton
import triton.language as tl

from diq.gradients.kernels import dots, projections, reference, resolve
from gradients.kernels.oracle import KEY, ODD, assert_exact, noise, project, sketch, sketch_tokens, wide

# torch.empty is filled with NaN, so a cell that no lane wrote shows
torch.use_deterministic_algorithms(True)

assert os.environ.get("TRITON_INTERPRET") == "1", "run by test_triton.py"

DTYPES = pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)


@triton.jit(do_not_specialize=["key_low", "key_high"])
def _hash(counters, words, key_low, key_high, N: tl.constexpr):  # type: ignore[no-untyped-def] # noqa: N803
    at = tl.arange(0, N) * 4
    k0, k1 = key_low.to(tl.uint32, bitcast=True), key_high.to(tl.uint32, bitcast=True)
    c0, c1 = tl.load(counters + at).to(tl.uint32), tl.load(counters + at + 1).to(tl.uint32)
    c2, c3 = tl.load(counters + at + 2).to(tl.uint32), tl.load(counters + at + 3).to(tl.uint32)
    w0, w1, w2, w3 = tl.philox_impl(c0, c1, c2, c3, k0, k1)
    tl.store(words + at, w0.to(tl.int64))
    tl.store(words + at + 1, w1.to(tl.int64))
    tl.store(words + at + 2, w2.to(tl.int64))
    tl.store(words + at + 3, w3.to(tl.int64))


@pytest.mark.parametrize("key", [0, KEY, 2**64 - 1])
def test_philox(key: int) -> None:
    counters = np.random.default_rng(0).integers(0, 2**32, (64, 4), dtype=np.uint32)
    counters[0], counters[1] = 0, 2**32 - 1
    found = torch.empty(64, 4, dtype=torch.int64)
    _hash[(1,)](torch.from_numpy(counters.astype(np.int64)), found, *resolve.key_words(key), N=64)
    assert (found.numpy() == reference.philox(key, counters)).all()


@DTYPES
@pytest.mark.parametrize("p", ODD)
@pytest.mark.parametrize(("n", "dim"), [(1, 16), (17, 272)])
def test_rademacher(n: int, dim: int, p: int, dtype: torch.dtype) -> None:
    gradients, projected = noise(n, p, dtype=dtype), noise(n, dim, seed=1)
    before = wide(projected)
    projections.project_rademacher(gradients, projected, key=KEY, first_row=3)
    wanted, magnitude = project(gradients, dim, first_row=3)
    assert_exact(projected, before + wanted, np.abs(before) + magnitude, p + 1)


def test_rademacher_over_several_parts_and_beyond_32_bits() -> None:
    gradients, projected = noise(2, 3333), torch.zeros(2, 48)
    projections.project_rademacher(gradients, projected, key=2**64 - 1, first_row=2**32 - 1500)
    wanted, magnitude = project(gradients, 48, 2**64 - 1, 2**32 - 1500)
    assert_exact(projected, wanted, magnitude, 3333)


def test_rademacher_in_several_launches(monkeypatch: pytest.MonkeyPatch) -> None:
    from diq.gradients.kernels import triton_rademacher

    monkeypatch.setattr(triton_rademacher, "_PARTIAL_BYTES", 1)
    gradients, projected = noise(137, 20), torch.zeros(137, 16)
    projections.project_rademacher(gradients, projected, key=KEY)
    assert_exact(projected, *project(gradients, 16), 20)


def test_rademacher_does_not_depend_on_the_batch() -> None:
    gradients = noise(20, 520)
    together, alone = torch.zeros(20, 48), torch.zeros(20, 48)
    projections.project_rademacher(gradients, together, key=KEY)
    for row in range(20):
        projections.project_rademacher(gradients[row : row + 1], alone[row : row + 1], key=KEY)
    for found in (together, alone):
        assert_exact(found, *project(gradients, 48), 520)


@DTYPES
@pytest.mark.parametrize("shape", [(1, 1), (17, 63), (63, 16), (137, 1), (40, 300)], ids=str)
@pytest.mark.parametrize("dim", [48, 4096])
def test_sketch_matrices(shape: tuple[int, int], dim: int, dtype: torch.dtype) -> None:
    gradients, projected = noise(3, *shape, dtype=dtype), noise(3, dim, seed=1)
    before = wide(projected)
    projections.sketch_matrices(gradients, projected, key=KEY)
    wanted, magnitude = sketch(wide(gradients), dim)
    assert_exact(projected, before + wanted, np.abs(before) + magnitude, 1024)


@DTYPES
@pytest.mark.parametrize("shape", [(1, 1), (17, 63), (1, 137), (200, 150)], ids=str)
@pytest.mark.parametrize("offsets", [[0, 1], [0, 0, 63, 63, 100, 137, 137]], ids=str)
def test_sketch_outer(offsets: list[int], shape: tuple[int, int], dtype: torch.dtype) -> None:
    delta, x = noise(offsets[-1], shape[0], dtype=dtype), noise(offsets[-1], shape[1], seed=1, dtype=dtype)
    projected = noise(len(offsets) - 1, 80, seed=2)
    before = wide(projected)
    projections.sketch_outer(delta, x, torch.tensor(offsets), projected, key=KEY)
    wanted, magnitude = sketch_tokens(delta, x, offsets, 80)
    assert_exact(projected, before + wanted, np.abs(before) + magnitude, 1024)


def test_sketch_outer_reads_no_token_that_is_not_there() -> None:
    delta, x, projected = noise(5, 3), noise(5, 4), torch.zeros(1, 16)
    projections.sketch_outer(delta, x, torch.tensor([-7, 99]), projected, key=KEY)
    assert_exact(projected, *sketch_tokens(delta, x, [0, 5], 16), 16)


@DTYPES
@pytest.mark.parametrize("sets", [1, 3])
@pytest.mark.parametrize("t", [1, 63, 300])
@pytest.mark.parametrize("shape", [(1, 1), (17, 63), (137, 32)], ids=str)
def test_token_dots(shape: tuple[int, int], t: int, sets: int, dtype: torch.dtype) -> None:
    out, inner = shape
    delta, x = noise(t, out, dtype=dtype), noise(t, inner, seed=1, dtype=dtype)
    stacked = noise(sets * out, inner, seed=2, dtype=dtype)
    found = dots.token_dots(delta, x, stacked, sets)
    wanted = reference.token_dots(wide(delta), wide(x), wide(stacked), sets)
    magnitude = reference.token_dots(np.abs(wide(delta)), np.abs(wide(x)), np.abs(wide(stacked)), sets)
    # also in bfloat16: the product is never rounded
    assert_exact(found, wanted, magnitude, out * inner)


@pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning")
def test_token_dots_with_a_row_of_nan() -> None:
    delta, x, stacked = noise(20, 17), noise(20, 63), noise(34, 63)
    clean = dots.token_dots(delta, x, stacked, 2)
    delta[3], x[7] = float("nan"), float("inf")
    found = dots.token_dots(delta, x, stacked, 2)
    others = [row for row in range(20) if row not in (3, 7)]
    assert (found[others] == clean[others]).all()
    assert not torch.isfinite(found[[3, 7]]).any()
    assert dots.token_dots(noise(0, 5), noise(0, 3), noise(10, 3), 2).shape == (0, 2)
