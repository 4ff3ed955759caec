"""Dots by forward-mode differentiation and by central differences."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping

import torch
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

from diq.gradients.backward import MatrixGradients, Product, Scored, other_products, weight_of
from diq.gradients.losses import TokenLosses, token_losses
from diq.gradients.options import Reduction
from diq.gradients.validation import ValidationGradient, squared_norm
from diq.models.architecture import plain_experts
from diq.models.tokens import Batch


class Forward:
    """The same dots without any backward pass: the derivative of a sample's loss along V, for models whose activations
    do not fit (``<g(z), V> = d/de loss(z; W + e V)`` at e = 0).

    One pass a column: by forward-mode differentiation, or by central differences, which is two plain forwards at
    ``W + e V`` and ``W - e V``. The weights are never changed: ``e V x`` is added to the output of each module.

    Args:
        model: a causal language model.
        modules: the linear modules that count as parameters.
        validation: one gradient a validation set.
        central: central differences in place of forward mode.
        step: length of ``e V`` relative to the weights, for central differences.
    """

    def __init__(
        self,
        model: nn.Module,
        modules: Mapping[str, nn.Module],
        validation: Iterable[ValidationGradient],
        *,
        central: bool = False,
        step: float = 1e-3,
    ) -> None:
        plain_experts(model)
        self.model, self.modules, self.central = model, dict(modules), central
        self._columns: list[MatrixGradients] = []
        self._steps: list[float] = []
        weights = math.sqrt(sum(float(weight_of(one).double().square().sum()) for one in modules.values()))
        for gradient in validation:
            for fold in gradient.folds:
                length = math.sqrt(squared_norm(fold))
                self._steps.append(step * weights / length if length else 1.0)
                self._columns.append({name: fold[name].to(weight_of(one).dtype) for name, one in modules.items()})
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
            with forward_ad.dual_level(), other_products(self.modules, _dual_product(column)):
                token = token_losses(self.model, batch)
                value, tangent = forward_ad.unpack_dual(token.values)  # type: ignore[no-untyped-call]
                if tangent is None:
                    tangent = torch.zeros_like(value)
                return TokenLosses(value.clone(), token.sample, token.counts), tangent.clone()
        sides = []
        for sign in (1, -1):
            with other_products(self.modules, _shifted_product(column, sign * step)):
                sides.append(token_losses(self.model, batch))
        ahead, behind = sides
        middle = TokenLosses((ahead.values + behind.values) / 2, ahead.sample, ahead.counts)
        return middle, (ahead.values.double() - behind.values.double()) / (2 * step)


def _dual_product(column: MatrixGradients) -> Callable[[str, nn.Module], Product]:
    def product_of(name: str, module: nn.Module) -> Product:
        weight = weight_of(module)

        def product(x: Tensor, bias: Tensor | None) -> Tensor:
            dual = forward_ad.make_dual(weight, column[name])  # type: ignore[no-untyped-call]
            return F.linear(x, dual, bias)

        return product

    return product_of


def _shifted_product(column: MatrixGradients, step: float) -> Callable[[str, nn.Module], Product]:
    def product_of(name: str, module: nn.Module) -> Product:
        weight = weight_of(module)

        def product(x: Tensor, bias: Tensor | None) -> Tensor:
            return F.linear(x, weight, bias) + step * F.linear(x, column[name])

        return product

    return product_of
