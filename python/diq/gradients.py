"""Exact influence without per-sample gradients: one forward and one backward for activation gradients alone.

For a linear layer with weight W, input x_t and output gradient delta_t, the gradient of a sample is
``sum_t delta_t x_t^T``; its dot with a matrix V is ``sum_t <delta_t, V x_t>``. So with V the mean validation gradient
(Eq. 3 of arXiv 2508.01450), the influence of every sample of a batch (Eq. 4) falls out of one backward pass, and
neither a weight gradient nor a per-sample gradient is ever formed.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from diq.models import is_transposed
from diq.samples import Batch

Reduction = Literal["mean", "sum"]
MatrixGradients = dict[str, Tensor]
"""Module name to a matrix ``[out, in]`` float32 (float64 for float64 models), whatever layout the module stores."""

_Recorder = Callable[[str, Tensor, Tensor], None]


class _TappedLinear(torch.autograd.Function):
    """A frozen linear layer that hands ``(x, delta)`` to a recorder on the way back."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, anchor: Tensor, weight: Tensor, bias: Tensor | None, name: str, record: _Recorder
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


@contextlib.contextmanager
def tapped(modules: Mapping[str, nn.Module], record: _Recorder) -> Iterator[None]:
    """Replace the forward of linear modules for the time of a ``with`` block.

    Args:
        modules: name to ``nn.Linear`` or ``Conv1D``.
        record: called once a module and backward with the name, the input ``[..., in]`` and the output gradient
            ``[..., out]``.
    """

    def forward_of(name: str, module: nn.Module) -> Callable[[Tensor], Tensor]:
        transposed = is_transposed(module)
        weight: Tensor = module.weight  # type: ignore[assignment]
        anchor = torch.zeros((), device=weight.device, requires_grad=True)

        def forward(x: Tensor) -> Tensor:
            matrix = weight.detach().T if transposed else weight.detach()
            bias = module.bias
            assert bias is None or isinstance(bias, Tensor)
            return _TappedLinear.apply(x, anchor, matrix, bias, name, record)  # type: ignore[no-any-return]

        return forward

    # a forward set on the instance by somebody else (an offloading hook, say) is put back as it was
    before = {name: module.__dict__.get("forward") for name, module in modules.items()}
    try:
        for name, module in modules.items():
            module.forward = forward_of(name, module)
        yield
    finally:
        for name, module in modules.items():
            earlier = before[name]
            if earlier is None:
                module.__dict__.pop("forward", None)
            else:
                module.forward = earlier


def sample_losses(model: nn.Module, batch: Batch, *, reduction: Reduction = "mean") -> tuple[Tensor, Tensor]:
    """Loss of each sample over its answer tokens, with the language-model head run on those positions alone.

    Args:
        model: a causal language model of transformers.
        batch: padded tokens on the model's device.
        reduction: ``mean`` or ``sum`` over the answer tokens of a sample.

    Returns:
        Losses ``[b]`` in nats, float32 (float64 for a float64 model), and the answer tokens of each sample ``[b]``.
        A sample without an answer token has loss 0 and count 0.
    """
    # position t - 1 predicts token t
    predicting = batch.answer[:, 1:]
    rows, columns = predicting.nonzero(as_tuple=True)
    labels = batch.ids[:, 1:][rows, columns]
    counts = predicting.sum(dim=1)
    options: dict[str, Any] = {"use_cache": False}
    if batch.padded_left:
        options["attention_mask"] = batch.mask.long()
        options["position_ids"] = (batch.mask.long().cumsum(dim=1) - 1).clamp(min=0)
    with _head_on(model, rows, columns):
        logits = model(input_ids=batch.ids, **options).logits[0]
    wide = logits if logits.dtype == torch.float64 else logits.float()
    token_losses = F.cross_entropy(wide, labels, reduction="none")
    losses = torch.zeros(len(batch.ids), dtype=wide.dtype, device=wide.device).index_add(0, rows, token_losses)
    return (losses / counts.clamp(min=1) if reduction == "mean" else losses), counts


@contextlib.contextmanager
def _head_on(model: nn.Module, rows: Tensor, columns: Tensor) -> Iterator[None]:
    """Let the language-model head see only the hidden states at ``(rows, columns)``, as one row ``[1, n, hidden]``.

    Whatever the model does to its logits afterwards (soft caps, scales) is element by element and stays exact.
    """
    head = model.get_output_embeddings()  # type: ignore[operator]
    handle = head.register_forward_pre_hook(lambda _module, args: (args[0][rows, columns].unsqueeze(0), *args[1:]))
    try:
        yield
    finally:
        handle.remove()


def mean_gradient(
    model: nn.Module, modules: Mapping[str, nn.Module], batches: Sequence[Batch], *, reduction: Reduction = "mean"
) -> MatrixGradients:
    """Mean gradient of the samples of some batches (Eq. 3): ``(1/n) sum_z g(z)`` for each module.

    Args:
        model: a causal language model, on the device of the result.
        modules: the linear modules that count as parameters.
        batches: padded tokens; every sample has at least one answer token.
        reduction: see :func:`sample_losses`.

    Returns:
        A matrix ``[out, in]`` a module, float32 (float64 for a float64 model).
    """
    n = sum(len(batch.ids) for batch in batches)
    total: MatrixGradients = {}
    mask = torch.empty(0)

    def record(name: str, x: Tensor, delta: Tensor) -> None:
        x2, delta2 = x[mask], delta[mask]
        gradient = wide(delta2).T @ wide(x2)
        total[name] = total[name] + gradient if name in total else gradient

    device = next(model.parameters()).device
    with tapped(modules, record):
        for batch in batches:
            placed = batch.to(device)
            mask = placed.mask
            losses, _ = sample_losses(model, placed, reduction=reduction)
            (losses.sum() / n).backward()  # type: ignore[no-untyped-call]
    return total


class InfluenceScorer:
    """Dots of samples with the mean gradients of one or several validation sets, in one pass (Eq. 4).

    Args:
        model: a causal language model; its parameters need no gradients.
        modules: the linear modules that count as parameters.
        validation: one :func:`mean_gradient` a validation set.
        reduction: see :func:`sample_losses`.
    """

    def __init__(
        self,
        model: nn.Module,
        modules: Mapping[str, nn.Module],
        validation: Sequence[MatrixGradients],
        *,
        reduction: Reduction = "mean",
    ) -> None:
        self.model, self.modules, self.reduction = model, dict(modules), reduction
        self.device = next(model.parameters()).device
        self.n_sets = len(validation)
        # [sets * out, in]: all sets in one product; in the model's dtype, so that the product runs on its fast path
        self._stacked = {
            name: torch.cat([one[name] for one in validation]).to(next(module.parameters()).dtype)
            for name, module in self.modules.items()
        }

    def score(self, batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
        """Score the samples of a batch.

        Returns:
            Dots ``[b, sets]`` float64, losses ``[b]`` and answer tokens ``[b]``, all on the CPU. A sample without an
            answer token has dots of 0 and count 0; a sample whose loss is not finite has dots that are not finite or
            not meaningful: the caller leaves both out.
        """
        placed = batch.to(self.device)
        padding = ~placed.mask
        dots = torch.zeros(len(batch.ids), self.n_sets, dtype=torch.float64, device=self.device)

        def record(name: str, x: Tensor, delta: Tensor) -> None:
            # <delta_t, V x_t> of every token and set; terms in float32, their sum over tokens in float64
            projected = F.linear(x, self._stacked[name])
            if self.n_sets == 1:
                terms = (wide(projected) * wide(delta)).sum(dim=-1, keepdim=True)
            else:
                split = projected.view(*delta.shape[:-1], self.n_sets, delta.shape[-1])
                terms = torch.einsum("btso,bto->bts", wide(split), wide(delta))
            # a padded row may hold anything that attention made of it, even NaN
            dots.add_(terms.masked_fill(padding.unsqueeze(-1), 0).sum(dim=1, dtype=torch.float64))

        with tapped(self.modules, record):
            losses, counts = sample_losses(self.model, placed, reduction=self.reduction)
            losses.sum().backward()  # type: ignore[no-untyped-call]
        return dots.cpu(), losses.detach().cpu(), counts.cpu()


def wide(values: Tensor) -> Tensor:
    """At least float32."""
    return values if values.dtype in (torch.float32, torch.float64) else values.float()
