"""Influence without per-sample gradients: one forward and one backward for activation gradients alone.

For a linear layer with weight W, input x_t and output gradient delta_t, the gradient of a sample is
``sum_t delta_t x_t^T``; its dot with a matrix V is ``sum_t <delta_t, V x_t>``. So with V the mean validation gradient
(Eq. 3 of arXiv 2508.01450), the influence of every sample of a batch (Eq. 4) falls out of one backward pass, and
neither a weight gradient nor a per-sample gradient is ever formed. ``Dots`` computes that; ``Norms``, ``TokenTerms``
and the projections (``diq.projections``) look at the same ``(x, delta)`` of the same pass.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode
from transformers.pytorch_utils import Conv1D

from diq.base.errors import ModelError
from diq.gradients.losses import token_losses
from diq.gradients.options import Reduction
from diq.models.layers import is_transposed
from diq.models.tokens import Batch

MatrixGradients = dict[str, Tensor]
"""Module name to a matrix ``[out, in]`` float32 (float64 for float64 models), whatever layout the module stores."""

_Record = Callable[[str, Tensor, Tensor], None]
Product = Callable[[Tensor, Tensor | None], Tensor]
"""Input and bias to what a linear layer gives."""

_PLAIN = (nn.Linear.forward, Conv1D.forward)
_MATMULS = (torch.matmul, Tensor.matmul, Tensor.__matmul__)


class _TappedLinear(torch.autograd.Function):
    """A frozen linear layer that hands ``(x, delta)`` to a recorder on the way back."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, anchor: Tensor, weight: Tensor, bias: Tensor | None, name: str, record: _Record
    ) -> Tensor:
        # weight is [out, in]; anchor makes the output need a gradient even where x does not (the first layer)
        ctx.save_for_backward(x, weight)
        ctx.name, ctx.record = name, record
        return F.linear(x, weight, bias)

    @staticmethod
    def backward(ctx: Any, delta: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        ctx.record(ctx.name, x, delta)
        return (delta @ weight if ctx.needs_input_grad[0] else None, None, None, None, None, None)


def weight_of(module: nn.Module) -> Tensor:
    """Weight ``[out, in]`` of a linear module."""
    weight = module.get_parameter("weight").detach()
    return weight.T if is_transposed(module) else weight


@contextlib.contextmanager
def other_products(modules: Mapping[str, nn.Module], product_of: Callable[[str, nn.Module], Product]) -> Iterator[None]:
    """Let linear modules make their product of input and weight in another way for the time of a ``with`` block.

    What a module does beside it stays: a router also chooses experts, a quantising layer rounds its input first.
    """
    # a forward set on the instance by somebody else (an offloading hook, say) is put back as it was
    before = {name: module.__dict__.get("forward") for name, module in modules.items()}
    try:
        for name, module in modules.items():
            module.forward = _forward_with(module, product_of(name, module))
        # a compiled graph would go around what was replaced
        with torch.compiler.set_stance("force_eager"):
            yield
    finally:
        for name, module in modules.items():
            earlier = before[name]
            if earlier is None:
                module.__dict__.pop("forward", None)
            else:
                module.forward = earlier


def _forward_with(module: Any, product: Product) -> Callable[..., Any]:
    if type(module).forward in _PLAIN:
        bias = module.bias
        return lambda x: product(x, bias)
    whole = module.forward

    def forward(*args: Any, **options: Any) -> Any:
        with _OtherProduct(module.weight, product):
            return whole(*args, **options)

    return forward


class _OtherProduct(TorchFunctionMode):
    """Make the product with one weight in another way, wherever it is asked for."""

    def __init__(self, weight: Tensor, product: Product) -> None:
        super().__init__()
        self._weight, self._product = weight, product

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        options = kwargs or {}
        if func is F.linear:
            given = dict(zip(("input", "weight", "bias"), args, strict=False)) | options
            if given["weight"] is self._weight:
                return self._product(given["input"], given.get("bias"))
        elif func in _MATMULS and len(args) == 2 and self._is_transposed(args[1]):
            return self._product(args[0], None)
        return func(*args, **options)

    def _is_transposed(self, other: Any) -> bool:
        weight = self._weight
        return (
            isinstance(other, Tensor)
            and other.data_ptr() == weight.data_ptr()
            and other.shape == weight.shape[::-1]
            and other.stride() == weight.stride()[::-1]
        )


def tapped(modules: Mapping[str, nn.Module], record: _Record) -> contextlib.AbstractContextManager[None]:
    """Let linear modules report their input and output gradient for the time of a ``with`` block.

    Args:
        modules: name to ``nn.Linear`` or ``Conv1D``.
        record: called once a module and backward with the name, the input ``[..., in]`` and the output gradient
            ``[..., out]``.
    """

    def product_of(name: str, module: nn.Module) -> Product:
        weight = weight_of(module)
        anchor = torch.zeros((), device=weight.device, requires_grad=True)

        def product(x: Tensor, bias: Tensor | None) -> Tensor:
            return _TappedLinear.apply(x, anchor, weight, bias, name, record)  # type: ignore[no-any-return]

        return product

    return other_products(modules, product_of)


# one pass, several recorders ---------------------------------------------------------------------------------------


class Recorder(Protocol):
    """Something that makes numbers of each sample out of the ``(x, delta)`` of the chosen modules."""

    def begin(self, batch: Batch) -> None:
        """A pass over a batch begins."""

    def record(self, name: str, x: Tensor, delta: Tensor) -> None:
        """A module reports its input ``[rows, t, in]`` and its output gradient ``[rows, t, out]``."""

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
    modules: Mapping[str, nn.Module],
    batch: Batch,
    recorders: Sequence[Recorder],
    *,
    reduction: Reduction = "mean",
    scale: float = 1.0,
) -> tuple[Tensor, Tensor]:
    """One forward and one backward for activation gradients; every recorder sees every chosen module.

    Args:
        model: a causal language model; its parameters need no gradients.
        modules: the linear modules that count as parameters.
        batch: tokens, on the model's device.
        recorders: they are told that the batch begins; the caller finishes them.
        reduction: over the answer tokens of a sample.
        scale: what the sum of the losses is multiplied by.

    Returns:
        Losses ``[n]`` and answer tokens ``[n]``.

    Raises:
        ModelError: a module reported nothing (its forward was bypassed), or not the tokens of the batch.
    """
    reported = set()

    def record(name: str, x: Tensor, delta: Tensor) -> None:
        reported.add(name)
        if x.shape[:-1] != batch.ids.shape:
            x, delta = _as_tokens(name, x, batch), _as_tokens(name, delta, batch)
        for one in recorders:
            one.record(name, x, delta)

    for one in recorders:
        one.begin(batch)
    with tapped(modules, record):
        token = token_losses(model, batch)
        losses = token.by_sample(reduction)
        if token.values.requires_grad:
            (losses.sum() * scale).backward()  # type: ignore[no-untyped-call]
    silent = [name for name in modules if name not in reported]
    if silent and len(token.values):
        raise ModelError(
            f"{len(silent)} of {len(modules)} chosen modules reported no gradient, first `{silent[0]}`: the model "
            "does not call them (a fused kernel, torch.compile, or a layer without effect on the answer)",
            "load the model without fused kernels and uncompiled, or name other modules with --params",
        )
    return losses.detach(), token.counts


def _as_tokens(name: str, values: Tensor, batch: Batch) -> Tensor:
    rows, t = batch.ids.shape
    # some models flatten rows and tokens into one dimension, some put one of size 1 (for heads) between them
    seen = [n for n in values.shape[:-1] if n != 1]
    if seen in ([n for n in (rows, t) if n != 1], [rows * t]):
        return values.reshape(rows, t, -1)
    raise ModelError(
        f"`{name}` sees {tuple(values.shape[:-1])} tokens where the batch has {(rows, t)} "
        "(a mixture-of-experts layer, or one that is not run on every token)",
        "leave it out with --params",
    )


def score_batch(
    model: nn.Module,
    modules: Mapping[str, nn.Module],
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
    losses, counts = backward_pass(model, modules, placed, recorders, reduction=reduction)
    return Scored(tuple(one.finish().cpu() for one in recorders), losses.cpu(), counts.cpu())
