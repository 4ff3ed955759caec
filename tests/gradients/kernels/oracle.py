"""What the tests of the kernels share: inputs, and how exact a float32 result has to be."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from torch import Tensor

from diq import _core
from diq.gradients.kernels import reference

NAME = "model.layers.0.self_attn.q_proj.weight"
KEY = reference.parameter_key(0, NAME)
ODD = (1, 15, 17, 63, 137)

needs_core = pytest.mark.skipif(
    not hasattr(_core, "sketch_outer"), reason="the Rust core was built without the projections; run make setup"
)


def noise(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    """Normal numbers, rounded to the dtype."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def wide(tensor: Tensor) -> reference.Matrix:
    """As float64 in numpy."""
    found: reference.Matrix = tensor.detach().cpu().double().numpy()
    return found


def assert_exact(found: Tensor, wanted: reference.Matrix, magnitude: reference.Matrix, terms: int) -> None:
    """Whether ``found`` is ``wanted`` up to float32 rounding.

    Args:
        found: float32.
        wanted: float64.
        magnitude: sum of the absolute values of the terms of each entry.
        terms: how many there are at most. A float32 sum of n terms in any order errs by at most about
            ``n * eps * magnitude``; a tree or blocked sum by far less, so the square root is asked for.
    """
    bound = (4 + np.sqrt(terms)) * np.finfo(np.float32).eps * magnitude + 1e-30
    error = np.abs(wide(found) - wanted)
    assert found.shape == wanted.shape
    assert np.isfinite(wide(found)).all()
    assert (error <= bound).all(), f"off by {float((error / bound).max()):.1f} times the bound"


def project(
    gradients: Tensor, dim: int, key: int = KEY, first_row: int = 0
) -> tuple[reference.Matrix, reference.Matrix]:
    """Dense projection and the magnitude of its terms."""
    values = wide(gradients)
    wanted = reference.project_rademacher(values, dim, key=key, first_row=first_row)
    return wanted, np.abs(values).sum(1, keepdims=True) / np.sqrt(dim) + np.zeros((1, dim))


def sketch(gradients: reference.Matrix, dim: int, key: int = KEY) -> tuple[reference.Matrix, reference.Matrix]:
    """Sketch of ``[n, out, in]`` and the magnitude of its terms."""
    bucket, _ = reference.sparse_buckets(key, gradients.shape[1], gradients.shape[2], dim)
    magnitude = [np.bincount(bucket.ravel(), np.abs(one).ravel(), minlength=dim) for one in gradients]
    return reference.sketch_matrices(gradients, dim, key=key), np.stack(magnitude)


def sketch_tokens(
    delta: Tensor, x: Tensor, offsets: list[int], dim: int, key: int = KEY
) -> tuple[reference.Matrix, reference.Matrix]:
    """Sketch of the samples' outer products and the magnitude of its terms."""
    spans = np.asarray(offsets, np.int64)
    wanted = reference.sketch_outer(wide(delta), wide(x), spans, dim, key=key)
    d, v = np.abs(wide(delta)), np.abs(wide(x))
    outer = np.stack([d[a:b].T @ v[a:b] for a, b in itertools.pairwise(offsets)])
    return wanted, sketch(outer, dim, key)[1]
