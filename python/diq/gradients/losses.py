"""Losses of answer tokens, and how they are computed in little memory."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from diq.base.errors import ModelError
from diq.gradients.options import Reduction
from diq.models.architecture import layers_of, vocabulary_size
from diq.models.tokens import Batch, Tokens, collate

# tokens of the sample that is watched in a packed batch, and of the one before it
_PROBE_TOKENS, _PROBE_BEFORE = 24, 64
# change of its losses relative to the other's: none but for what a kernel's order of sums may do
_CROSSED = 1e-4
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


@dataclass(frozen=True, slots=True)
class Draw:
    """Labels that are drawn from the model in place of the answer tokens.

    Attributes:
        at: ``[rows, t]`` float64 in [0, 1) of each token of a batch: where in the cumulated probabilities its label is,
            so that the same number draws the same label in whatever batch.
    """

    at: Tensor

    @staticmethod
    def of(batch: Batch, numbers: Sequence[npt.NDArray[np.float64]]) -> Draw:
        """The numbers of the tokens of each sample, where the batch has them."""
        at = torch.zeros(batch.ids.shape, dtype=torch.float64)
        at[batch.mask] = torch.from_numpy(np.concatenate(numbers))
        return Draw(at)

    def to(self, device: torch.device | str) -> Draw:
        """The same on a device."""
        return Draw(self.at.to(device))

    def labels(self, logits: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
        """Labels ``[a]`` of the tokens at ``(rows, columns)``, whose logits are ``[a, vocabulary]``."""
        cumulated = logits.detach().double().softmax(dim=-1).cumsum(dim=-1)
        found = torch.searchsorted(cumulated, self.at[rows, columns][:, None], right=True)[:, 0]
        # the sum of all may be a rounding below 1
        return found.clamp(max=logits.shape[-1] - 1)


def token_losses(model: nn.Module, batch: Batch, draw: Draw | None = None) -> TokenLosses:
    """Losses of the answer tokens, with the language-model head run on their positions alone.

    Args:
        model: a causal language model of transformers.
        batch: tokens on the model's device.
        draw: labels to draw; None takes the answer tokens.
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
    if draw is not None:
        labels = draw.labels(logits, rows, columns + 1)
    return TokenLosses(F.cross_entropy(wide(logits), labels, reduction="none"), sample, counts)


def pull_back(
    model: nn.Module,
    batch: Batch,
    *,
    reduction: Reduction,
    scale: float = 1.0,
    tapped: Iterable[nn.Module] = (),
    draw: Draw | None = None,
) -> TokenLosses:
    """Run a batch forward and the sum of its losses backward; the logits are there for some tokens at a time.

    The decoder runs once each way. Where all logits would be large, the head, the losses and their way back to the
    hidden states are taken in parts, which is the same sum.

    Args:
        model: a causal language model.
        batch: tokens on the model's device.
        reduction: over the answer tokens of a sample.
        scale: what the sum of the losses is multiplied by.
        tapped: modules that report on the way back, each once.
        draw: labels to draw; None takes the answer tokens.

    Returns:
        Losses of the answer tokens, without gradient; none of them needs one where nothing was to pull.
    """
    rows, columns = batch.answer[:, 1:].nonzero(as_tuple=True)
    parts = slices(len(rows), vocabulary_size(model))
    trunk: Any = getattr(model, "base_model", model)
    if len(parts) <= 1 or trunk is model or not set(tapped) <= set(trunk.modules()):
        token = token_losses(model, batch, draw)
        if token.values.requires_grad:
            (token.by_sample(reduction).sum() * scale).backward()  # type: ignore[no-untyped-call]
        return TokenLosses(token.values.detach(), token.sample, token.counts)
    counts = torch.bincount(batch.sample_of(rows, columns), minlength=len(batch))
    found = []
    with trunk_once(model, leaf=True) as states:
        for part in parts:
            predicted = torch.zeros_like(batch.answer)
            predicted[rows[part], columns[part] + 1] = True
            token = token_losses(model, replace(batch, answer=predicted), draw)
            share = token.values / counts[token.sample].clamp(min=1) if reduction == "mean" else token.values
            if share.requires_grad:
                (share.sum() * scale).backward()  # type: ignore[no-untyped-call]
            found.append((token.values.detach(), token.sample))
        (whole, leaf) = states[0]
        if leaf.grad is not None and whole.requires_grad:
            whole.backward(leaf.grad)  # type: ignore[no-untyped-call]
    values, sample = (torch.cat(one) for one in zip(*found, strict=True))
    return TokenLosses(values, sample, counts)


@contextlib.contextmanager
def trunk_once(model: nn.Module, *, leaf: bool = False) -> Iterator[list[tuple[Tensor, Tensor]]]:
    """For the time of a ``with`` block the decoder of a causal language model runs at the first call only.

    Further calls get its first output again, so that the head can be run part by part on the same hidden states.

    Args:
        model: a causal language model; one without a decoder of its own name runs whole each time.
        leaf: whether the head sees hidden states that are a leaf, which collects the gradients of all parts.

    Yields:
        A list that will hold the hidden states, as the decoder gave them and as the head sees them.
    """
    trunk: Any = model.base_model
    states: list[tuple[Tensor, Tensor]] = []
    if trunk is model:
        yield states
        return
    run, own = trunk.forward, trunk.__dict__.get("forward")
    kept: list[Any] = []

    def forward(*args: Any, **options: Any) -> Any:
        if not kept:
            output = run(*args, **options)
            whole = output[0]
            seen = whole.detach().requires_grad_() if leaf else whole
            if leaf:
                output["last_hidden_state"] = seen
            states.append((whole, seen))
            kept.append(output)
        return kept[0]

    trunk.forward = forward
    try:
        yield states
    finally:
        if own is None:
            del trunk.forward
        else:
            trunk.forward = own


@torch.no_grad()
def packing_problem(model: nn.Module) -> str | None:
    """Whether samples see each other across the borders of a packed batch, in words; None where they do not.

    A sample stands behind two others in turn, which differ in every token: where nothing crosses the border, its losses
    are the same bits, for everything else about the two batches is the same, also in bfloat16.
    """
    device = next(model.parameters()).device
    vocabulary = vocabulary_size(model)
    ids = np.arange(_PROBE_BEFORE + _PROBE_TOKENS, dtype=np.int64) * 7 % vocabulary
    before, sample = ids[:_PROBE_BEFORE], Tokens(ids[_PROBE_BEFORE:].astype(np.int32), 1)
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    found = []
    for first in (before, (before + vocabulary // 2) % vocabulary):
        batch = collate([Tokens(first.astype(np.int32), 1), sample], packed=True).to(device)
        losses = token_losses(model, batch)
        found.append((losses.values[losses.sample == 0], losses.values[losses.sample == 1]))
    for module, training in modes:
        module.training = training
    change = float((found[0][1] - found[1][1]).abs().max())
    if change <= _CROSSED * float((found[0][0] - found[1][0]).abs().max()):
        return None
    return (
        f"{type(model).__name__} looks across the borders of packed samples: the loss of a token changes by up to "
        f"{change:.2g} with the sample that stands before its own"
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

    Transformers' own is switched on by training mode, which brings the dropout of layers that call it by themselves.

    Raises:
        ModelError: the model has no list of layers.
    """
    layers = layers_of(model)
    if not layers:
        raise ModelError(f"{type(model).__name__} cannot do gradient checkpointing", "leave out --checkpointing")
    before = {name: layer.__dict__.get("forward") for name, layer in layers.items()}
    try:
        for layer in layers.values():
            # nothing is drawn in evaluation mode, so there is no state of a generator to keep
            layer.forward = functools.partial(checkpoint, layer.forward, use_reentrant=False, preserve_rng_state=False)
        yield
    finally:
        for name, layer in layers.items():
            layer.__dict__.pop("forward", None)
            if (earlier := before[name]) is not None:
                layer.forward = earlier


def slices(n: int, each: int) -> list[slice]:
    """Parts of n samples such that a transient of ``each`` numbers a sample stays small."""
    step = max(1, _TRANSIENT // max(1, each))
    return [slice(at, min(n, at + step)) for at in range(0, n, step)]


def wide(values: Tensor) -> Tensor:
    """At least float32."""
    return values if values.dtype in (torch.float32, torch.float64) else values.float()
