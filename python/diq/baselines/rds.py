"""Embeddings of RDS+: the position-weighted mean of a language model's last hidden states.

``e(z) = sum over t = 1..n of (t / (1 + 2 + ... + n)) h_t`` over all n tokens of a sample as it would be trained on
(prompt and answer), h_t what the language-model head sees of token t; then divided by its Euclidean norm.

Source: Ivison et al. (2025), arXiv:2503.01807, and ``compute_influence_cosinesim.py --pooling weighted_mean`` of
hamishivi/automated-instruction-selection; the weights are those of Muennighoff (2022), arXiv:2202.08904.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from diq.gradients.losses import wide
from diq.models.tokens import Batch, Tokens, collate


@torch.inference_mode()
def weighted_states(model: nn.Module, samples: Sequence[Tokens]) -> npt.NDArray[np.float64]:
    """Position-weighted means of the last hidden states, computed as one padded batch.

    Args:
        model: a causal language model of transformers.
        samples: of one token or more each.

    Returns:
        ``[n, hidden]``, not yet of length 1; products in float32 (float64 for a float64 model).
    """
    device = next(model.parameters()).device
    batch = collate(samples).to(device)
    states = wide(last_states(model, batch))
    places = torch.arange(1, states.shape[1] + 1, device=device, dtype=states.dtype) * batch.mask
    weights = places / places.sum(dim=1, keepdim=True)
    # what a padded place holds, if it is not finite, must not count
    states = states.masked_fill(~batch.mask[:, :, None], 0)
    found: npt.NDArray[np.float64] = torch.bmm(weights[:, None, :], states)[:, 0].double().cpu().numpy()
    return found


def last_states(model: nn.Module, batch: Batch) -> Tensor:
    """What the head sees of each token ``[rows, t, hidden]``; the head itself runs on the first token alone."""
    seen: list[Tensor] = []

    def take(_module: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
        seen.append(args[0])
        return args[0][:, :1], *args[1:]

    head = model.get_output_embeddings()  # type: ignore[operator]
    handle = head.register_forward_pre_hook(take)
    try:
        # padded on the right, where no real token looks
        model(input_ids=batch.ids, use_cache=False)
    finally:
        handle.remove()
    return seen[0]
