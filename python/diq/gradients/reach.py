"""Which of the chosen weights text reaches, and which of their products can be tapped."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from diq.gradients.backward import Product, as_tokens, other_products
from diq.gradients.losses import token_losses
from diq.models.architecture import vocabulary_size
from diq.models.experts import Routing, StackProduct, plain_stack_product
from diq.models.layers import Weight
from diq.models.tokens import Batch, Tokens, collate

# more than one row, and more than a token for every expert's row of a small router
_ROWS, _TOKENS = 2, 8


@dataclass(frozen=True, slots=True)
class Reach:
    """What a few tokens show of the chosen weights.

    Attributes:
        weights: those whose products can be tapped, with the modules that make them.
        unreached: names of those that text does not pass: towers and cross-attention for images or for an encoder.
        unseen: names of those that the loss depends on, in a product of a form that is not known here.
    """

    weights: dict[str, Weight]
    unreached: list[str]
    unseen: list[str]


def reach(model: nn.Module, weights: Mapping[str, Weight]) -> Reach:
    """Run a few tokens, and see which products are made, and on which of the others the loss depends.

    Args:
        model: a causal language model.
        weights: those that were chosen.
    """
    ids = np.arange(_ROWS * _TOKENS, dtype=np.int32).reshape(_ROWS, _TOKENS) % vocabulary_size(model)
    batch = collate([Tokens(row, 1) for row in ids]).to(next(model.parameters()).device)
    found = _made(model, weights, batch)
    rest = {name: weight for name, weight in weights.items() if name not in found}
    if not rest:
        return Reach(dict(weights), [], [])
    # some blocks make the product with a layer's weight themselves
    above = _blocks(model)
    around = {
        name: replace(weight, owners=tuple(above[one] for one in weight.owners))
        for name, weight in rest.items()
        if weight.experts is None and all(one in above for one in weight.owners)
    }
    made = _made(model, around, batch)
    tapped = {name: around.get(name, weight) for name, weight in weights.items() if name in found or name in made}
    rest = {name: weight for name, weight in rest.items() if name not in made}
    used = _used(model, rest, batch)
    return Reach(tapped, [name for name in rest if name not in used], [name for name in rest if name in used])


def _blocks(model: nn.Module) -> dict[nn.Module, nn.Module]:
    """The module that each is in."""
    return {child: module for module in model.modules() for child in module.children()}


@torch.no_grad()
def _made(model: nn.Module, weights: Mapping[str, Weight], batch: Batch) -> set[str]:
    """Names of the weights whose products are asked for, with every token of the batch."""
    found: set[str] = set()
    other: set[str] = set()

    def product_of(name: str, one: Weight) -> Product:
        weight = one.matrix

        def product(x: Tensor, bias: Tensor | None) -> Tensor:
            (found if as_tokens(x, batch) is not None else other).add(name)
            return F.linear(x, weight.to(x.dtype), bias)

        return product

    def stack_product_of(name: str, one: Weight) -> StackProduct:
        def product(x: Tensor, routing: Routing) -> Tensor:
            (found if len(routing.slots) == batch.ids.numel() else other).add(name)
            return plain_stack_product(one.stack_now)(x, routing)

        return product

    with other_products(weights, product_of, stack_product_of):
        token_losses(model, batch)
    return found - other


def _used(model: nn.Module, weights: Mapping[str, Weight], batch: Batch) -> set[str]:
    """Names of the weights on which the loss depends."""
    if not weights:
        return set()
    parameters = [weight.parameter for weight in weights.values()]
    before = [one.requires_grad for one in parameters]
    try:
        for one in parameters:
            one.requires_grad_(True)
        with torch.enable_grad():
            loss = token_losses(model, batch).values.sum()
            if not loss.requires_grad:
                return set()
            gradients = torch.autograd.grad(loss, parameters, allow_unused=True)
    finally:
        for one, needed in zip(parameters, before, strict=True):
            one.requires_grad_(needed)
    return {
        name for name, gradient in zip(weights, gradients, strict=True) if gradient is not None and bool(gradient.any())
    }
