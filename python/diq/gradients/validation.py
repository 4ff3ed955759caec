"""Mean gradients of validation sets."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from diq.gradients.backward import MatrixGradients, Recorder, backward_pass
from diq.gradients.losses import wide
from diq.gradients.options import Reduction
from diq.models.layers import Weight, matrix_names
from diq.models.tokens import Batch, Tokens


@dataclass(frozen=True, slots=True)
class ValidationTokens:
    """A tokenised validation set."""

    name: str
    samples: Sequence[Tokens]

    def folds(self, n: int) -> list[list[Tokens]]:
        """Its parts: sample i goes to part i modulo n; a set smaller than n has one sample a part."""
        k = min(n, len(self.samples))
        return [list(self.samples[i::k]) for i in range(k)]


def fold_sizes(n_samples: int, folds: int) -> list[int]:
    """Samples of each part that ``ValidationTokens.folds`` makes of so many."""
    k = min(folds, n_samples)
    return [len(range(i, n_samples, k)) for i in range(k)]


@dataclass(frozen=True, slots=True)
class ValidationFacts:
    """What is known of a validation set once its gradient is.

    Attributes:
        fold_sizes: samples of each fold.
        gradient_norm: Euclidean norm of the mean gradient; None where there is none (``less``).
        kept_share: share of its squared norm that a rank or a basis holds; None when all of it.
    """

    fold_sizes: tuple[int, ...]
    gradient_norm: float | None
    kept_share: float | None


class _Mean(Recorder):
    """Adds up the gradients of all samples."""

    def __init__(self) -> None:
        self.total: MatrixGradients = {}

    def begin(self, batch: Batch) -> None:
        pass

    def record(self, name: str, x: Tensor, delta: Tensor, tokens: Batch) -> None:
        gradient = wide(tokens.token_rows(delta)).T @ wide(tokens.token_rows(x))
        self.total[name] = self.total[name] + gradient if name in self.total else gradient

    def finish(self) -> Tensor:
        return torch.empty(0)


def mean_gradient(
    model: nn.Module, weights: Mapping[str, Weight], batches: Sequence[Batch], *, reduction: Reduction = "mean"
) -> MatrixGradients:
    """Mean gradient of the samples of some batches (Eq. 3): ``(1/n) sum_z g(z)`` for each matrix.

    Args:
        model: a causal language model, on the device of the result.
        weights: those that count as parameters.
        batches: tokens; every sample has at least one answer token.
        reduction: over the answer tokens of a sample.

    Returns:
        ``[out, in]`` each, float32 (float64 for a float64 model); zeros, which take no memory, of an expert that no
        token was sent to.
    """
    n = sum(len(batch) for batch in batches)
    mean = _Mean()
    device = next(model.parameters()).device
    for batch in batches:
        backward_pass(model, weights, batch.to(device), [mean], reduction=reduction, scale=1 / n)
    found = {}
    # the backward pass met them last to first
    for name, weight in weights.items():
        nothing = wide(torch.zeros((), dtype=weight.parameter.dtype, device=device)).expand(weight.shape[-2:])
        for one in matrix_names(name, weight):
            found[one] = mean.total.get(one, nothing)
    return found


@dataclass(frozen=True, slots=True)
class ValidationGradient:
    """Mean gradient of each fold of a validation set; together they are the mean gradient of the set.

    Attributes:
        folds: mean gradient of each fold.
        sizes: samples of each fold.
    """

    folds: tuple[MatrixGradients, ...]
    sizes: tuple[int, ...]

    def mean(self) -> MatrixGradients:
        """Mean gradient of the set (Eq. 3)."""
        if len(self.folds) == 1:
            return self.folds[0]
        shares = self.shares()
        return {
            name: sum((share * fold[name] for share, fold in zip(shares, self.folds, strict=True)), torch.tensor(0.0))
            for name in self.folds[0]
        }

    def shares(self) -> list[float]:
        """Share of each fold in the mean."""
        return [size / sum(self.sizes) for size in self.sizes]

    def norm(self) -> float:
        """Euclidean norm of the mean gradient."""
        return math.sqrt(squared_norm(self.mean()))


def squared_norm(gradient: MatrixGradients) -> float:
    """Squared Euclidean norm over all modules."""
    return float(sum(one.double().square().sum() for one in gradient.values()))
