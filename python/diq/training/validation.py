"""Loss of a model on validation sets: the number that influence is about."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt
import torch

from diq.base.sample import Message
from diq.gradients.losses import token_losses
from diq.models.architecture import rope_change
from diq.models.memory import default_budget, in_halves
from diq.models.tokens import Tokenization, Tokens, collate, plan_batches


def validation_losses(
    network: torch.nn.Module,
    tokenization: Tokenization,
    conversations_by_set: Mapping[str, Sequence[Sequence[Message]]],
    *,
    token_budget: int | None = None,
) -> dict[str, float]:
    """Loss of each validation set: mean over its samples of the mean answer-token cross-entropy, in nats.

    Arguments and errors as `sample_losses`.
    """
    found = sample_losses(network, tokenization, conversations_by_set, token_budget=token_budget)
    return {name: float(losses.mean()) for name, losses in found.items()}


def sample_losses(
    network: torch.nn.Module,
    tokenization: Tokenization,
    conversations_by_set: Mapping[str, Sequence[Sequence[Message]]],
    *,
    token_budget: int | None = None,
) -> dict[str, npt.NDArray[np.float64]]:
    """Loss of each validation sample, the mean answer-token cross-entropy in nats, ``[n]`` of each set in its order.

    Args:
        network: a causal language model, with or without an adapter.
        tokenization: how conversations become tokens.
        conversations_by_set: for each name, conversations that end with the answer; those without an answer token are
            left out.
        token_budget: padded tokens a batch; what does not fit into memory is halved.

    Raises:
        UsageError: no sample of a set has an answer token left.
        RunFailedError: one sample alone does not fit into memory.
    """
    place = next(network.parameters()).device
    budget = token_budget or default_budget("training", place.type)

    def losses_of(batch: Sequence[Tokens]) -> npt.NDArray[np.float64]:
        with torch.no_grad():
            token = token_losses(network, collate(batch).to(place))
        return np.asarray(token.by_sample("mean").double().cpu().numpy(), np.float64)

    was_training = network.training
    network.eval()
    found = {}
    try:
        for name, conversations in conversations_by_set.items():
            usable = tokenization.encode_validation_set(name, conversations)
            lengths = np.asarray([len(one.ids) for one in usable], np.int64)
            found[name] = np.empty(len(usable))
            for batch in plan_batches(lengths, token_budget=budget, change=rope_change(network.config)):
                parts = in_halves(
                    [usable[i] for i in batch],
                    losses_of,
                    what="validation samples",
                    one=f"one validation sample of up to {lengths[batch].max()} tokens",
                    hint="lower --max-length, or try --dtype bfloat16",
                )
                found[name][batch] = np.concatenate(list(parts))
    finally:
        network.train(was_training)
    return found
