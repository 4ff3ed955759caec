"""Perplexity of the full text of a sample under a causal language model.

``exp(mean over t >= 2 of -ln p(token t | tokens before t))`` over every token of the sample as the model would be
trained on it: template, prompt, reasoning and answer, cut on the right at the maximum length. The first token has
nothing before it and is not predicted; where the tokenizer or template begins with a special token, that is the one.

Source: Marion et al. (2023), arXiv:2309.04564, and Ankner et al. (2024), arXiv:2405.20541, which prune pretraining text
by it; the layout of a conversation is our choice, and the one that influence uses.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from diq.gradients.losses import slices, token_losses, trunk_once
from diq.models.architecture import vocabulary_size
from diq.models.tokens import Tokens, collate

NOTHING_TO_PREDICT = "the text has fewer than two tokens, so none is predicted"
NOT_FINITE = "the loss is not finite"
OVERFLOW = "the loss is so large that its exponential is infinite"


def mean_losses(
    model: nn.Module, samples: Sequence[Tokens], *, padding_side: Literal["left", "right"] = "right"
) -> npt.NDArray[np.float64]:
    """Mean cross-entropy of all tokens but the first of each sample; arguments and result as `answer_losses`."""
    return answer_losses(model, [Tokens(one.ids, 1) for one in samples], padding_side=padding_side)


@torch.inference_mode()
def answer_losses(
    model: nn.Module, samples: Sequence[Tokens], *, padding_side: Literal["left", "right"] = "right"
) -> npt.NDArray[np.float64]:
    """Mean cross-entropy of the answer tokens of each sample, computed as one padded batch.

    The decoder runs once; the language-model head, and whatever the model does to its logits, run over so few tokens at
    a time that memory does not grow with vocabulary times tokens.

    Args:
        model: a causal language model of transformers.
        samples: with one answer token or more each, of which none is the very first.
        padding_side: makes no difference beyond rounding.

    Returns:
        ``[n]`` nats; each token's loss in float32 (float64 for a float64 model), their mean in float64.
    """
    device = next(model.parameters()).device
    batch = collate(samples, padding_side=padding_side).to(device)
    rows, columns = batch.answer.nonzero(as_tuple=True)
    vocabulary = vocabulary_size(model)
    sums = np.zeros(len(samples))
    with trunk_once(model):
        for part in slices(len(rows), vocabulary):
            predicted = torch.zeros_like(batch.answer)
            predicted[rows[part], columns[part]] = True
            losses = token_losses(model, replace(batch, answer=predicted))
            values = losses.values.cpu().double().numpy()
            sums += np.bincount(losses.sample.cpu().numpy(), weights=values, minlength=len(sums))
    means: npt.NDArray[np.float64] = sums / np.asarray([one.answer_tokens for one in samples])
    return means


def perplexity(mean_loss: float) -> tuple[float | None, str | None]:
    """The exponential of a mean loss in nats, or why there is none."""
    if not math.isfinite(mean_loss):
        return None, NOT_FINITE
    try:
        return math.exp(mean_loss), None
    except OverflowError:
        return None, OVERFLOW
