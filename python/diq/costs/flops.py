"""FLOPs of each step, counted in full."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Literal

from diq.costs.lengths import Lengths
from diq.costs.options import ENCODER_CONTEXT, Params
from diq.costs.sizes import Size
from diq.influence.options import FOLDS


def attention_flops(size: Size, lengths: Lengths) -> float:
    """Forward FLOPs of the products of queries with keys and of weights with values.

    A causal model is counted over the pairs that its mask leaves, ``T (T + 1) / 2`` of a sequence; a kernel that
    computes all pairs does nearly twice as much. Sliding windows are not looked at.
    """
    pairs = (lengths.squares + lengths.tokens) / 2 if size.decoder else lengths.squares
    return 4 * size.layers * size.heads * size.head_dim * pairs


def forward_flops(size: Size, lengths: Lengths) -> float:
    """One forward pass, with the language-model head on the ``answers`` of ``lengths``."""
    linear = 2 * size.layer_weights * lengths.tokens + 2 * size.head_weights * lengths.answers
    return linear + attention_flops(size, lengths)


def ifd_flops(size: Size, lengths: Lengths) -> float:
    """A forward pass over each sample, and one over its answer alone; the head looks at the answers both times."""
    alone = Lengths.same(lengths.n, lengths.answers / max(lengths.n, 1))
    return forward_flops(size, lengths) + forward_flops(size, alone)


def rds_flops(size: Size, lengths: Lengths, validation: Lengths) -> float:
    """A forward pass over each sample and validation sample, without the head."""
    return sum(forward_flops(size, replace(one, answers=0.0)) for one in (lengths, validation))


def backward_flops(size: Size, lengths: Lengths) -> float:
    """The way back to the activations alone: no gradient of a weight.

    As much as forward for the linear layers, twice as much for attention. The lowest layer's first products are counted
    too, though nothing below them needs a gradient.
    """
    return forward_flops(size, lengths) + attention_flops(size, lengths)


def weights(shapes: Iterable[tuple[int, int]]) -> int:
    """Weights of some matrices."""
    return sum(out * into for out, into in shapes)


def exact_flops(
    size: Size, lengths: Lengths, validation: Lengths, *, params: Params = "qkv", sets: int = 1, folds: int = FOLDS
) -> float:
    """Exact dots: forward, backward to the activations, and ``<delta_t, V x_t>`` with each fold of each validation set.

    The validation gradients themselves come on top: forward, backward and the chosen weights' gradients.
    """
    shapes = size.chosen(params)
    dots = sets * folds * 2 * (weights(shapes) + sum(out for out, _ in shapes)) * lengths.tokens
    return (
        forward_flops(size, lengths)
        + backward_flops(size, lengths)
        + dots
        + _validation_flops(size, validation, params)
    )


def _validation_flops(size: Size, validation: Lengths, params: Params) -> float:
    gradients = 2 * weights(size.chosen(params)) * validation.tokens
    return forward_flops(size, validation) + backward_flops(size, validation) + gradients


def projected_flops(
    size: Size,
    lengths: Lengths,
    validation: Lengths,
    *,
    params: Params = "qkv",
    kind: Literal["sparse", "rademacher"] = "sparse",
    dim: int = 65536,
) -> float:
    """Projected gradients: forward, backward, each sample's gradient of the chosen weights, and its projection.

    ``sparse`` adds every entry of a gradient to one of ``dim`` columns; ``rademacher`` multiplies it by all of them.
    """
    chosen = weights(size.chosen(params))
    gradients = 2 * chosen * lengths.tokens
    projection = (2 if kind == "sparse" else 2 * dim) * chosen * lengths.n
    passes = forward_flops(size, lengths) + backward_flops(size, lengths)
    return passes + gradients + projection + _validation_flops(size, validation, params)


def adapter_weights(size: Size, *, params: Params, rank: int) -> int:
    """Weights of the LoRA matrices A and B of the chosen matrices."""
    return sum(rank * (out + into) for out, into in size.chosen(params))


def training_flops(
    size: Size,
    lengths: Lengths,
    *,
    epochs: float,
    params: Params = "qkv",
    rank: int = 8,
    checkpointing: bool = False,
) -> float:
    """Supervised fine-tuning: a LoRA adapter, or all weights with ``full``.

    LoRA: forward and backward through the frozen model, and six times the adapter's weights a token. All weights: six
    times the weights. Gradient checkpointing computes every layer once more. A trainer's head looks at every token.
    """
    seen = lengths.every_token()
    step = forward_flops(size, seen) + backward_flops(size, seen)
    again = forward_flops(size, replace(seen, answers=0.0))
    if params == "full":
        step += 2 * weights(size.chosen(params)) * seen.tokens
    else:
        adapter = 2 * adapter_weights(size, params=params, rank=rank) * seen.tokens
        step, again = step + 3 * adapter, again + adapter
    return epochs * (step + (again if checkpointing else 0.0))


def preference_flops(
    size: Size,
    lengths: Lengths,
    *,
    epochs: float,
    params: Params = "qkv",
    rank: int = 8,
    checkpointing: bool = False,
) -> float:
    """DPO: a training step over both answers of each pair, and a forward pass of the reference over both.

    Args:
        size: of the model, which is also the reference.
        lengths: of both sequences of every pair.
        epochs: passes; the reference is computed in each.
        params: which matrices are trained.
        rank: of LoRA.
        checkpointing: whether layers are computed again on the way back.
    """
    training = training_flops(size, lengths, epochs=epochs, params=params, rank=rank, checkpointing=checkpointing)
    return training + epochs * forward_flops(size, lengths.every_token())


def encoder_flops(size: Size, n: float, tokens: float) -> float:
    """Forward passes of an encoder over ``n`` texts of ``tokens`` each, cut to its context."""
    return forward_flops(size, in_context(size, n, tokens))


def in_context(size: Size, n: float, tokens: float) -> Lengths:
    return Lengths.same(n, min(tokens, size.context or ENCODER_CONTEXT))
