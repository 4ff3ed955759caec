"""Mixtures of experts: many linear layers of one shape, whose matrices a model keeps in one parameter.

A router sends every token to a few experts. What each expert does is two or three linear layers; all the experts' first
layers are one *stack* here, and so on. :func:`experts_forward` is what a module of experts computes, with the products
of its stacks made by the caller, over the rows that each expert was sent and no others.
"""

from __future__ import annotations

import inspect
import itertools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

StackProduct = Callable[[Tensor, "Routing"], Tensor]
"""Rows ``[s, in]`` of all experts, one after another, to ``[s, out]``."""

# grouped_mm wants rows that begin at multiples of 16 bytes
_ALIGNED = 8


@dataclass(frozen=True)
class Routing:
    """Which expert sees which token.

    Attributes:
        tokens: token of each row, among the flattened tokens of the batch: int64 ``[s]``. The rows of an expert stand
            together, in the order of their tokens.
        slots: rows of each token, ``[tokens, k]``.
        offsets: where each expert's rows begin, ``[experts + 1]``; rows beyond the last belong to none.
    """

    tokens: Tensor
    slots: Tensor
    offsets: Tensor

    @staticmethod
    def of(index: Tensor, n_experts: int) -> tuple[Routing, Tensor]:
        """The routing that sends token i to the experts ``index[i]``, ``[tokens, k]``.

        Returns:
            The routing, and which entry of the flattened index each row comes from, ``[s]``.
        """
        k = index.shape[1]
        experts, order = torch.sort(index.reshape(-1), stable=True)
        slots = torch.empty_like(order)
        slots[order] = torch.arange(len(order), device=order.device)
        bounds = torch.arange(n_experts + 1, device=index.device, dtype=experts.dtype)
        return Routing(order // k, slots.view(-1, k), torch.searchsorted(experts, bounds)), order

    @cached_property
    def spans(self) -> list[tuple[int, int, int]]:
        """Expert, first row and end of the experts that have any; asking a GPU for it waits for the GPU."""
        bounds = self.offsets.tolist()
        return [(e, a, b) for e, (a, b) in enumerate(itertools.pairwise(bounds)) if a < b]

    def by_token(self, rows: Tensor) -> Tensor:
        """Sum of the rows of each token: ``[s, c]`` to ``[tokens, c]``; the same bits every time."""
        return rows[self.slots].sum(dim=1)

    def experts(self, like: Tensor) -> Tensor:
        """Expert of each row ``[s]``; rows beyond the last have the last."""
        rows = torch.arange(len(self.tokens), device=like.device)
        return torch.searchsorted(self.offsets[1:], rows, right=True).clamp(max=len(self.offsets) - 2)


@torch.no_grad()
def stack_product(x: Tensor, stack: Tensor, routing: Routing) -> Tensor:
    """Each row times its expert's matrix, outside of autograd.

    Args:
        x: ``[s, in]``.
        stack: ``[experts, out, in]``, the same dtype.
        routing: whose rows they are.

    Returns:
        ``[s, out]``; zeros for rows beyond the last expert's.
    """
    y = x.new_zeros(len(x), stack.shape[1])
    if x.is_cuda and x.dtype is torch.bfloat16 and not any(n % _ALIGNED for n in stack.shape[1:]):
        # one kernel, without asking the GPU how many rows each expert has
        offsets = routing.offsets[1:].to(torch.int32)
        grouped = F.grouped_mm(x, stack[: len(offsets)].mT, offs=offsets)
        return torch.where((torch.arange(len(x), device=x.device) < routing.offsets[-1])[:, None], grouped, y)
    for expert, first, end in routing.spans:
        torch.mm(x[first:end], stack[expert].T, out=y[first:end])
    return y


def plain_stack_product(stack: Tensor) -> StackProduct:
    """The product with a stack out of single ones, each of which any kind of differentiation knows."""
    return joined(lambda expert, x: F.linear(x, stack[expert]), stack.shape[1])


def joined(product: Callable[[int, Tensor], Tensor], out: int) -> StackProduct:
    """A product with a stack, made expert by expert.

    Args:
        product: expert and its rows ``[r, in]`` to ``[r, out]``.
        out: columns of the result.
    """

    def whole(x: Tensor, routing: Routing) -> Tensor:
        parts = [product(expert, x[first:end]) for expert, first, end in routing.spans]
        done = sum(len(one) for one in parts)
        return torch.cat([*parts, x.new_zeros(len(x) - done, out)])

    return whole


# forms of experts in transformers ------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Stack:
    """A parameter that holds a matrix for each expert.

    Attributes:
        parameter: ``[experts, ...]``, or the matrices below each other (DBRX).
        experts: how many.
        transposed: whether a matrix is stored ``[in, out]``.
    """

    parameter: Tensor
    experts: int
    transposed: bool


def stacks_of(module: Any) -> dict[str, Stack]:
    """The stacks of a module of experts, by their names in it; none for any other module."""
    form = _form_of(module)
    return {} if form is None else form.stacks(module)


def has_experts(model: nn.Module) -> bool:
    """Whether tokens of the model are routed to experts."""
    return any(_form_of(module) is not None for module in model.modules())


def experts_forward(module: Any, products: Mapping[str, StackProduct]) -> Callable[..., Tensor]:
    """The forward of a module of experts with other products.

    Args:
        module: one that has :func:`stacks_of`.
        products: by name of the stack; the others' are made plainly.
    """
    form = _form_of(module)
    assert form is not None
    signature = inspect.signature(type(module).forward)

    def forward(*args: Any, **options: Any) -> Tensor:
        # an adapter changes the stacks for the time of a forward
        others = {name: one for name, one in form.stacks(module).items() if name not in products}
        every = {name: plain_stack_product(matrices(one)) for name, one in others.items()} | dict(products)
        _, *given = signature.bind(module, *args, **options).arguments.values()
        return form.forward(module, every, *given)  # type: ignore[no-any-return]

    return forward


def matrices(stack: Stack) -> Tensor:
    """``[experts, out, in]``, a view of the parameter."""
    weight = stack.parameter.detach()
    weight = weight.view(stack.experts, -1, weight.shape[-1])
    return weight.mT if stack.transposed else weight


def _up_and_down(module: Any, up: str, *, transposed: bool) -> dict[str, Stack]:
    found = {name: getattr(module, name) for name in (up, "down_proj")}
    return {name: Stack(one, len(one), transposed) for name, one in found.items()}


class _Standard:
    """What transformers' ``use_experts_implementation`` stands on: about 70 families."""

    @staticmethod
    def fits(module: Any) -> bool:
        return all(hasattr(module, one) for one in ("has_gate", "has_bias", "is_transposed", "_apply_gate"))

    @staticmethod
    def stacks(module: Any) -> dict[str, Stack]:
        return _up_and_down(module, "gate_up_proj" if module.has_gate else "up_proj", transposed=module.is_transposed)

    @staticmethod
    def forward(
        module: Any, products: Mapping[str, StackProduct], hidden: Tensor, index: Tensor, weights: Tensor
    ) -> Tensor:
        first = "gate_up_proj" if module.has_gate else "up_proj"
        routing, order = Routing.of(index, len(getattr(module, first)))
        biases = {}
        if module.has_bias:
            experts = routing.experts(hidden)
            biases = {name: getattr(module, f"{name}_bias")[experts] for name in (first, "down_proj")}
        inner = products[first](hidden[routing.tokens], routing)
        if first in biases:
            inner = inner + biases[first]
        inner = module._apply_gate(inner) if module.has_gate else module.act_fn(inner)
        outer = products["down_proj"](inner, routing)
        if biases:
            outer = outer + biases["down_proj"]
        if module.has_post_expert_norm:
            outer = module.post_expert_norm(outer)
        outer = outer * weights.reshape(-1)[order].unsqueeze(-1)
        return routing.by_token(outer).to(hidden.dtype)


class _Identity:
    """LongCat-Flash: indices beyond the last expert stand for the token itself."""

    @staticmethod
    def fits(module: Any) -> bool:
        return type(module).__name__ == "LongcatFlashExperts" and module.gate_up_proj is not None

    @staticmethod
    def stacks(module: Any) -> dict[str, Stack]:
        return _up_and_down(module, "gate_up_proj", transposed=False)

    @staticmethod
    def forward(
        module: Any, products: Mapping[str, StackProduct], hidden: Tensor, index: Tensor, weights: Tensor
    ) -> Tensor:
        routing, order = Routing.of(index, module.num_routed_experts)
        x = hidden[routing.tokens]
        gate, up = products["gate_up_proj"](x, routing).chunk(2, dim=-1)
        outer = products["down_proj"](module.act_fn(gate) * up, routing)
        beyond = torch.arange(len(x), device=x.device) >= routing.offsets[-1]
        outer = torch.where(beyond[:, None], x, outer) * weights.reshape(-1)[order].unsqueeze(-1)
        return routing.by_token(outer.to(hidden.dtype))


class _EveryToken:
    """Llama 4: every expert sees every token, times its router's score, which is 0 for those not meant."""

    @staticmethod
    def fits(module: Any) -> bool:
        return type(module).__name__ == "Llama4TextExperts"

    @staticmethod
    def stacks(module: Any) -> dict[str, Stack]:
        return _up_and_down(module, "gate_up_proj", transposed=True)

    @staticmethod
    def forward(module: Any, products: Mapping[str, StackProduct], hidden: Tensor) -> Tensor:
        n_experts = len(module.gate_up_proj)
        rows = torch.arange(len(hidden), device=hidden.device).view(n_experts, -1)
        n_tokens = rows.shape[1]
        offsets = torch.arange(n_experts + 1, device=hidden.device) * n_tokens
        routing = Routing(rows.reshape(-1) % n_tokens, rows.T, offsets)
        gate, up = products["gate_up_proj"](hidden, routing).chunk(2, dim=-1)
        return products["down_proj"](up * module.act_fn(gate), routing)


class _BelowEachOther:
    """DBRX: the matrices of all experts stand below each other in three 2-D parameters."""

    @staticmethod
    def fits(module: Any) -> bool:
        return type(module).__name__ == "DbrxExperts"

    @staticmethod
    def stacks(module: Any) -> dict[str, Stack]:
        n = module.num_experts
        return {
            "mlp.w1": Stack(module.mlp.w1, n, transposed=False),
            "mlp.v1": Stack(module.mlp.v1, n, transposed=False),
            "mlp.w2": Stack(module.mlp.w2, n, transposed=True),
        }

    @staticmethod
    def forward(
        module: Any, products: Mapping[str, StackProduct], hidden: Tensor, index: Tensor, weights: Tensor
    ) -> Tensor:
        shape = hidden.shape
        hidden = hidden.reshape(-1, shape[-1])
        routing, order = Routing.of(index, module.num_experts)
        x = hidden[routing.tokens]
        inner = module.mlp.activation_fn(products["mlp.w1"](x, routing)) * products["mlp.v1"](x, routing)
        outer = products["mlp.w2"](inner, routing) * weights.reshape(-1)[order].unsqueeze(-1)
        return routing.by_token(outer).view(shape[0], -1, shape[-1])


_FORMS: tuple[Any, ...] = (_Standard, _Identity, _EveryToken, _BelowEachOther)


def _form_of(module: Any) -> Any:
    return next((form for form in _FORMS if form.fits(module)), None)


def routers_of(block: nn.Module) -> dict[str, nn.Parameter]:
    """Weights ``[experts, in]`` of the routers that stand beside a module of experts, by their names in the block."""
    stacks = [one for child in block.children() for one in stacks_of(child).values()]
    found = {}
    for name, child in block.named_children() if stacks else ():
        weight = child._parameters.get("weight")
        if weight is not None and weight.dim() == 2 and len(weight) >= stacks[-1].experts:
            found[name] = weight
    return found
