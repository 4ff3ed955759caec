"""Losses of answer tokens, and how they are computed in little memory."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from diq.base.errors import ModelError
from diq.gradients.options import Reduction
from diq.models.tokens import Batch, Tokens, collate

# numbers of a transient matrix; above it a batch is taken in parts
_TRANSIENT = 1 << 26


@dataclass(frozen=True, slots=True)
class TokenLosses:
    """Losses of the answer tokens of a batch.

    Attributes:
        values: cross-entropy of each answer token in nats, float32 (float64 for a float64 model) ``[a]``.
        sample: which sample of the batch each belongs to ``[a]``.
        counts: answer tokens of each sample ``[n]``.
    """

    values: Tensor
    sample: Tensor
    counts: Tensor

    def by_sample(self, reduction: Reduction) -> Tensor:
        """Mean or sum over the answer tokens of each sample ``[n]``; 0 for a sample without one."""
        total = torch.zeros(len(self.counts), dtype=self.values.dtype, device=self.values.device)
        total = total.index_add(0, self.sample, self.values)
        return total / self.counts.clamp(min=1) if reduction == "mean" else total


def token_losses(model: nn.Module, batch: Batch) -> TokenLosses:
    """Losses of the answer tokens, with the language-model head run on their positions alone.

    Args:
        model: a causal language model of transformers.
        batch: tokens on the model's device.
    """
    # position t - 1 predicts token t; the first token of a packed sample is never an answer token
    predicting = batch.answer[:, 1:]
    rows, columns = predicting.nonzero(as_tuple=True)
    labels = batch.ids[:, 1:][rows, columns]
    sample = batch.sample_of(rows, columns)
    counts = torch.bincount(sample, minlength=len(batch))
    options: dict[str, Any] = {"use_cache": False}
    position_ids = batch.position_ids()
    if position_ids is not None:
        options["position_ids"] = position_ids
    if batch.padded_left:
        options["attention_mask"] = batch.mask.long()
    with _head_on(model, rows, columns):
        logits = model(input_ids=batch.ids, **options).logits[0]
    return TokenLosses(F.cross_entropy(wide(logits), labels, reduction="none"), sample, counts)


def packing_problem(model: nn.Module, samples: Sequence[Tokens], device: torch.device) -> str | None:
    """Whether the attention looks across the borders of packed samples, in words; None where it does not.

    Args:
        model: a causal language model.
        samples: the first two are tried; fewer cannot be packed.
        device: of the model.
    """
    if len(samples) < 2:
        return None
    with torch.no_grad():
        apart = token_losses(model, collate(samples[1:2]).to(device)).by_sample("mean")
        together = token_losses(model, collate(samples[:2], packed=True).to(device)).by_sample("mean")
    precise = next(model.parameters()).dtype in (torch.float32, torch.float64)
    tolerance = 1e-4 if precise else 2e-2
    if torch.isclose(apart[0], together[1], rtol=tolerance, atol=tolerance):
        return None
    return (
        f"{type(model).__name__} looks across the borders of packed samples: the loss of one changed from "
        f"{float(apart[0]):.4f} to {float(together[1]):.4f}"
    )


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


@contextlib.contextmanager
def checkpointed(model: nn.Module) -> Iterator[None]:
    """Gradient checkpointing for the time of a ``with`` block: each layer is computed again on the way back.

    Only the layers themselves are put into training mode, which is what switches it on; what is inside them stays in
    evaluation mode, so no dropout comes with it.

    Raises:
        ModelError: the model cannot do it.
    """
    network: Any = model
    if not getattr(network, "supports_gradient_checkpointing", False):
        raise ModelError(f"{type(model).__name__} cannot do gradient checkpointing", "leave out --checkpointing")
    # the older name is deprecated in newer releases
    enable = getattr(network, "activation_checkpointing_enable", network.gradient_checkpointing_enable)
    disable = getattr(network, "activation_checkpointing_disable", network.gradient_checkpointing_disable)
    enable({"use_reentrant": False})
    layers = [module for module in model.modules() if getattr(module, "gradient_checkpointing", False)]
    for layer in layers:
        layer.training = True
    try:
        yield
    finally:
        for layer in layers:
            layer.training = False
        disable()


def slices(n: int, each: int) -> list[slice]:
    """Parts of n samples such that a transient of ``each`` numbers a sample stays small."""
    step = max(1, _TRANSIENT // max(1, each))
    return [slice(at, min(n, at + step)) for at in range(0, n, step)]


def wide(values: Tensor) -> Tensor:
    """At least float32."""
    return values if values.dtype in (torch.float32, torch.float64) else values.float()
