"""Likert levels as ordered classes: the loss of a head, its calibration, and how well it does.

A head has five outputs a dimension and a softmax over them, so that any Hugging Face program can read it; that the
levels are ordered is in the loss. It is the cross-entropy plus the ranked probability score (Epstein 1969; for
networks: Hou et al. 2016, arXiv:1611.05916), ``sum over levels of (F(level) - [label <= level])**2`` with F the
cumulative probabilities: both are proper scores, and only the second one knows that 5 is further from 1 than 2 is.

Class weights make the rare levels count, and with it tilt the probabilities: minimised with weight w, a cross-entropy
gives ``p'(level) ~ w(level) p(level)``. An expected value of tilted probabilities is not one. So the calibration has
two numbers a dimension, fitted on the validation split: a temperature (Guo et al. 2017, arXiv:1706.04599), and how much
of the weights is taken back, ``logit / temperature - share * log(weight)``. Both are folded into the last layer, so the
saved folder gives calibrated probabilities by itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from diq.base.config import LIKERT_LEVELS
from diq.base.errors import ModelError
from diq.base.text import amount

Floats = npt.NDArray[np.float64]

# bins of the calibration error
_BINS = 10


@dataclass(frozen=True, slots=True)
class Calibration:
    """What turns the outputs of one head into calibrated logits.

    Attributes:
        temperature: the logits are divided by it.
        share: how much of the class weights is taken back, 0 (nothing) to about 1 (all).
        weights: class weight of each level, ``[5]``.
    """

    temperature: float
    share: float
    weights: Floats

    def apply(self, logits: Floats) -> Floats:
        """Calibrated logits ``[n, 5]``."""
        return np.asarray(logits / self.temperature - self.share * np.log(self.weights), np.float64)


def class_weights(levels: Floats, *, how: str) -> Floats:
    """Weight of each level in the loss, ``[5]``, with a mean of 1 over the labels; 1 for a level without a label.

    Args:
        levels: ``[n]`` labels of the training split, NaN where there is none.
        how: ``balanced`` (every level counts the same in total), ``sqrt`` (half way, on a log scale) or ``none``.
    """
    counts = np.asarray([np.count_nonzero(levels == level) for level in range(1, LIKERT_LEVELS + 1)], np.float64)
    present = counts > 0
    weights = np.ones(LIKERT_LEVELS)
    if how != "none":
        weights[present] = 1 / counts[present] ** (0.5 if how == "sqrt" else 1.0)
        weights[present] *= counts.sum() / (weights @ counts)
    return weights


def ordinal_loss(logits: Tensor, levels: Tensor, weights: Tensor, *, ordinal_weight: float) -> Tensor:
    """Mean over the labels of a batch of cross-entropy plus ranked probability score, each times its class weight.

    The mean of the dimensions that the batch has labels of. It is not divided by the sum of the weights, which is that
    of the labels over the whole training split: so batches of one size add up to what a batch of all of them gives.

    Args:
        logits: ``[b, d * 5]`` float32.
        levels: ``[b, d]``, 1 to 5, NaN where there is no label.
        weights: class weights ``[d, 5]``.
        ordinal_weight: factor of the ranked probability score; 0 leaves the cross-entropy alone.
    """
    scores = logits.view(len(logits), -1, LIKERT_LEVELS).log_softmax(dim=-1)
    known = ~levels.isnan()
    target = levels.nan_to_num(1.0).long() - 1
    weight = weights.to(scores).expand_as(scores).gather(-1, target[..., None])[..., 0] * known
    loss = -scores.gather(-1, target[..., None])[..., 0]
    if ordinal_weight:
        reached = torch.arange(LIKERT_LEVELS, device=scores.device) >= target[..., None]
        loss = loss + ordinal_weight * (scores.exp().cumsum(dim=-1) - reached.to(scores)).square().sum(dim=-1)
    n = known.sum(dim=0)
    # a dimension without a label in this batch has no say
    mean = (weight * loss).sum(dim=0) / n.clamp(min=1)
    return torch.sum(mean) / (n > 0).sum().clamp(min=1)


def calibrate(logits: Floats, levels: Floats, weights: Floats) -> Calibration:
    """Temperature and share with the smallest negative log-likelihood of the validation labels.

    Args:
        logits: ``[n, 5]`` of one head.
        levels: ``[n]`` labels, NaN where there is none.
        weights: the class weights ``[5]`` that the head was trained with.

    Returns:
        The calibration; without a label it changes nothing.
    """
    from scipy.optimize import minimize

    known = np.isfinite(levels)
    if not known.any():
        return Calibration(1.0, 0.0, weights)
    scores, target = logits[known], levels[known].astype(np.int64) - 1
    tilt = np.log(weights)
    rows = np.arange(len(target))

    def loss(numbers: Floats) -> tuple[float, Floats]:
        sharpness, share = numbers
        z = sharpness * scores - share * tilt
        z = z - z.max(axis=1, keepdims=True)
        log_total = np.log(np.exp(z).sum(axis=1))
        probabilities = np.exp(z - log_total[:, None])
        value = float(np.mean(log_total - z[rows, target]))
        slope = float(np.mean((probabilities * scores).sum(axis=1) - scores[rows, target]))
        turn = float(np.mean(-(probabilities * tilt).sum(axis=1) + tilt[target]))
        return value, np.asarray([slope, turn])

    # convex in (1 / temperature, share); the bounds keep a perfectly separated split from a temperature of 0
    found = minimize(loss, x0=np.asarray([1.0, 0.0]), jac=True, method="L-BFGS-B", bounds=[(0.05, 20), (-0.5, 1.5)])
    share = float(found.x[1]) if np.ptp(tilt) else 0.0
    return Calibration(1 / float(found.x[0]), share, weights)


def fold(model: nn.Module, calibrations: Sequence[Calibration]) -> None:
    """Put calibrations into the last layer of a model, so that its logits are the calibrated ones.

    Args:
        model: a sequence-classification model with five outputs a calibration, in their order.
        calibrations: one a dimension.

    Raises:
        ModelError: the model has no linear layer with that many outputs.
    """
    n = LIKERT_LEVELS * len(calibrations)
    layers = [one for one in model.modules() if isinstance(one, nn.Linear) and one.out_features == n]
    if not layers or layers[-1].bias is None:
        raise ModelError(
            f"{type(model).__name__} has no last linear layer of {amount(n, 'output')} with a bias",
            "give an encoder whose sequence classifier ends with a linear layer, such as BERT or ModernBERT",
        )
    head = layers[-1]
    with torch.no_grad():
        for d, one in enumerate(calibrations):
            rows = slice(d * LIKERT_LEVELS, (d + 1) * LIKERT_LEVELS)
            shift = torch.from_numpy(one.share * np.log(one.weights)).to(head.bias)
            head.weight[rows] /= one.temperature
            head.bias[rows] = head.bias[rows] / one.temperature - shift


def probabilities(logits: Floats) -> Floats:
    """Softmax over the last axis, in float64."""
    z = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return np.asarray(z / z.sum(axis=-1, keepdims=True), np.float64)


def measures(probability: Floats, levels: Floats) -> dict[str, Any]:
    """How well probabilities of levels fit labels.

    Args:
        probability: ``[n, 5]``.
        levels: ``[n]`` labels, NaN where there is none.

    Returns:
        ``n``; ``accuracy``, ``macro_f1`` (over the levels that the labels hold), ``weighted_f1``, ``kappa``
        (quadratic-weighted) and ``confusion`` (rows: label 1 to 5, columns: predicted) of the most probable level;
        ``mean_absolute_error``, ``spearman`` and ``bias`` (mean minus mean label) of the expected value;
        ``log_loss``, ``ranked_probability_score`` and ``calibration_error`` (expected, over 10 bins of the highest
        probability) of the probabilities. What is undefined is None.
    """
    from scipy.stats import spearmanr
    from sklearn.metrics import cohen_kappa_score, confusion_matrix, f1_score

    known = np.isfinite(levels)
    p, label = probability[known], levels[known].astype(np.int64)
    if not len(label):
        return {"n": 0}
    grades = np.arange(1, LIKERT_LEVELS + 1)
    predicted, expected = p.argmax(axis=1) + 1, p @ grades
    right = predicted == label
    sure = p.max(axis=1)
    bins = np.minimum((sure * _BINS).astype(int), _BINS - 1)
    gaps = [
        abs(float((right[bins == b]).mean() - sure[bins == b].mean())) * float((bins == b).mean()) for b in set(bins)
    ]
    present = np.unique(label)
    scored = {"labels": present, "zero_division": 0.0}
    varied = len(present) > 1
    return {
        "n": len(label),
        "accuracy": float(right.mean()),
        "macro_f1": float(f1_score(label, predicted, average="macro", **scored)),
        "weighted_f1": float(f1_score(label, predicted, average="weighted", **scored)),
        "kappa": float(cohen_kappa_score(label, predicted, weights="quadratic", labels=grades)) if varied else None,
        "mean_absolute_error": float(np.abs(expected - label).mean()),
        "spearman": float(spearmanr(expected, label).statistic) if varied and np.ptp(expected) else None,
        "bias": float(expected.mean() - label.mean()),
        "log_loss": float(-np.log(np.maximum(p[np.arange(len(label)), label - 1], 1e-300)).mean()),
        "ranked_probability_score": float(((p.cumsum(axis=1) - (grades >= label[:, None])) ** 2).sum(axis=1).mean()),
        "calibration_error": float(sum(gaps)),
        "confusion": confusion_matrix(label, predicted, labels=grades).tolist(),
    }
