"""Per-token dots in plain torch against float64."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from diq.gradients.kernels import dots, reference
from gradients.kernels.oracle import ODD, assert_exact, noise, wide


@pytest.mark.parametrize("sets", [1, 3])
@pytest.mark.parametrize("t", [*ODD, 300])
@pytest.mark.parametrize("shape", [(1, 1), (17, 63), (137, 15)], ids=str)
def test_dots_in_float32(shape: tuple[int, int], t: int, sets: int, monkeypatch: pytest.MonkeyPatch) -> None:
    # small chunks, so that there are several
    monkeypatch.setattr(dots, "_CPU_ENTRIES", 1000)
    out, inner = shape
    delta, x, stacked = noise(t, out), noise(t, inner, seed=1), noise(sets * out, inner, seed=2)
    found = dots.token_dots(delta, x, stacked, sets)
    wanted = reference.token_dots(wide(delta), wide(x), wide(stacked), sets)
    magnitude = reference.token_dots(np.abs(wide(delta)), np.abs(wide(x)), np.abs(wide(stacked)), sets)
    assert_exact(found, wanted, magnitude, out * inner)


def test_float64_stays_float64() -> None:
    delta, x, stacked = (noise(n, 17, seed=n).double() for n in (63, 63, 17))
    found = dots.token_dots(delta, x, stacked, 1)
    assert found.dtype == torch.float64
    np.testing.assert_allclose(found.numpy(), reference.token_dots(delta, x, stacked, 1), rtol=1e-12, atol=1e-12)


def test_bfloat16_rounds_the_product_alone() -> None:
    delta, x, stacked = (noise(n, 170, seed=seed, dtype=torch.bfloat16) for seed, n in enumerate((63, 63, 170)))
    found = dots.token_dots(delta, x, torch.cat([stacked, stacked]), 2)
    assert found.dtype == torch.float32
    product = (wide(x) @ wide(stacked).T)[:, :, None]
    bound = (np.abs(wide(delta))[:, :, None] * np.abs(product) * 2.0**-8).sum(axis=1)
    wanted = reference.token_dots(wide(delta), wide(x), wide(torch.cat([stacked, stacked])), 2)
    assert (np.abs(wide(found) - wanted) <= 2 * bound).all()


def test_a_row_of_nan_reaches_its_own_terms_alone() -> None:
    delta, x, stacked = noise(20, 17), noise(20, 63), noise(34, 63)
    clean = dots.token_dots(delta, x, stacked, 2)
    delta[3], x[7] = float("nan"), float("inf")
    found = dots.token_dots(delta, x, stacked, 2)
    others = [row for row in range(20) if row not in (3, 7)]
    torch.testing.assert_close(found[others], clean[others])
    assert not torch.isfinite(found[[3, 7]]).any()


def test_no_tokens_and_no_gradient() -> None:
    assert dots.token_dots(noise(0, 5), noise(0, 3), noise(10, 3), 2).shape == (0, 2)
    found = dots.token_dots(noise(4, 5).requires_grad_(True), noise(4, 3), noise(10, 3).requires_grad_(True), 2)
    assert not found.requires_grad


@pytest.mark.parametrize(
    ("delta", "x", "stacked"), [((4, 5), (3, 3), (10, 3)), ((4, 5), (4, 3), (9, 3)), ((4, 5), (4, 3), (10, 4))]
)
def test_what_does_not_fit_is_refused(delta: tuple[int, int], x: tuple[int, int], stacked: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match=r"must be \[t, out\]"):
        dots.token_dots(noise(*delta), noise(*x), noise(*stacked), 2)
    with pytest.raises(ValueError, match="one dtype"):
        dots.token_dots(noise(4, 5), noise(4, 3).double(), noise(10, 3), 2)
