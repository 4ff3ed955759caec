"""Projected gradients of real models: the same numbers as projecting the gradients of float64 autograd."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from diq.base.errors import UsageError
from diq.gradients.adam import adam_direction
from diq.gradients.adam_state import AdamMoments
from diq.gradients.backward import score_batch
from diq.gradients.kernels import reference
from diq.gradients.kernels.reference import parameter_key
from diq.gradients.projections import Rademacher, Sparse, Subspace, basis_arrays, basis_from_arrays, leading_basis
from diq.models.layers import matrix_names
from diq.models.tokens import collate
from gradients.test_gradients import Case, gpt2, llama_tied, measured, mixtral, qwen3

LAYOUTS: list[dict[str, Any]] = [{}, {"padding_side": "left"}, {"packed": True}]


@pytest.fixture(scope="module", params=[llama_tied, gpt2, mixtral], ids=lambda build: build.__name__)
def case(request: pytest.FixtureRequest) -> Case:
    return Case(request.param)


def gradients_of(case: Case) -> dict[str, torch.Tensor]:
    """Float64 gradients of the training samples by matrix, ``[n, out, in]``."""
    found, at = {}, 0
    for name, weight in case.weights.items():
        rows, columns = weight.shape[-2:]
        for one in matrix_names(name, weight):
            found[one] = case.gradients[:, at : at + rows * columns].reshape(-1, rows, columns)
            at += rows * columns
    return found


def relative(found: torch.Tensor, expected: Any) -> float:
    expected = torch.as_tensor(np.asarray(expected), dtype=torch.float64)
    return float((found.double() - expected).norm() / expected.norm())


def projected(case: Case, projection: Any, *, batch: int = 5, **layout: Any) -> torch.Tensor:
    parts = [
        score_batch(case.model, case.weights, collate(case.training[at : at + batch], **layout), [projection]).values[0]
        for at in range(0, len(case.training), batch)
    ]
    return torch.cat(parts)


@pytest.mark.parametrize("layout", LAYOUTS, ids=str)
def test_rademacher_equals_the_matrix_times_the_gradient(case: Case, layout: dict[str, Any]) -> None:
    expected = np.zeros((len(case.training), 64))
    for name, gradient in gradients_of(case).items():
        key = parameter_key(3, f"{name}.weight")
        expected += reference.project_rademacher(gradient.flatten(1).numpy(), 64, key=key)
    assert relative(projected(case, Rademacher(case.weights, dim=64, seed=3), **layout), expected) < 1e-5


@pytest.mark.parametrize("layout", LAYOUTS, ids=str)
def test_sparse_equals_the_sketch_of_the_gradient(case: Case, layout: dict[str, Any]) -> None:
    expected = np.zeros((len(case.training), 512))
    for name, gradient in gradients_of(case).items():
        expected += reference.sketch_matrices(gradient.numpy(), 512, key=parameter_key(3, f"{name}.weight"))
    assert relative(projected(case, Sparse(case.weights, dim=512, seed=3), **layout), expected) < 1e-5


@pytest.mark.parametrize("layout", LAYOUTS, ids=str)
def test_subspace_keeps_the_dots_with_what_its_basis_holds(case: Case, layout: dict[str, Any]) -> None:
    gradients = measured(case.model, case.weights, case.validation)
    whole = Subspace(leading_basis([one.mean() for one in gradients], 1000))
    found = projected(case, whole, **layout).double() @ whole.project([one.mean() for one in gradients]).double().T
    assert case.error(found) < 1e-4
    small = Subspace(leading_basis([one.mean() for one in gradients], 4))
    expected = torch.cat(
        [
            (small.basis[name][0].double().T @ gradient @ small.basis[name][1].double()).flatten(1)
            for name, gradient in gradients_of(case).items()
        ],
        dim=1,
    )
    assert small.dim == expected.shape[1]
    assert relative(projected(case, small, **layout), expected) < 1e-4


def test_a_basis_survives_being_taken_apart(case: Case) -> None:
    gradients = measured(case.model, case.weights, case.validation)
    basis = leading_basis([one.mean() for one in gradients], 3)
    again = basis_from_arrays(basis_arrays(basis), "cpu")
    assert list(again) == list(basis)
    assert all(torch.equal(a, b) for name in basis for a, b in zip(again[name], basis[name], strict=True))
    for left, right in basis.values():
        torch.testing.assert_close(left.T @ left, torch.eye(3), rtol=0, atol=1e-5)
        torch.testing.assert_close(right.T @ right, torch.eye(3), rtol=0, atol=1e-5)


@pytest.mark.parametrize("make", [Rademacher, Sparse])
def test_projecting_is_linear_so_the_mean_gradient_may_be_projected(case: Case, make: Any) -> None:
    projection = make(case.weights, dim=256, seed=1)
    (gradient,) = measured(case.model, case.weights, [case.training])
    mean = projected(case, projection).mean(dim=0)
    assert relative(projection.project([gradient.mean()])[0], mean) < 1e-4


@pytest.mark.parametrize("make", [Rademacher, Sparse])
def test_dots_are_unbiased_with_the_variance_of_theory(make: Any) -> None:
    """Over seeds: the mean is the exact dot; the variance is (|a|^2 |b|^2 + <a,b>^2 - 2 sum a_i^2 b_i^2) / dim."""
    case = Case(qwen3)
    gradients = measured(case.model, case.weights, case.validation)
    dim, seeds = 128, 60
    dots = []
    for seed in range(seeds):
        projection = make(case.weights, dim=dim, seed=seed)
        ours = score_batch(case.model, case.weights, collate(case.training[:8]), [projection]).values[0].double()
        dots.append(ours @ projection.project([gradients[0].mean()])[0].double())
    found = torch.stack(dots).numpy()
    validation = torch.cat([gradients[0].mean()[name].flatten() for name in case.weights]).double()
    a, b = case.gradients[:8], validation
    expected = case.expected[:8, 0].numpy()
    variance = ((a.square().sum(1) * b.square().sum() + (a @ b).square() - 2 * (a.square() @ b.square())) / dim).numpy()
    z = (found.mean(axis=0) - expected) / np.sqrt(variance / seeds)
    assert np.abs(z).max() < 4.5
    # one chi-square a sample; they share the matrices, so each is held to the same wide bounds
    ratio = found.var(axis=0, ddof=1) / variance
    # chi-square over its degrees of freedom at 1e-5 and 1 - 1e-5, by Wilson and Hilferty
    spread = 2 / (9 * (seeds - 1))
    low, high = ((1 - spread + z * spread**0.5) ** 3 for z in (-4.26, 4.26))
    assert ratio.min() > low
    assert ratio.max() < high


def test_less_projects_the_adam_direction_of_each_gradient(case: Case) -> None:
    torch.manual_seed(5)
    gradients = gradients_of(case)
    first = {f"{name}.weight": torch.randn(one.shape[1:]) * 1e-3 for name, one in gradients.items()}
    second = {f"{name}.weight": torch.rand(one.shape[1:]) * 1e-5 for name, one in gradients.items()}
    moments = AdamMoments(first, second, dict.fromkeys(first, 7), (0.9, 0.999), 1e-8, None)
    expected = np.zeros((len(case.training), 64))
    for name, gradient in gradients.items():
        weight = f"{name}.weight"
        direction = adam_direction(
            gradient, first[weight].double(), second[weight].double(), step=7, betas=(0.9, 0.999), eps=1e-8
        )
        key = parameter_key(0, weight)
        expected += reference.project_rademacher(direction.flatten(1).numpy(), 64, key=key)
    projection = Rademacher(case.weights, dim=64, seed=0, moments=moments)
    assert relative(projected(case, projection), expected) < 1e-4
    # a sample alone leaves experts out, which Adam moves all the same
    assert relative(projected(case, projection, batch=1), expected) < 1e-4


def test_dims_that_no_kernel_takes_are_refused() -> None:
    case = Case(llama_tied)
    for dim in (0, 8, 100, 1 << 21):
        with pytest.raises(UsageError, match="multiple of 16"):
            Rademacher(case.weights, dim=dim, seed=0)
