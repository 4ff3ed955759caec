"""Projected gradients: a few thousand numbers of each sample's gradient, whose dots stand for the dots of gradients.

Three kinds, all linear in the gradient:

- ``rademacher``: dense Johnson-Lindenstrauss, signs over sqrt(dim), made from a hash (docs/projections.md);
- ``sparse``: a signed count sketch, fused with the outer product of a sample's tokens, so that the gradient of a full
  weight matrix exists only in registers;
- ``subspace``: coordinates of each module's gradient in the leading left and right singular directions of the
  validation gradients.

Each is a recorder of ``backward.backward_pass``, and projects a matrix (a mean validation gradient) as well.
"""

from __future__ import annotations

import abc
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from diq.base.errors import UsageError
from diq.gradients.adam import adam_direction
from diq.gradients.adam_state import AdamMoments
from diq.gradients.backward import MatrixGradients, Recorder
from diq.gradients.dots import leading_directions, refuse_twice
from diq.gradients.kernels.projections import project_rademacher, sketch_matrices, sketch_outer
from diq.gradients.kernels.reference import parameter_key
from diq.gradients.losses import slices, wide
from diq.gradients.validation import squared_norm
from diq.models.layers import Weight, matrix_names
from diq.models.tokens import Batch

KINDS = ("rademacher", "sparse", "subspace")


def default_dim(kind: str, params: str) -> int:
    """Columns of a random projection, from the table over the real run in docs/method.md.

    rademacher: the paper's size; sparse: the smallest that keeps 95 % of the top 10 %, also of a task that is new.
    """
    if kind == "rademacher":
        return 4096
    return 16384 if params == "lora" else 65536


class Projection(Recorder):
    """A recorder that projects each sample's gradient, float32 ``[n, dim]``, and the same map for whole gradients."""

    dim: int

    @abc.abstractmethod
    def project(self, gradients: Sequence[MatrixGradients]) -> Tensor:
        """Projections of whole gradients, float32 ``[m, dim]``."""


def keys(weights: Mapping[str, Weight], seed: int) -> dict[str, int]:
    """Key of the random numbers of each matrix."""
    names = [one for name, weight in weights.items() for one in matrix_names(name, weight)]
    return {name: parameter_key(seed, f"{name}.weight") for name in names}


class _Random(Projection):
    """What the two random kinds share."""

    def __init__(self, weights: Mapping[str, Weight], *, dim: int, seed: int) -> None:
        if dim % 16 or not 16 <= dim <= 1 << 20:
            raise UsageError(f"--dim {dim} is not a multiple of 16 between 16 and {1 << 20}", "give 4096, for example")
        self.dim = dim
        self._keys = keys(weights, seed)

    def begin(self, batch: Batch) -> None:
        self._projected = torch.zeros(len(batch), self.dim, device=batch.ids.device)

    def finish(self) -> Tensor:
        return self._projected


class Rademacher(_Random):
    """Dense signs: for parameter sets of LoRA size, since every number of a gradient meets every column.

    Args:
        weights: those that count as parameters.
        dim: columns; a multiple of 16.
        seed: of the matrix.
        moments: Adam's moments by module; then it is the Adam direction of each sample's gradient that is projected
            (LESS), for which the gradient of one module at a time is formed.
        formula: which of the two published forms of that direction (``diq.gradients.adam``).
    """

    def __init__(
        self,
        weights: Mapping[str, Weight],
        *,
        dim: int,
        seed: int,
        moments: AdamMoments | None = None,
        formula: str = "code",
    ) -> None:
        super().__init__(weights, dim=dim, seed=seed)
        self._moments, self._formula = moments, formula

    def begin(self, batch: Batch) -> None:
        super().begin(batch)
        self._seen: set[str] = set()

    def record(self, name: str, x: Tensor, delta: Tensor, tokens: Batch) -> None:
        if self._moments is not None:
            refuse_twice(name, self._seen, "an Adam direction")
        x, delta = tokens.by_sample(x).float(), tokens.by_sample(delta).float()
        for part in slices(len(x), x.shape[2] * delta.shape[2]):
            gradient = delta[part].transpose(1, 2) @ x[part]
            if self._moments is not None:
                gradient = self._direction(name, gradient, self._moments)
            project_rademacher(gradient.flatten(1), self._projected[part], key=self._keys[name])

    def finish(self) -> Tensor:
        if self._moments is not None:
            # Adam also moves the matrix of an expert that no token of the batch was sent to
            still = torch.zeros(1, self.dim, device=self._projected.device)
            for name in self._keys.keys() - self._seen:
                nothing = torch.zeros_like(self._moments.first[f"{name}.weight"])[None]
                direction = self._direction(name, nothing, self._moments)
                project_rademacher(direction.flatten(1), still, key=self._keys[name])
            self._projected += still
        return self._projected

    def _direction(self, name: str, gradient: Tensor, moments: AdamMoments) -> Tensor:
        return adam_direction(
            gradient,
            moments.first[f"{name}.weight"],
            moments.second[f"{name}.weight"],
            step=moments.steps[f"{name}.weight"],
            betas=moments.betas,
            eps=moments.eps,
            formula=self._formula,  # type: ignore[arg-type]
        )

    def project(self, gradients: Sequence[MatrixGradients]) -> Tensor:
        device = next(iter(gradients[0].values())).device
        projected = torch.zeros(len(gradients), self.dim, device=device)
        for name, key in self._keys.items():
            stacked = torch.stack([one[name].float().flatten() for one in gradients])
            project_rademacher(stacked, projected, key=key)
        return projected


class Sparse(_Random):
    """Signed count sketch: every number of a gradient goes to one of ``dim`` buckets, with a sign."""

    def record(self, name: str, x: Tensor, delta: Tensor, tokens: Batch) -> None:
        rows = tokens.token_rows
        sketch_outer(rows(delta), rows(x), tokens.offsets(), self._projected, key=self._keys[name])

    def project(self, gradients: Sequence[MatrixGradients]) -> Tensor:
        device = next(iter(gradients[0].values())).device
        projected = torch.zeros(len(gradients), self.dim, device=device)
        for name, key in self._keys.items():
            sketch_matrices(torch.stack([one[name].float() for one in gradients]).contiguous(), projected, key=key)
        return projected


Basis = dict[str, tuple[Tensor, Tensor]]
"""Module name to left ``[out, r]`` and right ``[in, r]`` directions with orthonormal columns."""


def leading_basis(means: Sequence[MatrixGradients], rank: int) -> Basis:
    """Leading left and right singular directions of the validation gradients of all tasks, each task counting alike.

    Args:
        means: mean gradient of each validation set.
        rank: directions a side and module; fewer where a matrix is smaller.
    """
    lengths = [max(squared_norm(one) ** 0.5, 1e-30) for one in means]
    basis = {}
    for name in means[0]:
        scaled = [one[name] / length for one, length in zip(means, lengths, strict=True)]
        left, _ = leading_directions(torch.cat(scaled, dim=1), rank)
        _, right = leading_directions(torch.cat(scaled, dim=0), rank)
        basis[name] = (left, right)
    return basis


class Subspace(Projection):
    """Coordinates ``U^T G W`` of each matrix' gradient G in the directions of a basis."""

    def __init__(self, basis: Basis) -> None:
        self.basis = basis
        self._places: dict[str, tuple[int, int]] = {}
        at = 0
        for name, (left, right) in basis.items():
            size = left.shape[1] * right.shape[1]
            self._places[name] = (at, at + size)
            at += size
        self.dim = at

    def begin(self, batch: Batch) -> None:
        self._projected = torch.zeros(len(batch), self.dim, device=batch.ids.device)

    def record(self, name: str, x: Tensor, delta: Tensor, tokens: Batch) -> None:
        left, right = self.basis[name]
        # sums over tokens in float32, of products that the model's dtype makes fast
        a = tokens.by_sample(wide(F.linear(x, right.T.to(x.dtype))))
        b = tokens.by_sample(wide(F.linear(delta, left.T.to(delta.dtype))))
        first, last = self._places[name]
        self._projected[:, first:last] += (b.transpose(1, 2) @ a).flatten(1).float()

    def finish(self) -> Tensor:
        return self._projected

    def project(self, gradients: Sequence[MatrixGradients]) -> Tensor:
        parts = []
        for name, (left, right) in self.basis.items():
            parts.append(torch.stack([(left.T @ one[name].to(left.dtype) @ right).flatten() for one in gradients]))
        return torch.cat(parts, dim=1).float()


def basis_arrays(basis: Basis) -> dict[str, Any]:
    """A basis as arrays by name, for a file."""
    found = {}
    for name, (left, right) in basis.items():
        found[f"{name}/left"] = left.float().cpu().numpy()
        found[f"{name}/right"] = right.float().cpu().numpy()
    return found


def basis_from_arrays(arrays: Mapping[str, Any], device: torch.device | str) -> Basis:
    """The basis that :func:`basis_arrays` took apart."""

    def tensor(name: str) -> Tensor:
        return torch.from_numpy(np.array(arrays[name], np.float32)).to(device)

    names = dict.fromkeys(name.rpartition("/")[0] for name in arrays)
    return {name: (tensor(f"{name}/left"), tensor(f"{name}/right")) for name in names}
