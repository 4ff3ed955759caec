"""What trainings say of scores and selections: numbers alone, no store and no model."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]

_RESAMPLES = 2000


@dataclass(frozen=True, slots=True)
class Estimate:
    """A number and its 95 % interval; the ends are NaN where the data give none."""

    value: float
    low: float
    high: float


def spearman(one: Floats, other: Floats) -> float:
    """Spearman's rank correlation; NaN where one of the two is constant."""
    a, b = _ranks(one), _ranks(other)
    a, b = a - a.mean(), b - b.mean()
    scale = math.sqrt(float(a @ a) * float(b @ b))
    return float(a @ b) / scale if scale > 0 else math.nan


def _ranks(values: Floats) -> Floats:
    """Ranks from 0 on; equal values share the mean of theirs."""
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    ends = np.cumsum(counts)
    return np.asarray((ends - (counts + 1) / 2)[inverse.ravel()], np.float64)


def datamodelling_score(predicted: Floats, losses: Floats, *, seed: int = 0) -> Estimate:
    """Linear datamodelling score: whether the summed scores of a subset tell the loss after training on it.

    Args:
        predicted: ``[m]`` sum of the scores of each subset; higher is said to be better.
        losses: ``[m]`` validation loss after training on it.
        seed: of the bootstrap over subsets, which gives the interval.

    Source: arXiv 2303.14186 (TRAK), section 2.2, with the loss as the output of the model.
    """
    value = spearman(predicted, -losses)
    m = len(losses)
    if m < 4 or math.isnan(value):
        return Estimate(value, math.nan, math.nan)
    rng = np.random.default_rng(seed)
    drawn = rng.integers(0, m, (_RESAMPLES, m))
    found = np.asarray([spearman(predicted[rows], -losses[rows]) for rows in drawn])
    low, high = np.nanquantile(found, (0.025, 0.975))
    return Estimate(value, float(low), float(high))


def mean_difference(differences: Sequence[Floats]) -> Estimate:
    """Mean difference of losses over seeds and validation samples, with both as causes of error.

    The variance is that of the seeds' means over their number, plus that of the samples' (each the mean over the seeds
    that measured it) over theirs; the degrees of freedom are Welch's. With one seed it is the samples' alone.

    Args:
        differences: for each seed, ``[n]`` loss of a sample after one training less that after the other; seeds may
            measure different samples, and then those of equal number are taken for different ones.
    """
    from scipy.stats import t

    means = np.asarray([one.mean() for one in differences])
    value = float(means.mean())
    parts = []
    if len(means) > 1:
        parts.append((float(means.var(ddof=1)) / len(means), len(means) - 1))
    if all(len(one) == len(differences[0]) for one in differences):
        of_samples = np.mean(np.stack(differences), axis=0)
    else:
        of_samples = np.concatenate(differences)
    if len(of_samples) > 1:
        parts.append((float(of_samples.var(ddof=1)) / len(of_samples), len(of_samples) - 1))
    variance = sum(part for part, _ in parts)
    if not parts or not math.isfinite(variance):
        return Estimate(value, math.nan, math.nan)
    if variance == 0:
        return Estimate(value, value, value)
    freedom = variance**2 / sum(part**2 / n for part, n in parts)
    width = float(t.ppf(0.975, freedom)) * math.sqrt(variance)
    return Estimate(value, value - width, value + width)


def verdict(difference: Estimate) -> str:
    """In words, of losses less those of random selections."""
    if math.isnan(difference.low):
        return "unknown"
    if difference.high < 0:
        return "better"
    return "worse" if difference.low > 0 else "no difference"
