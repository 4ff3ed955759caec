"""The Triton kernels on a real GPU, against the reference and against plain torch in float64."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from torch import Tensor

from diq.gradients.kernels import dots, projections, reference, resolve, torch_forms
from gradients.kernels.oracle import KEY, ODD, assert_exact, noise, project, sketch, sketch_tokens, wide

DTYPES = pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
CUDA = torch.device("cuda")


def in_float64(gradients: Tensor, dim: int) -> tuple[reference.Matrix, reference.Matrix]:
    """Dense projection of many columns, and the magnitude of its terms, on the GPU."""
    total = torch.zeros(len(gradients), dim, dtype=torch.float64, device=CUDA)
    for at in range(0, gradients.shape[1], 4096):
        block = gradients[:, at : at + 4096].double()
        total += block @ torch_forms.rademacher_signs(KEY, block.shape[1], dim, at, CUDA).double()
    magnitude = gradients.double().abs().sum(1, keepdim=True) + torch.zeros_like(total)
    return wide(total / dim**0.5), wide(magnitude / dim**0.5)


@DTYPES
@pytest.mark.parametrize("p", ODD)
@pytest.mark.parametrize(("n", "dim"), [(1, 16), (3, 144), (17, 272), (70, 4096)])
def test_dense_projection(n: int, dim: int, p: int, dtype: torch.dtype) -> None:
    gradients, projected = noise(n, p, dtype=dtype), noise(n, dim, seed=1)
    before = wide(projected)
    found = projected.to(CUDA)
    projections.project_rademacher(gradients.to(CUDA), found, key=KEY, first_row=3)
    wanted, magnitude = project(gradients, dim, first_row=3)
    assert_exact(found, before + wanted, np.abs(before) + magnitude, p + 1)


@DTYPES
@pytest.mark.parametrize(("n", "p"), [(1, 300_001), (16, 1 << 18), (64, 100_000)])
def test_dense_projection_of_many_columns(n: int, p: int, dtype: torch.dtype) -> None:
    gradients = noise(n, p, dtype=dtype).to(CUDA)
    # numbers of very different size: what a narrower type would lose
    gradients *= torch.logspace(-6, 6, p, device=CUDA).to(dtype)
    found, again = torch.zeros(n, 512, device=CUDA), torch.zeros(n, 512, device=CUDA)
    projections.project_rademacher(gradients, found, key=KEY)
    projections.project_rademacher(gradients, again, key=KEY)
    # tensor cores cut the sum where they align it, so the bound is that of a sum in order
    wanted, magnitude = in_float64(gradients, 512)
    assert_exact(found, wanted, magnitude, 1 << 14)
    assert torch.equal(found, again)


def test_a_float32_gradient_keeps_all_its_bits() -> None:
    # 1 + 2**-23 - 1: lost by tf32 and by one or two bfloat16 parts
    gradients = torch.zeros(2, 128, device=CUDA)
    gradients[:, 0] = 1 + 2.0**-23
    gradients[:, 1] = 1.0
    found = torch.zeros(2, 16, device=CUDA)
    projections.project_rademacher(gradients, found, key=KEY)
    np.testing.assert_array_equal(wide(found), project(gradients.cpu(), 16)[0].astype(np.float32))


def test_more_than_two_to_the_31_elements() -> None:
    p = 2**31 + 1000
    gradients = torch.zeros(1, p, dtype=torch.bfloat16, device=CUDA)
    tail = noise(1, 2000, dtype=torch.bfloat16)
    gradients[:, -2000:] = tail.to(CUDA)
    found = torch.zeros(1, 16, device=CUDA)
    projections.project_rademacher(gradients, found, key=KEY)
    assert_exact(found, *project(tail, 16, first_row=p - 2000), 2000)
    del gradients

    shape = (2, 2**16, 2**14 + 16)
    matrices = torch.zeros(shape, dtype=torch.bfloat16, device=CUDA)
    row = noise(shape[2], dtype=torch.bfloat16)
    matrices[1, -1] = row.to(CUDA)
    found = torch.zeros(2, 4096, device=CUDA)
    projections.sketch_matrices(matrices, found, key=KEY)
    bucket, sign = torch_forms.sparse_buckets(KEY, shape[1] - 1, shape[1], shape[2], 4096, torch.device("cpu"))
    wanted = np.bincount(bucket[0].numpy(), sign[0].double().numpy() * wide(row), minlength=4096)
    magnitude = np.bincount(bucket[0].numpy(), np.abs(wide(row)), minlength=4096)
    assert_exact(found[1:], wanted[None], magnitude[None], 64)
    assert (found[0] == 0).all()


@DTYPES
@pytest.mark.parametrize("shape", [(1, 1), (15, 17), (17, 63), (63, 16), (1, 137), (137, 1), (300, 1000)], ids=str)
@pytest.mark.parametrize("dim", [16, 48, 65536])
def test_sketch_matrices(shape: tuple[int, int], dim: int, dtype: torch.dtype) -> None:
    gradients, projected = noise(3, *shape, dtype=dtype), noise(3, dim, seed=1)
    before = wide(projected)
    found = projected.to(CUDA)
    projections.sketch_matrices(gradients.to(CUDA), found, key=KEY)
    wanted, magnitude = sketch(wide(gradients), dim)
    assert_exact(found, before + wanted, np.abs(before) + magnitude, 1024 if dim > 16 else 20_000)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("shape", [(1, 1), (15, 17), (17, 63), (63, 16), (1, 137), (137, 1), (300, 1000)], ids=str)
@pytest.mark.parametrize("offsets", [[0, 0], [0, 1], [0, 0, 63, 63, 100, 1000, 1000]], ids=str)
def test_sketch_outer(offsets: list[int], shape: tuple[int, int], dtype: torch.dtype) -> None:
    delta, x = noise(offsets[-1], shape[0], dtype=dtype), noise(offsets[-1], shape[1], seed=1, dtype=dtype)
    projected = noise(len(offsets) - 1, 4096, seed=2)
    before = wide(projected)
    found = projected.to(CUDA)
    # offsets may stay on the CPU
    projections.sketch_outer(delta.to(CUDA), x.to(CUDA), torch.tensor(offsets), found, key=KEY)
    wanted, magnitude = sketch_tokens(delta, x, offsets, 4096)
    assert_exact(found, before + wanted, np.abs(before) + magnitude, 1024)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize(
    ("t", "out", "inner", "sets"),
    [*((t, 137, 63, sets) for t, sets in itertools.product(ODD, (1, 3))), (1000, 1024, 4096, 1), (1000, 300, 1000, 4)],
)
def test_token_dots(t: int, out: int, inner: int, sets: int, dtype: torch.dtype) -> None:
    delta, x = noise(t, out, dtype=dtype), noise(t, inner, seed=1, dtype=dtype)
    stacked = noise(sets * out, inner, seed=2, dtype=dtype)
    on_gpu = [one.to(CUDA) for one in (delta, x, stacked)]
    found = dots.token_dots(*on_gpu, sets)
    wanted = reference.token_dots(wide(delta), wide(x), wide(stacked), sets)
    magnitude = reference.token_dots(np.abs(wide(delta)), np.abs(wide(x)), np.abs(wide(stacked)), sets)
    assert_exact(found, wanted, magnitude, out * inner)
    assert torch.equal(found, dots.token_dots(*on_gpu, sets))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_token_dots_in_wide_types(dtype: torch.dtype) -> None:
    delta, x, stacked = (noise(63, 300, seed=seed).to(CUDA, dtype) for seed in range(3))
    stacked = torch.cat([stacked] * 5)[:300]
    found = dots.token_dots(delta, x, stacked, 1)
    assert found.dtype == dtype
    magnitude = reference.token_dots(*(np.abs(wide(one)) for one in (delta, x, stacked)), 1)
    assert_exact(found, reference.token_dots(wide(delta), wide(x), wide(stacked), 1), magnitude, 90_000)


def test_a_row_of_nan_reaches_its_own_terms_alone() -> None:
    delta, x, stacked = (noise(n, 256, seed=n, dtype=torch.bfloat16).to(CUDA) for n in (300, 301, 512))
    x = x[:300]
    clean = dots.token_dots(delta, x, stacked, 2)
    delta[3], x[7] = float("nan"), float("inf")
    found = dots.token_dots(delta, x, stacked, 2)
    others = [row for row in range(300) if row not in (3, 7)]
    assert torch.equal(found[others], clean[others])
    assert not torch.isfinite(found[[3, 7]]).any()


def test_torch_on_the_gpu_is_the_same_matrix(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DIQ_KERNELS", "torch")
    resolve.forget()
    gradients = noise(3, 137, 63)
    dense, sparse = torch.zeros(3, 144, device=CUDA), torch.zeros(3, 144, device=CUDA)
    projections.project_rademacher(gradients.flatten(1).to(CUDA), dense, key=KEY)
    projections.sketch_matrices(gradients.to(CUDA), sparse, key=KEY)
    assert_exact(dense, *project(gradients.flatten(1), 144), 137 * 63)
    assert_exact(sparse, *sketch(wide(gradients), 144), 1024)


def test_the_check_finds_a_wrong_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    from diq.gradients.kernels import triton_sketch

    right = triton_sketch.sketch_outer
    monkeypatch.setattr(triton_sketch, "sketch_outer", lambda *args, key: right(*args, key=key ^ 1))
    monkeypatch.setenv("DIQ_KERNELS", "")
    delta, x = noise(40, 17).to(CUDA), noise(40, 33).to(CUDA)
    found = torch.zeros(1, 80, device=CUDA)
    # falls back, so the result is right
    projections.sketch_outer(delta, x, torch.tensor([0, 40]), found, key=KEY)
    assert_exact(found, *sketch_tokens(delta.cpu(), x.cpu(), [0, 40], 80), 1024)
