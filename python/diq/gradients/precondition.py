"""Preconditioned validation gradients: V <- P^-1 V, module by module, with P a damped estimate of the curvature.

Influence is a dot, so a preconditioner can be put on either side of it (P is symmetric): put on the validation
gradient, the pass over the pool stays what it is. P is estimated from per-sample gradients G = sum_t delta_t x_t^T of
some samples of the pool:

- ``kfac``: P = S (x) A, with A the second moment of inputs and S that of output gradients. V <- S^-1 V A^-1.
- ``ekfac``: the same eigenvectors Q_S, Q_A, and for each pair of them the second moment of Q_S^T G Q_A.
- ``adam``: the second moment of each element of G, under a root.

For ``kfac`` and ``ekfac`` the labels are drawn from the model, which makes the second moment the Fisher matrix; for
``adam`` they are the real ones, as an optimizer sees them. Damping is relative: ``damping`` times the mean of what is
divided by, in each matrix. The cut into modules, the independence of inputs and output gradients and of tokens are the
approximations; docs/method.md says more.

Source: Martens and Grosse (2015, arXiv 1503.05671) for the factors; George et al. (2018, arXiv 1806.03884) for the
re-fitted eigenvalues; Grosse et al. (2023, arXiv 2308.03296), section 2.2 and appendix, for influence and the damping.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from diq.base.errors import RunFailedError
from diq.base.text import amount
from diq.gradients.backward import MatrixGradients, Recorder, backward_pass
from diq.gradients.dots import refuse_twice
from diq.gradients.losses import Draw, slices, wide
from diq.gradients.options import Reduction
from diq.models.layers import Weight
from diq.models.tokens import Batch

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Moments:
    """Second moments of a matrix's inputs and output gradients, added up.

    Attributes:
        inputs: ``sum_t x_t x_t^T``, ``[in, in]``.
        outputs: ``sum_t delta_t delta_t^T``, ``[out, out]``.
        n_tokens: tokens in the sums.
    """

    inputs: Tensor
    outputs: Tensor
    n_tokens: int

    def plus(self, other: Moments) -> Moments:
        """Both sums together."""
        return Moments(self.inputs + other.inputs, self.outputs + other.outputs, self.n_tokens + other.n_tokens)


@dataclass(frozen=True, slots=True)
class Factor:
    """The curvature of a matrix ``[out, in]``, in the basis where it is diagonal.

    Attributes:
        values: ``[out, in]``, not negative: the second moment of the gradient in that basis.
        left: ``[out, out]`` eigenvectors of the output gradients' second moment, a column each; None for the standard
            basis.
        right: ``[in, in]``, likewise of the inputs.
        is_root: whether a gradient is divided by the root of the values.
    """

    values: Tensor
    left: Tensor | None = None
    right: Tensor | None = None
    is_root: bool = False

    @staticmethod
    def of_moments(moments: Moments, n_samples: int) -> Factor:
        """Eigenvectors of both moments, and as values the products of their eigenvalues (``kfac``).

        Args:
            moments: of the matrix.
            n_samples: that the moments were taken over: S is a mean over samples of a sum over tokens, A a mean over
                tokens, so that their product has the size of a squared gradient.
        """
        (s, left), (a, right) = (_eigen(one) for one in (moments.outputs, moments.inputs))
        values = torch.outer(s / n_samples, a / max(1, moments.n_tokens))
        return Factor(values, left, right)

    def solve(self, gradient: Tensor, damping: float) -> Tensor:
        """``(P + damping * mean(P) I)^-1`` times a gradient ``[out, in]``; 0 where the curvature is 0 everywhere."""
        gradient, size = wide(gradient), self._size(damping)
        if self.left is None or self.right is None:
            return _divided(gradient, size)
        turned = self.left.T @ gradient @ self.right
        return self.left @ _divided(turned, size) @ self.right.T

    def is_singular(self, damping: float) -> bool:
        """Whether a gradient would be divided by nothing but rounding."""
        size = self._size(damping)
        return bool(size.min() <= torch.finfo(size.dtype).eps * size.mean())

    def _size(self, damping: float) -> Tensor:
        """What a gradient is divided by."""
        size = self.values.sqrt() if self.is_root else self.values
        return size + damping * size.mean()


def _eigen(moment: Tensor) -> tuple[Tensor, Tensor]:
    # in float64: the small eigenvalues are what an inverse is made of
    values, vectors = torch.linalg.eigh(moment.double())
    return values.clamp(min=0).to(moment.dtype), vectors.to(moment.dtype)


def _divided(values: Tensor, by: Tensor) -> Tensor:
    return torch.where(by > 0, values / by, 0)


# recorders ---------------------------------------------------------------------------------------------------------


class MomentsRecorder(Recorder):
    """Adds up the second moments of inputs and output gradients."""

    def __init__(self) -> None:
        self.found: dict[str, Moments] = {}

    def begin(self, batch: Batch) -> None:
        pass

    def record(self, name: str, x: Tensor, delta: Tensor, tokens: Batch) -> None:
        inputs, outputs = wide(tokens.token_rows(x)), wide(tokens.token_rows(delta))
        moments = Moments(inputs.T @ inputs, outputs.T @ outputs, len(inputs))
        self.found[name] = self.found[name].plus(moments) if name in self.found else moments

    def finish(self) -> Tensor:
        return torch.empty(0)


class SquaresRecorder(Recorder):
    """Adds up the squares of the elements of each sample's gradient.

    Args:
        bases: of each matrix the eigenvectors ``(left, right)`` that the gradient is seen in; None: as it is.
    """

    def __init__(self, bases: Mapping[str, tuple[Tensor, Tensor]] | None = None) -> None:
        self._bases = bases
        self.found: dict[str, Tensor] = {}

    def begin(self, batch: Batch) -> None:
        self._seen: set[str] = set()

    def record(self, name: str, x: Tensor, delta: Tensor, tokens: Batch) -> None:
        refuse_twice(name, self._seen, "a squared gradient")
        x, delta = wide(x), wide(delta)
        if self._bases is not None:
            left, right = self._bases[name]
            x, delta = x @ right, delta @ left
        xs, deltas = tokens.by_sample(x), tokens.by_sample(delta)
        total = torch.zeros(deltas.shape[2], xs.shape[2], dtype=xs.dtype, device=xs.device)
        for part in slices(len(xs), total.numel()):
            total += (deltas[part].transpose(1, 2) @ xs[part]).square().sum(dim=0)
        self.found[name] = self.found[name] + total if name in self.found else total

    def finish(self) -> Tensor:
        return torch.empty(0)


# passes ------------------------------------------------------------------------------------------------------------


def run(
    model: nn.Module,
    weights: Mapping[str, Weight],
    batches: Iterable[tuple[Batch, Draw | None]],
    recorder: Recorder,
    *,
    reduction: Reduction = "mean",
) -> None:
    """Show a recorder the gradients of some batches.

    Args:
        model: a causal language model.
        weights: those that count as parameters.
        batches: tokens, each with the labels to draw; None takes the real ones.
        recorder: is told of every layer.
        reduction: over the answer tokens of a sample.
    """
    device = next(model.parameters()).device
    for batch, draw in batches:
        placed = None if draw is None else draw.to(device)
        backward_pass(model, weights, batch.to(device), [recorder], reduction=reduction, draw=placed)


def precondition(
    folds: Sequence[MatrixGradients], factor_of: Callable[[str], Factor | None], damping: float
) -> list[MatrixGradients]:
    """Validation gradients with the inverse curvature before them; matrices without a factor become 0, in the log.

    Args:
        folds: mean gradients of the same matrices.
        factor_of: gives the factor of a matrix by its name, one at a time: all together may be larger than the model.
        damping: relative to the mean of what is divided by.

    Raises:
        RunFailedError: a curvature is singular, and nothing damps it.
    """
    solved: list[MatrixGradients] = [{} for _ in folds]
    unknown = []
    for name in folds[0]:
        factor = factor_of(name)
        if factor is None or not factor.values.any():
            unknown.append(name)
            for fold, found in zip(folds, solved, strict=True):
                found[name] = torch.zeros_like(fold[name])
            continue
        if factor.is_singular(damping):
            raise RunFailedError(
                f"the curvature of `{name}` is singular: the factor samples do not reach all its directions, and "
                f"--damping {damping:g} adds nothing",
                "give --damping 0.1, or more --factor-samples",
            )
        for fold, found in zip(folds, solved, strict=True):
            found[name] = factor.solve(fold[name], damping).to(fold[name].dtype)
    if unknown:
        log.warning(
            "%d of %s saw no factor sample (experts without a token): they count nothing, first `%s`",
            len(unknown),
            amount(len(folds[0]), "matrix", "matrices"),
            unknown[0],
        )
    return solved
