"""Dots by forward-mode differentiation and by central differences."""

from __future__ import annotations

import contextlib
import math
import warnings
from collections.abc import Iterable, Mapping

import torch
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

from diq.base.errors import ModelError
from diq.gradients.backward import MatrixGradients, Product, Scored, other_products
from diq.gradients.losses import TokenLosses, token_losses
from diq.gradients.options import Reduction
from diq.gradients.validation import ValidationGradient, squared_norm
from diq.models.architecture import plain_experts
from diq.models.experts import Routing, StackProduct, has_experts, joined
from diq.models.layers import Weight, matrix_names
from diq.models.tokens import Batch


class Forward:
    """The same dots without any backward pass: the derivative of a sample's loss along V, for models whose activations
    do not fit (``<g(z), V> = d/de loss(z; W + e V)`` at e = 0).

    One pass a column: by forward-mode differentiation, or by central differences, which is two plain forwards at
    ``W + e V`` and ``W - e V``. The weights are never changed: ``e V x`` is added to the output of each module.

    Args:
        model: a causal language model.
        weights: those that count as parameters.
        validation: one gradient a validation set.
        central: central differences in place of forward mode.
        step: length of ``e V`` relative to the weights, for central differences.
    """

    def __init__(
        self,
        model: nn.Module,
        weights: Mapping[str, Weight],
        validation: Iterable[ValidationGradient],
        *,
        central: bool = False,
        step: float = 1e-3,
    ) -> None:
        if central and has_experts(model):
            raise ModelError(
                f"the routers of {type(model).__name__} send tokens to other experts at W + eV than at W - eV, and the "
                "difference of the losses is no derivative then",
                "use --method forward, or exact",
            )
        plain_experts(model)
        self.model, self.weights, self.central = model, dict(weights), central
        self._columns: list[MatrixGradients] = []
        self._steps: list[float] = []
        length = math.sqrt(sum(float(one.matrix.double().square().sum()) for one in weights.values()))
        names = {name: matrix_names(name, one) for name, one in weights.items()}
        for gradient in validation:
            for fold in gradient.folds:
                along = math.sqrt(squared_norm(fold))
                self._steps.append(step * length / along if along else 1.0)
                self._columns.append(
                    {each: fold[each].to(one.parameter.dtype) for name, one in weights.items() for each in names[name]}
                )
        self.n_columns = len(self._columns)

    def score(self, batch: Batch, *, reduction: Reduction = "mean") -> Scored:
        """Dots ``[n, columns]`` float64, losses and counts of a batch, as :func:`score_batch` gives them."""
        placed = batch.to(next(self.model.parameters()).device)
        found = []
        with torch.no_grad(), sdpa_kernel(SDPBackend.MATH):
            for column, step in zip(self._columns, self._steps, strict=True):
                token, terms = self._along(placed, column, step)
                found.append(TokenLosses(terms.double(), token.sample, token.counts).by_sample(reduction))
            losses = token.by_sample(reduction)
        return Scored((torch.stack(found, dim=1).cpu(),), losses.cpu(), token.counts.cpu())

    def token_derivatives(self, batch: Batch, column: int) -> tuple[TokenLosses, Tensor]:
        """Losses of the answer tokens and the derivative of each along one column."""
        placed = batch.to(next(self.model.parameters()).device)
        with torch.no_grad(), sdpa_kernel(SDPBackend.MATH):
            return self._along(placed, self._columns[column], self._steps[column])

    def _along(self, batch: Batch, column: MatrixGradients, step: float) -> tuple[TokenLosses, Tensor]:
        if not self.central:
            with warnings.catch_warnings(), forward_ad.dual_level(), _dual(self.weights, column):
                # torch's own rules, which it compiles when the first of them is wanted
                warnings.filterwarnings("ignore", message="`torch.jit.script` is deprecated", category=FutureWarning)
                token = token_losses(self.model, batch)
                value, tangent = forward_ad.unpack_dual(token.values)  # type: ignore[no-untyped-call]
                if tangent is None:
                    tangent = torch.zeros_like(value)
                return TokenLosses(value.clone(), token.sample, token.counts), tangent.clone()
        sides = []
        for sign in (1, -1):
            with _shifted(self.weights, column, sign * step):
                sides.append(token_losses(self.model, batch))
        ahead, behind = sides
        middle = TokenLosses((ahead.values + behind.values) / 2, ahead.sample, ahead.counts)
        return middle, (ahead.values.double() - behind.values.double()) / (2 * step)


def _dual(weights: Mapping[str, Weight], column: MatrixGradients) -> contextlib.AbstractContextManager[None]:
    """Layers whose weights have the column for a tangent."""

    def dual(weight: Tensor, tangent: Tensor) -> Tensor:
        return forward_ad.make_dual(weight, tangent.to(weight.dtype))  # type: ignore[no-untyped-call, no-any-return]

    def product_of(name: str, one: Weight) -> Product:
        weight = one.matrix
        return lambda x, bias: F.linear(x, dual(weight.to(x.dtype), column[name]), bias)

    def stack_product_of(name: str, one: Weight) -> StackProduct:
        def product(x: Tensor, routing: Routing) -> Tensor:
            stack = one.stack_now
            return joined(lambda e, x: F.linear(x, dual(stack[e], column[f"{name}.{e}"])), stack.shape[1])(x, routing)

        return product

    return other_products(weights, product_of, stack_product_of)


def _shifted(
    weights: Mapping[str, Weight], column: MatrixGradients, step: float
) -> contextlib.AbstractContextManager[None]:
    """Layers whose weights are off by so much of the column."""

    def product_of(name: str, one: Weight) -> Product:
        weight = one.matrix
        return lambda x, bias: F.linear(x, weight, bias) + step * F.linear(x, column[name])

    def stack_product_of(name: str, one: Weight) -> StackProduct:
        raise AssertionError("experts are refused")

    return other_products(weights, product_of, stack_product_of)
