"""Arms of a comparison, each with scores from 1 to 5: means with intervals, and tests of a difference.

Scores are few whole numbers, so ties are the rule: every test here is exact given the ties where the arrangements can
be counted, and a normal approximation with the ties in its variance where they cannot.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import stats

CONFIDENCE = 0.95
# so many arrangements are counted one by one: 8 against 8 scores, or 14 pairs
_MOST_ARRANGEMENTS = 20_000

Scores = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Mean:
    """Scores of one arm.

    Attributes:
        n: scores.
        mean: their mean; None without scores.
        low: lower end of the 95 % interval of the mean; None for fewer than 2 scores.
        high: upper end.
        levels: how many scores are 1, 2, 3, 4 and 5.
    """

    n: int
    mean: float | None
    low: float | None
    high: float | None
    levels: list[int]


@dataclass(frozen=True, slots=True)
class Difference:
    """The first arm less the second.

    Attributes:
        difference: of the means; over the pairs, where the arms are paired. None without scores.
        low: lower end of its 95 % interval; None where that needs more scores.
        high: upper end.
        superiority: probability that a score of the first arm is higher than one of the second; a tie counts one half.
        mann_whitney_p: two-sided p-value of the Mann-Whitney U test.
        n_pairs: pairs with both scores; None where the arms are not paired.
        wilcoxon_p: two-sided p-value of the Wilcoxon signed-rank test over the pairs; None where they are not paired.
    """

    difference: float | None
    low: float | None
    high: float | None
    superiority: float | None
    mann_whitney_p: float | None
    n_pairs: int | None
    wilcoxon_p: float | None


def mean_of(scores: Scores) -> Mean:
    """Mean of scores with Student's t interval.

    The interval is symmetric and may reach beyond 1 or 5. Where all scores are equal it has no width: the sample shows
    no spread, which does not mean that the mean is known.

    Args:
        scores: ``[n]``, without NaN.
    """
    levels = [int((scores == level).sum()) for level in range(1, 6)]
    n = len(scores)
    if n == 0:
        return Mean(0, None, None, None, levels)
    mean = float(scores.mean())
    low, high = _interval(mean, _squared_error(scores), n - 1) if n > 1 else (None, None)
    return Mean(n, mean, low, high, levels)


def difference_of(first: Scores, second: Scores, *, paired: bool) -> Difference:
    """Difference of two arms: Welch's t interval, or the paired one, and rank tests.

    Args:
        first: ``[n]``; NaN where there is no score.
        second: ``[m]``; paired: ``[n]``, in the same order.
        paired: whether equal places belong together, such as two answers to one question.
    """
    a, b = first[~np.isnan(first)], second[~np.isnan(second)]
    superiority, p_value = mann_whitney(a, b)
    if paired:
        gaps = first - second
        gaps = gaps[~np.isnan(gaps)]
        found = mean_of(gaps)
        return Difference(found.mean, found.low, found.high, superiority, p_value, len(gaps), signed_rank(gaps))
    if not len(a) or not len(b):
        return Difference(None, None, None, None, None, None, None)
    difference, low, high = float(a.mean() - b.mean()), None, None
    if len(a) > 1 and len(b) > 1:
        errors = _squared_error(a), _squared_error(b)
        # Welch (1947), the degrees of freedom by Satterthwaite
        below = errors[0] ** 2 / (len(a) - 1) + errors[1] ** 2 / (len(b) - 1)
        freedom = sum(errors) ** 2 / below if below else 1.0
        low, high = _interval(difference, sum(errors), freedom)
    return Difference(difference, low, high, superiority, p_value, None, None)


def mann_whitney(a: Scores, b: Scores) -> tuple[float | None, float | None]:
    """Probability of superiority U / (n m), and the two-sided p-value of the Mann-Whitney U test.

    Exact (every way to deal the pooled scores to the arms, with their ties; how many lie at least as far from the
    expectation) up to 20,000 ways; above, scipy's normal approximation with ties and continuity correction. Equal
    scores throughout give 1.

    Args:
        a: ``[n]``.
        b: ``[m]``.

    Returns:
        Both None where an arm has no scores.
    """
    n, total = len(a), len(a) + len(b)
    if not n or n == total:
        return None, None
    ranks = stats.rankdata(np.concatenate([a, b]))
    rank_sum, expected = ranks[:n].sum(), n * (total + 1) / 2
    superiority = float((rank_sum - n * (n + 1) / 2) / (n * (total - n)))
    if (ranks == ranks[0]).all():
        return superiority, 1.0
    if math.comb(total, n) <= _MOST_ARRANGEMENTS:
        # sums of ranks are multiples of one half, so they compare exactly
        sums = np.array([sum(chosen) for chosen in itertools.combinations(ranks.tolist(), n)])
        return superiority, float((np.abs(sums - expected) >= abs(rank_sum - expected)).mean())
    return superiority, float(stats.mannwhitneyu(a, b, alternative="two-sided", method="asymptotic").pvalue)


def signed_rank(gaps: Scores) -> float | None:
    """Two-sided p-value of the Wilcoxon signed-rank test.

    Pairs without a difference are left out (Wilcoxon, 1945). Exact over all signs up to 14 pairs; above, the normal
    approximation with the ties in its variance, without continuity correction. No difference anywhere gives 1.

    Args:
        gaps: ``[n]``, the difference of each pair.

    Returns:
        None where there is no pair.
    """
    if not len(gaps):
        return None
    gaps = gaps[gaps != 0]
    n = len(gaps)
    if not n:
        return 1.0
    ranks = stats.rankdata(np.abs(gaps))
    found = abs(float((np.sign(gaps) * ranks).sum()))
    if 2**n <= _MOST_ARRANGEMENTS:
        signs = (np.arange(2**n)[:, None] >> np.arange(n) & 1) * 2 - 1
        return float((np.abs(signs @ ranks) >= found).mean())
    return float(2 * stats.norm.sf(found / math.sqrt((ranks**2).sum())))


def _squared_error(scores: Scores) -> float:
    """Squared standard error of the mean, ``[n]`` with n at least 2."""
    return float(scores.var(ddof=1)) / len(scores)


def _interval(centre: float, squared_error: float, freedom: float) -> tuple[float, float]:
    """Student's t interval."""
    half = float(stats.t.ppf((1 + CONFIDENCE) / 2, freedom)) * math.sqrt(squared_error)
    return centre - half, centre + half
