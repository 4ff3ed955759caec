"""LESS against torch's own Adam step and loops by the book, in float64."""

from __future__ import annotations

import math
from typing import get_args

import pytest
import torch
from torch import Tensor

from diq.gradients.adam import adam_direction, unit_mean
from diq.gradients.options import Formula

BETAS = (0.9, 0.999)
SHAPE = (5, 3)


def trained(n_steps: int, *, size: float, eps: float, betas: tuple[float, float] = BETAS) -> tuple[Tensor, ...]:
    """A parameter and torch's optimizer after some steps with random gradients of a size."""
    generator = torch.Generator().manual_seed(n_steps)
    parameter = torch.nn.Parameter(torch.randn(SHAPE, generator=generator, dtype=torch.float64))
    optimizer = torch.optim.Adam([parameter], lr=1e-3, betas=betas, eps=eps)
    for _ in range(n_steps):
        parameter.grad = size * torch.randn(SHAPE, generator=generator, dtype=torch.float64)
        optimizer.step()
    state = optimizer.state[parameter]
    zero = torch.zeros(SHAPE, dtype=torch.float64)
    gradient = size * torch.randn(SHAPE, generator=generator, dtype=torch.float64)
    first, second = state.get("exp_avg", zero).clone(), state.get("exp_avg_sq", zero).clone()
    before = parameter.detach().clone()
    parameter.grad = gradient.clone()
    optimizer.step()
    return gradient, first, second, (before - parameter.detach()) / 1e-3


@pytest.mark.parametrize("eps", [1e-8, 1e-3])
@pytest.mark.parametrize("size", [1.0, 1e-5])
@pytest.mark.parametrize("n_steps", [0, 1, 2, 40])
def test_adam_is_the_step_that_torch_takes(n_steps: int, size: float, eps: float) -> None:
    gradient, first, second, step = trained(n_steps, size=size, eps=eps, betas=(0.8, 0.95))
    direction = adam_direction(gradient[None], first, second, step=n_steps, betas=(0.8, 0.95), eps=eps, formula="adam")
    assert torch.allclose(direction[0], step, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("n_steps", [0, 3])
def test_the_paper_is_torchs_step_but_for_the_place_of_epsilon(n_steps: int) -> None:
    gradient, first, second, step = trained(n_steps, size=1.0, eps=1e-16)
    direction = adam_direction(gradient[None], first, second, step=n_steps, betas=BETAS, eps=1e-16, formula="paper")
    assert torch.allclose(direction[0], step, rtol=1e-9)


def by_the_book(g: float, m: float, v: float, step: int, formula: str, eps: float) -> float:
    """One element, written out."""
    m, v = 0.9 * m + (1 - 0.9) * g, 0.999 * v + (1 - 0.999) * g**2
    if formula == "code":
        return m / math.sqrt(v + eps)
    m, v = m / (1 - 0.9 ** (step + 1)), v / (1 - 0.999 ** (step + 1))
    return m / math.sqrt(v + eps) if formula == "paper" else m / (math.sqrt(v) + eps)


@pytest.mark.parametrize("formula", get_args(Formula))
@pytest.mark.parametrize("b", [1, 4])
@pytest.mark.parametrize("size", [1.0, 1e-4, 1e-7])
def test_each_formula_is_the_formula(formula: Formula, b: int, size: float) -> None:
    generator = torch.Generator().manual_seed(b)
    gradients = size * torch.randn((b, *SHAPE), generator=generator, dtype=torch.float64)
    first = 0.1 * size * torch.randn(SHAPE, generator=generator, dtype=torch.float64)
    second = (0.1 * size * torch.randn(SHAPE, generator=generator, dtype=torch.float64)) ** 2
    direction = adam_direction(gradients, first, second, step=7, betas=BETAS, eps=1e-8, formula=formula)
    assert direction.shape == gradients.shape
    for at in torch.cartesian_prod(*(torch.arange(n) for n in gradients.shape)).tolist():
        i, j, k = at
        wanted = by_the_book(float(gradients[i, j, k]), float(first[j, k]), float(second[j, k]), 7, formula, 1e-8)
        assert float(direction[i, j, k]) == pytest.approx(wanted, rel=1e-12)


def test_epsilon_under_the_root_damps_small_gradients() -> None:
    # root mean square 1e-6: hidden below sqrt(eps) = 1e-4 under the root, far above eps outside
    gradient = torch.full((1, 2), 1e-6, dtype=torch.float64)
    first, second = gradient[0], gradient[0] ** 2
    sizes = {
        formula: float(
            adam_direction(gradient, first, second, step=10**5, betas=BETAS, eps=1e-8, formula=formula).max()
        )
        for formula in get_args(Formula)
    }
    assert sizes["adam"] == pytest.approx(1, rel=0.02)
    assert sizes["code"] == pytest.approx(0.01, rel=0.02)
    assert sizes["paper"] == pytest.approx(0.01, rel=0.02)


@pytest.mark.parametrize("formula", get_args(Formula))
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_low_precision_gradients_are_widened(formula: Formula, dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(0)
    gradients = torch.randn((3, *SHAPE), generator=generator).to(dtype)
    first, second = torch.randn(SHAPE, generator=generator), torch.rand(SHAPE, generator=generator)
    kept = gradients.clone(), first.clone(), second.clone()
    found = adam_direction(gradients, first, second, step=3, betas=BETAS, eps=1e-8, formula=formula)
    wide = adam_direction(
        gradients.double(), first.double(), second.double(), step=3, betas=BETAS, eps=1e-8, formula=formula
    )
    assert found.dtype == torch.float32
    assert torch.allclose(found.double(), wide, rtol=1e-5, atol=1e-6)
    for before, after in zip(kept, (gradients, first, second), strict=True):
        assert torch.equal(before, after)


def test_nothing_so_far_and_no_epsilon_is_no_step() -> None:
    zero = torch.zeros(2, 3)
    for formula in get_args(Formula):
        direction = adam_direction(zero[None], zero, zero, step=0, betas=BETAS, eps=0.0, formula=formula)
        assert torch.equal(direction, zero[None])


def test_an_empty_batch() -> None:
    moment = torch.ones(2, 3)
    direction = adam_direction(torch.zeros(0, 2, 3), moment, moment, step=1, betas=BETAS, eps=1e-8)
    assert direction.shape == (0, 2, 3)


def test_moments_of_another_shape_are_refused() -> None:
    moment = torch.ones(3, 2)
    with pytest.raises(ValueError, match="gradients"):
        adam_direction(torch.zeros(4, 2, 3), moment, moment, step=1, betas=BETAS, eps=1e-8)


# validation ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("n", "m", "k"), [(137, 5, 63), (1, 1, 1), (3, 40, 8)])
def test_the_dot_with_the_unit_mean_is_the_mean_cosine(n: int, m: int, k: int) -> None:
    generator = torch.Generator().manual_seed(n)
    train = torch.randn((n, k), generator=generator, dtype=torch.float64)
    validation = 1e-3 * torch.randn((m, k), generator=generator, dtype=torch.float64)
    found = train / train.norm(dim=1, keepdim=True) @ unit_mean(validation)
    for i in range(n):
        total = 0.0
        for j in range(m):
            dot = sum(float(train[i, c]) * float(validation[j, c]) for c in range(k))
            lengths = [math.sqrt(sum(float(x) ** 2 for x in row)) for row in (train[i], validation[j])]
            total += dot / (lengths[0] * lengths[1])
        assert float(found[i]) == pytest.approx(total / m, rel=1e-9, abs=1e-12)


def test_blocks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    validation = torch.randn((7, 16), generator=torch.Generator().manual_seed(0))
    whole = unit_mean(validation)
    monkeypatch.setattr("diq.gradients.adam._BLOCK_ROWS", 3)
    assert torch.allclose(unit_mean(validation), whole, rtol=1e-12)


def test_a_mean_of_unit_vectors_is_not_the_unit_of_the_mean() -> None:
    # a long validation gradient counts as much as a short one
    validation = torch.tensor([[100.0, 0.0], [0.0, 1.0]])
    assert torch.allclose(unit_mean(validation), torch.tensor([0.5, 0.5], dtype=torch.float64))
    # a row of zeros has no direction, and counts in the mean
    assert unit_mean(torch.tensor([[0.0, 0.0], [2.0, 0.0]])).tolist() == [0.5, 0]
