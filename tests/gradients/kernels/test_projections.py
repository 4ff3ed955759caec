"""Rust and plain torch against the reference: the same matrix, whatever the shape, batch or block."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import pytest
import torch
from torch import Tensor

from diq.gradients.kernels import projections, reference, resolve, torch_forms
from gradients.kernels.oracle import KEY, ODD, assert_exact, needs_core, noise, project, sketch, sketch_tokens, wide

CPU = torch.device("cpu")


@pytest.fixture(params=[pytest.param("cpu", marks=needs_core), "torch"])
def form(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Which form the functions of ``projections`` take."""
    if request.param == "torch":
        monkeypatch.setenv("DIQ_KERNELS", "torch")
    else:
        monkeypatch.delenv("DIQ_KERNELS", raising=False)
    resolve.forget()
    yield request.param
    resolve.forget()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("p", ODD)
@pytest.mark.parametrize(("n", "dim"), [(1, 16), (3, 144), (17, 400)])
def test_dense_projection(form: str, n: int, dim: int, p: int, dtype: torch.dtype) -> None:
    gradients, projected = noise(n, p, dtype=dtype), noise(n, dim, seed=1)
    before = wide(projected)
    projections.project_rademacher(gradients, projected, key=KEY, first_row=3)
    wanted, magnitude = project(gradients, dim, first_row=3)
    assert_exact(projected, before + wanted, np.abs(before) + magnitude, p + 1)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("shape", [(1, 1), (15, 17), (17, 63), (63, 16), (1, 137), (137, 1)], ids=str)
@pytest.mark.parametrize("dim", [16, 48, 4096])
def test_sketch_of_matrices(form: str, shape: tuple[int, int], dim: int, dtype: torch.dtype) -> None:
    gradients, projected = noise(3, *shape, dtype=dtype), noise(3, dim, seed=1)
    before = wide(projected)
    projections.sketch_matrices(gradients, projected, key=KEY)
    wanted, magnitude = sketch(wide(gradients), dim)
    assert_exact(projected, before + wanted, np.abs(before) + magnitude, 64)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("shape", [(1, 1), (15, 17), (17, 63), (63, 16), (1, 137), (137, 1)], ids=str)
@pytest.mark.parametrize("offsets", [[0, 0], [0, 1], [0, 0, 63, 63, 100, 137, 137]], ids=str)
def test_sketch_of_outer_products(form: str, offsets: list[int], shape: tuple[int, int], dtype: torch.dtype) -> None:
    delta, x = noise(offsets[-1], shape[0], dtype=dtype), noise(offsets[-1], shape[1], seed=1, dtype=dtype)
    projected = noise(len(offsets) - 1, 80, seed=2)
    before = wide(projected)
    projections.sketch_outer(delta, x, torch.tensor(offsets), projected, key=KEY)
    wanted, magnitude = sketch_tokens(delta, x, offsets, 80)
    assert_exact(projected, before + wanted, np.abs(before) + magnitude, 256)


def test_rows_beyond_32_bits(form: str) -> None:
    gradients, projected = noise(2, 63), torch.zeros(2, 48)
    projections.project_rademacher(gradients, projected, key=2**64 - 1, first_row=2**32 - 20)
    wanted, magnitude = project(gradients, 48, 2**64 - 1, 2**32 - 20)
    assert_exact(projected, wanted, magnitude, 63)


def test_a_gradient_can_come_in_parts(form: str) -> None:
    gradients, projected = noise(3, 1000), torch.zeros(3, 144)
    for at in range(0, 1000, 137):
        projections.project_rademacher(gradients[:, at : at + 137], projected, key=KEY, first_row=at)
    wanted, magnitude = project(gradients, 144)
    assert_exact(projected, wanted, magnitude, 1000)


def test_a_sample_does_not_depend_on_its_batch(form: str) -> None:
    gradients = noise(5, 17, 63)
    together, alone = torch.zeros(5, 48), torch.zeros(5, 48)
    projections.sketch_matrices(gradients, together, key=KEY)
    for row in range(5):
        projections.sketch_matrices(gradients[row : row + 1], alone[row : row + 1], key=KEY)
    for found in (together, alone):
        assert_exact(found, *sketch(wide(gradients), 48), 64)
        found.zero_()
    projections.project_rademacher(gradients.flatten(1), together, key=KEY)
    for row in range(5):
        projections.project_rademacher(gradients[row : row + 1].flatten(1), alone[row : row + 1], key=KEY)
    for found in (together, alone):
        assert_exact(found, *project(gradients.flatten(1), 48), 17 * 63)


def test_the_sketch_of_tokens_is_the_sketch_of_their_outer_product(form: str) -> None:
    delta, x = noise(40, 17), noise(40, 33, seed=1)
    tokens, matrix = torch.zeros(1, 80), torch.zeros(1, 80)
    projections.sketch_outer(delta, x, torch.tensor([0, 40]), tokens, key=KEY)
    projections.sketch_matrices((delta.T @ x)[None], matrix, key=KEY)
    torch.testing.assert_close(tokens, matrix, rtol=1e-5, atol=1e-4)


def test_nothing_to_project(form: str) -> None:
    for n in (0, 2):
        projected = torch.full((n, 32), 7.0)
        projections.project_rademacher(torch.zeros(n, 0), projected, key=KEY)
        projections.sketch_outer(
            torch.zeros(0, 5), torch.zeros(0, 3), torch.zeros(n + 1, dtype=torch.int64), projected, key=KEY
        )
        assert (projected == 7).all()
    projections.project_rademacher(torch.zeros(0, 5), torch.zeros(0, 32), key=KEY)
    projections.sketch_matrices(torch.zeros(0, 5, 3), torch.zeros(0, 32), key=KEY)


def test_inputs_that_carry_gradients_and_strides(form: str) -> None:
    delta, x = noise(8, 40).requires_grad_(True), noise(16, 8, seed=1).T
    projected = torch.zeros(1, 48)
    projections.sketch_outer(delta[:, :20], x, torch.tensor([0, 8]), projected, key=KEY)
    assert not projected.requires_grad
    wanted, magnitude = sketch_tokens(delta[:, :20], x, [0, 8], 48)
    assert_exact(projected, wanted, magnitude, 16)


def test_blocks_do_not_change_the_matrix(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch_forms, "_ENTRIES", 200)
    gradients = noise(2, 17, 63)
    dense, sparse = torch.zeros(2, 48), torch.zeros(2, 48)
    torch_forms.project_rademacher(gradients.flatten(1), dense, key=KEY)
    torch_forms.sketch_matrices(gradients, sparse, key=KEY)
    assert_exact(dense, *project(gradients.flatten(1), 48), 17 * 63)
    assert_exact(sparse, *sketch(wide(gradients), 48), 64)


def test_torch_makes_the_same_bits() -> None:
    signs = torch_forms.rademacher_signs(KEY, 137, 400, 2**32 - 60, CPU)
    wanted = reference.rademacher_matrix(KEY, 137, 400, first_row=2**32 - 60) > 0
    assert ((signs.numpy() > 0) == wanted).all()
    bucket, sign = torch_forms.sparse_buckets(KEY, 5, 17, 137, 4096, CPU)
    wanted_bucket, wanted_sign = reference.sparse_buckets(KEY, 17, 137, 4096)
    assert (bucket.numpy() == wanted_bucket[5:]).all()
    assert (sign.numpy() == wanted_sign[5:]).all()


@needs_core
def test_rust_hashes_alike() -> None:
    from diq import _core

    counters = np.random.default_rng(0).integers(0, 2**32, (137, 4), dtype=np.uint32)
    for key in (0, KEY, 2**64 - 1):
        assert (_core.philox(key, counters) == reference.philox(key, counters)).all()


BAD: list[tuple[str, Callable[[], None]]] = [
    ("multiple of 16", lambda: projections.project_rademacher(noise(2, 5), torch.zeros(2, 40), key=0)),
    ("multiple of 16", lambda: projections.project_rademacher(noise(2, 5), torch.zeros(2, 0), key=0)),
    (r"\[2, dim\] float32", lambda: projections.project_rademacher(noise(2, 5), torch.zeros(3, 48), key=0)),
    (r"\[2, dim\] float32", lambda: projections.sketch_matrices(noise(2, 5, 3), torch.zeros(2, 48).double(), key=0)),
    ("contiguous", lambda: projections.sketch_matrices(noise(2, 5, 3), torch.zeros(48, 2).T, key=0)),
    (r"\[n, p\]", lambda: projections.project_rademacher(noise(2, 5, 3), torch.zeros(2, 48), key=0)),
    (r"\[n, out, in\]", lambda: projections.sketch_matrices(noise(2, 5), torch.zeros(2, 48), key=0)),
    ("one dtype", lambda: outer(noise(4, 3).bfloat16(), noise(4, 5))),
    ("one dtype", lambda: outer(noise(4, 3), noise(5, 5))),
    ("int64", lambda: outer(noise(4, 3), noise(4, 5), torch.tensor([0.0, 4.0]))),
]


def outer(delta: Tensor, x: Tensor, offsets: Tensor | None = None) -> None:
    spans = torch.tensor([0, 4]) if offsets is None else offsets
    projections.sketch_outer(delta, x, spans, torch.zeros(1, 48), key=0)


@pytest.mark.parametrize(("message", "call"), BAD)
def test_what_does_not_fit_is_refused(message: str, call: Callable[[], None]) -> None:
    with pytest.raises(ValueError, match=message):
        call()
