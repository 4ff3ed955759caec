"""Loss of a model on validation sets: the number that influence is about."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
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

    Args:
        network: a causal language model, with or without an adapter.
        tokenization: how conversations become tokens.
        conversations_by_set: for each name, conversations that end with the answer.
        token_budget: padded tokens a batch; what does not fit into memory is halved.

    Raises:
        UsageError: no sample of a set has an answer token left.
        RunFailedError: one sample alone does not fit into memory.
    """
    place = next(network.parameters()).device
    budget = token_budget or default_budget("training", place.type)

    def summed(batch: Sequence[Tokens]) -> float:
        with torch.no_grad():
            token = token_losses(network, collate(batch).to(place))
        return float(token.by_sample("mean").double().sum())

    was_training = network.training
    network.eval()
    found = {}
    try:
        for name, conversations in conversations_by_set.items():
            usable = tokenization.encode_validation_set(name, conversations)
            total = 0.0
            lengths = np.asarray([len(one.ids) for one in usable], np.int64)
            for batch in plan_batches(lengths, token_budget=budget, change=rope_change(network.config)):
                total += sum(
                    in_halves(
                        [usable[i] for i in batch],
                        summed,
                        what="validation samples",
                        one=f"one validation sample of up to {lengths[batch].max()} tokens",
                        hint="lower --max-length, or try --dtype bfloat16",
                    )
                )
            found[name] = total / len(usable)
    finally:
        network.train(was_training)
    return found
