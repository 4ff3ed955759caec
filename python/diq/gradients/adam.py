"""LESS (Xia et al. 2024, arXiv:2402.04333): cosines of training samples' Adam directions with validation gradients.

A training sample's feature is the projected step that Adam would take on that sample alone; a validation sample's is
its projected gradient. Both are made unit vectors. The score is the mean dot over a task's validation samples, summed
over checkpoints by learning rate; the largest task counts. docs/method.md lists where paper and code disagree.
"""

from __future__ import annotations

import torch
from torch import Tensor

from diq.gradients.options import Formula

# rows of float64 that are in memory at a time
_BLOCK_ROWS = 4096


def adam_direction(
    gradient: Tensor,
    first: Tensor,
    second: Tensor,
    *,
    step: int,
    betas: tuple[float, float],
    eps: float,
    formula: Formula = "code",
) -> Tensor:
    """The step, up to the learning rate and its sign, that Adam would take on each gradient alone.

    With ``m = beta1 first + (1 - beta1) g`` and ``v = beta2 second + (1 - beta2) g**2``, element by element::

        code   m / sqrt(v + eps)
        paper  m' / sqrt(v' + eps)      m' = m / (1 - beta1**(step + 1)), v' = v / (1 - beta2**(step + 1))
        adam   m' / (sqrt(v') + eps)

    Under the root, eps = 1e-8 damps every element whose root mean square gradient is below 1e-4; outside, below 1e-8.
    It is not linear in the gradient: the direction of a mean is not the mean of the directions.

    Args:
        gradient: ``[b, ...]``, one gradient a row.
        first: ``[...]``, Adam's mean gradient at the checkpoint, oriented as the gradients are.
        second: ``[...]``, its mean squared gradient.
        step: optimizer steps taken at the checkpoint; ``code`` does not use it.
        betas: Adam's.
        eps: Adam's.
        formula: see :data:`Formula`.

    Returns:
        ``[b, ...]``, float64 for float64 gradients, else float32; an element without any gradient so far is 0.

    Source: Xia et al. (2024), section 3.1; princeton-nlp/LESS, less/data_selection/collect_grad_reps.py; Kingma and Ba
    (2015), Algorithm 1.
    """
    if gradient.shape[1:] != first.shape or first.shape != second.shape:
        raise ValueError(
            f"gradients {tuple(gradient.shape)} with moments {tuple(first.shape)} and {tuple(second.shape)}"
        )
    dtype = torch.float64 if gradient.dtype == torch.float64 else torch.float32
    gradient, first, second = gradient.to(dtype), first.to(dtype), second.to(dtype)
    beta1, beta2 = betas
    if formula == "code":
        scale1 = scale2 = 1.0
    else:
        scale1, scale2 = 1 - beta1 ** (step + 1), 1 - beta2 ** (step + 1)
    m = torch.add(first * (beta1 / scale1), gradient, alpha=(1 - beta1) / scale1)
    v = torch.addcmul(second * (beta2 / scale2), gradient, gradient, value=(1 - beta2) / scale2)
    v = v.sqrt_().add_(eps) if formula == "adam" else v.add_(eps).sqrt_()
    # 0 / 0 only without epsilon, or where a float32 underflows: no gradient, no step
    return m.div_(v).masked_fill_(v == 0, 0)


def unit_mean(features: Tensor) -> Tensor:
    """Mean of the features made unit vectors: what a task's validation samples are to every training sample.

    Args:
        features: ``[m, k]``, m > 0; a row of zeros stays zeros and counts in the mean.

    Returns:
        ``[k]`` float64, of length 1 if all samples agree, less otherwise.
    """
    total = torch.zeros(features.shape[1], dtype=torch.float64, device=features.device)
    for block in torch.split(features, _BLOCK_ROWS):
        total += _units(block).sum(dim=0)
    return total / len(features)


def _units(features: Tensor) -> Tensor:
    """Rows of length 1 in float64; rows of zeros stay."""
    wide = features.double()
    lengths = torch.linalg.vector_norm(wide, dim=1, keepdim=True)
    units: Tensor = wide / lengths.masked_fill(lengths == 0, 1)
    return units
