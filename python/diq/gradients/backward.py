"""Influence without per-sample gradients: one forward and one backward for activation gradients alone.

For a linear layer with weight W, input x_t and output gradient delta_t, the gradient of a sample is
``sum_t delta_t x_t^T``; its dot with a matrix V is ``sum_t <delta_t, V x_t>``. So with V the mean validation gradient
(Eq. 3 of arXiv 2508.01450), the influence of every sample of a batch (Eq. 4) falls out of one backward pass, and
neither a weight gradient nor a per-sample gradient is ever formed. ``Dots`` computes that; ``Norms``, ``TokenTerms``
and the projections (``diq.projections``) look at the same ``(x, delta)`` of the same pass.
"""

from __future__ import annotations

import abc
import contextlib
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode
from transformers.pytorch_utils import Conv1D

from diq.base.errors import ModelError
from diq.base.text import amount
from diq.gradients.losses import Draw, pull_back
from diq.gradients.options import Reduction
from diq.models.experts import Routing, StackProduct, experts_forward, stack_product
from diq.models.layers import Weight
from diq.models.tokens import Batch

MatrixGradients = dict[str, Tensor]
"""Name to a matrix ``[out, in]`` float32 (float64 for float64 models), whatever layout the model stores.

The matrices of a stack of experts have a name each (:func:`diq.models.layers.matrix_names`).
"""

Product = Callable[[Tensor, Tensor | None], Tensor]
"""Input and bias to what a linear layer gives."""

_PLAIN = (nn.Linear.forward, Conv1D.forward)
_MATMULS = (torch.matmul, Tensor.matmul, Tensor.__matmul__)
_CASTS = (Tensor.to, Tensor.type, Tensor.float, Tensor.double)


class Tap(Protocol):
    """What is told of inputs and output gradients."""

    def called(self, name: str) -> None:
        """A layer makes its product."""

    def matrix(self, name: str, x: Tensor, delta: Tensor) -> None:
        """A layer had inputs ``[..., in]`` and output gradients ``[..., out]``."""

    def stack(self, name: str, x: Tensor, delta: Tensor, routing: Routing) -> None:
        """A stack of experts' layers had inputs ``[s, in]`` and output gradients ``[s, out]``, expert after expert."""


class _TappedLinear(torch.autograd.Function):
    """A frozen linear layer that hands ``(x, delta)`` to a tap on the way back."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, anchor: Tensor, weight: Tensor, bias: Tensor | None, name: str, tap: Tap
    ) -> Tensor:
        # weight is [out, in]; anchor makes the output need a gradient even where x does not (the first layer)
        ctx.save_for_backward(x, weight)
        ctx.name, ctx.tap = name, tap
        return F.linear(x, weight, bias)

    @staticmethod
    def backward(ctx: Any, delta: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        ctx.tap.matrix(ctx.name, x, delta)
        return (delta @ weight if ctx.needs_input_grad[0] else None, None, None, None, None, None)


class _TappedStack(torch.autograd.Function):
    """The same for a stack of experts' layers."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, anchor: Tensor, stack: Tensor, routing: Routing, name: str, tap: Tap) -> Tensor:
        ctx.save_for_backward(x, stack)
        ctx.routing, ctx.name, ctx.tap = routing, name, tap
        return stack_product(x, stack, routing)

    @staticmethod
    def backward(ctx: Any, delta: Tensor) -> tuple[Tensor | None, ...]:
        x, stack = ctx.saved_tensors
        ctx.tap.stack(ctx.name, x, delta, ctx.routing)
        back = stack_product(delta, stack.mT, ctx.routing) if ctx.needs_input_grad[0] else None
        return (back, None, None, None, None, None)


@contextlib.contextmanager
def other_products(
    weights: Mapping[str, Weight],
    product_of: Callable[[str, Weight], Product],
    stack_product_of: Callable[[str, Weight], StackProduct],
) -> Iterator[None]:
    """Let layers make their product of input and weight in another way for the time of a ``with`` block.

    What a module does beside it stays: a router also chooses experts, a quantising layer rounds its input first.

    Args:
        weights: of the layers.
        product_of: what takes the place of the product with a single matrix.
        stack_product_of: what takes the place of the products with a stack.
    """
    single: dict[nn.Module, list[tuple[Weight, Product]]] = {}
    stacks: dict[nn.Module, dict[str, StackProduct]] = {}
    for name, weight in weights.items():
        if weight.experts is None:
            product = product_of(name, weight)
            for owner in weight.owners:
                single.setdefault(owner, []).append((weight, product))
        else:
            stack_product = stack_product_of(name, weight)
            for owner in weight.owners:
                stacks.setdefault(owner, {})[weight.stack] = stack_product
    forwards = {module: _forward_with(module, products) for module, products in single.items()}
    forwards |= {module: experts_forward(module, products) for module, products in stacks.items()}
    # a forward set on the instance by somebody else (an offloading hook, say) is put back as it was
    before = {module: module.__dict__.get("forward") for module in forwards}
    try:
        for module, forward in forwards.items():
            module.forward = forward
        # a compiled graph would go around what was replaced
        with torch.compiler.set_stance("force_eager"):
            yield
    finally:
        for module, earlier in before.items():
            if earlier is None:
                module.__dict__.pop("forward", None)
            else:
                module.forward = earlier


def _forward_with(module: Any, products: Sequence[tuple[Weight, Product]]) -> Callable[..., Any]:
    if type(module).forward in _PLAIN:
        ((_, product),) = products
        bias = module.bias
        return lambda x: product(x, bias)
    whole = module.forward

    def forward(*args: Any, **options: Any) -> Any:
        with _OtherProducts([(weight.parameter, product) for weight, product in products]):
            return whole(*args, **options)

    return forward


class _OtherProducts(TorchFunctionMode):
    """Make the products with some weights in another way, wherever they are asked for."""

    def __init__(self, products: Sequence[tuple[Tensor, Product]]) -> None:
        super().__init__()
        self._products = list(products)
        self._casts: list[tuple[Tensor, Product]] = []

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        options = kwargs or {}
        if func is F.linear:
            given = dict(zip(("input", "weight", "bias"), args, strict=False)) | options
            product = self._with(given["weight"])
            if product is not None:
                return product(given["input"], given.get("bias"))
        elif func in _MATMULS and len(args) == 2:
            product = self._with_transposed(args[1])
            if product is not None:
                return product(args[0], None)
            # Mamba: the weight from the left, tokens in columns
            product = self._with(args[0])
            if product is not None:
                return product(args[1].transpose(-1, -2), None).transpose(-1, -2)
        found = func(*args, **options)
        # routers compute in float32: the copy of their weight stands for it
        if func in _CASTS and (product := self._with(args[0])) is not None:
            self._casts.append((found, product))
        return found

    def _with(self, weight: Any) -> Product | None:
        return next((product for one, product in [*self._products, *self._casts] if one is weight), None)

    def _with_transposed(self, other: Any) -> Product | None:
        for weight, product in [*self._products, *self._casts] if isinstance(other, Tensor) else ():
            if (
                other.data_ptr() == weight.data_ptr()
                and other.shape == weight.shape[::-1]
                and other.stride() == weight.stride()[::-1]
            ):
                return product
        return None


def tapped(weights: Mapping[str, Weight], tap: Tap) -> contextlib.AbstractContextManager[None]:
    """Let layers report their inputs and output gradients for the time of a ``with`` block.

    Args:
        weights: of the layers, by name.
        tap: is told once a layer and backward.
    """

    def anchor(weight: Tensor) -> Tensor:
        return torch.zeros((), device=weight.device, requires_grad=True)

    def product_of(name: str, one: Weight) -> Product:
        weight, start = one.matrix, anchor(one.matrix)

        def product(x: Tensor, bias: Tensor | None) -> Tensor:
            tap.called(name)
            # a router's product in float32
            matrix = weight.to(x.dtype)
            return _TappedLinear.apply(x, start, matrix, bias, name, tap)  # type: ignore[no-any-return]

        return product

    def stack_product_of(name: str, one: Weight) -> StackProduct:
        start = anchor(one.matrix)

        def product(x: Tensor, routing: Routing) -> Tensor:
            tap.called(name)
            return _TappedStack.apply(x, start, one.stack_now, routing, name, tap)  # type: ignore[no-any-return]

        return product

    return other_products(weights, product_of, stack_product_of)


# one pass, several recorders ---------------------------------------------------------------------------------------


class Recorder(abc.ABC):
    """Something that makes numbers of each sample out of the ``(x, delta)`` of the chosen layers."""

    @abc.abstractmethod
    def begin(self, batch: Batch) -> None:
        """A pass over a batch begins."""

    @abc.abstractmethod
    def record(self, name: str, x: Tensor, delta: Tensor, tokens: Batch) -> None:
        """A layer reports its input ``[rows, t, in]`` and its output gradient ``[rows, t, out]``.

        Args:
            name: of the matrix.
            x: inputs.
            delta: output gradients.
            tokens: whose they are: the batch's; for an expert those that it was sent, for an adapter on the
                language-model head those that predict an answer token, of the same samples.
        """

    def record_stack(self, name: str, x: Tensor, delta: Tensor, routing: Routing) -> bool:
        """A stack of experts' layers reports the inputs ``[s, in]`` and output gradients ``[s, out]`` of its rows.

        Returns:
            Whether that is all this recorder needs; else it is told expert by expert, where any token went.
        """
        return False

    @abc.abstractmethod
    def finish(self) -> Tensor:
        """The numbers of the batch's samples, ``[n, k]``."""


@dataclass(frozen=True, slots=True)
class Scored:
    """What a pass over a batch gives, all on the CPU.

    Attributes:
        values: what each recorder made, ``[n, k]``.
        losses: loss of each sample ``[n]``; 0 without an answer token.
        counts: answer tokens of each sample ``[n]``.
    """

    values: tuple[Tensor, ...]
    losses: Tensor
    counts: Tensor


def backward_pass(
    model: nn.Module,
    weights: Mapping[str, Weight],
    batch: Batch,
    recorders: Sequence[Recorder],
    *,
    reduction: Reduction = "mean",
    scale: float = 1.0,
    draw: Draw | None = None,
) -> tuple[Tensor, Tensor]:
    """One forward and one backward for activation gradients; every recorder sees every chosen layer.

    Args:
        model: a causal language model; its parameters need no gradients.
        weights: those that count as parameters.
        batch: tokens, on the model's device.
        recorders: they are told that the batch begins; the caller finishes them.
        reduction: over the answer tokens of a sample.
        scale: what the sum of the losses is multiplied by.
        draw: labels to draw; None takes the answer tokens.

    Returns:
        Losses ``[n]`` and answer tokens ``[n]``.

    Raises:
        ModelError: a layer was not called (its forward was bypassed), or not with the tokens of the batch.
    """
    for one in recorders:
        one.begin(batch)
    owners = {owner for weight in weights.values() for owner in weight.owners}
    network: Any = model
    head = owners & set(network.get_output_embeddings().modules())
    tap = _Tap(batch, recorders, of_head={name for name, one in weights.items() if not head.isdisjoint(one.owners)})
    with tapped(weights, tap):
        token = pull_back(model, batch, reduction=reduction, scale=scale, tapped=owners, draw=draw)
    # one that is called and gets no gradient has none: what only chooses tokens, say
    silent = [name for name in weights if name not in (tap.calls if tap.reported else ())]
    if silent and len(token.values):
        raise ModelError(
            f"{len(silent)} of {amount(len(weights), 'chosen layer')} reported no gradient, first `{silent[0]}`: the "
            "model does not call them (a fused kernel, torch.compile, or a layer without effect on the answer)",
            "load the model without fused kernels and uncompiled, or name other layers with --params",
        )
    return token.by_sample(reduction), token.counts


class _Tap:
    """Hands to the recorders of a pass what the layers report."""

    def __init__(self, batch: Batch, recorders: Sequence[Recorder], *, of_head: Collection[str] = ()) -> None:
        self._batch, self._recorders, self._of_head = batch, recorders, of_head
        self.calls: set[str] = set()
        self.reported = False

    def called(self, name: str) -> None:
        self.calls.add(name)

    def matrix(self, name: str, x: Tensor, delta: Tensor) -> None:
        self.reported = True
        tokens = self._batch.predicting if name in self._of_head else self._batch
        if x.shape[:-1] != tokens.ids.shape:
            seen = tuple(x.shape[:-1])
            x, delta = as_tokens(x, tokens), as_tokens(delta, tokens)  # type: ignore[assignment]
            if x is None or delta is None:
                raise _other_tokens(name, seen, tokens)
        for one in self._recorders:
            one.record(name, x, delta, tokens)

    def stack(self, name: str, x: Tensor, delta: Tensor, routing: Routing) -> None:
        self.reported = True
        if len(routing.slots) != self._batch.ids.numel():
            raise _other_tokens(name, (len(routing.slots),), self._batch)
        rest = [one for one in self._recorders if not one.record_stack(name, x, delta, routing)]
        if not rest:
            return
        real = self._batch.mask.reshape(-1)
        for expert, first, end in routing.spans:
            tokens = routing.tokens[first:end]
            # what stands at padding may be anything
            kept = real[tokens].nonzero()[:, 0]
            part = self._batch.part(tokens[kept])
            for one in rest:
                one.record(f"{name}.{expert}", x[first:end][kept][None], delta[first:end][kept][None], part)


def as_tokens(values: Tensor, batch: Batch) -> Tensor | None:
    """A layer's values ``[..., c]`` as those of the batch's tokens, ``[rows, t, c]``; None where they are of others."""
    rows, t = batch.ids.shape
    # some models flatten rows and tokens into one dimension, some put one of size 1 (for heads) between them
    seen = [n for n in values.shape[:-1] if n != 1]
    if seen in ([n for n in (rows, t) if n != 1], [rows * t]):
        return values.reshape(rows, t, values.shape[-1])
    return None


def _other_tokens(name: str, seen: tuple[int, ...], batch: Batch) -> ModelError:
    return ModelError(
        f"`{name}` sees {seen} tokens where the batch has {tuple(batch.ids.shape)} "
        "(a layer that is not run on every token, in a form that diq does not know)",
        "leave it out with --params",
    )


def score_batch(
    model: nn.Module,
    weights: Mapping[str, Weight],
    batch: Batch,
    recorders: Sequence[Recorder],
    *,
    reduction: Reduction = "mean",
) -> Scored:
    """Pass over a batch and collect what the recorders made of it.

    A sample without an answer token has zeros and count 0; a sample whose loss is not finite has values that are not
    finite or not meaningful: the caller leaves both out.
    """
    placed = batch.to(next(model.parameters()).device)
    losses, counts = backward_pass(model, weights, placed, recorders, reduction=reduction)
    return Scored(tuple(one.finish().cpu() for one in recorders), losses.cpu(), counts.cpu())
