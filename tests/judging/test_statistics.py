"""Statistics of arms against slow, obvious forms, and the laws that they obey."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from diq.judging.statistics import Difference, Mean, difference_of, mann_whitney, mean_of, signed_rank

likert = st.lists(st.integers(1, 5), min_size=1, max_size=7).map(lambda values: np.array(values, np.float64))


def u_statistic(a: np.ndarray, b: np.ndarray) -> float:
    """Pairs that the first arm wins, ties counting one half."""
    return sum((x > y) + (x == y) / 2 for x in a for y in b)


def slow_mann_whitney(a: np.ndarray, b: np.ndarray) -> float:
    """Every way to deal the pooled scores to two arms of these sizes."""
    pooled, n = np.concatenate([a, b]), len(a)
    found = abs(u_statistic(a, b) - n * len(b) / 2)
    as_far = total = 0
    for chosen in itertools.combinations(range(len(pooled)), n):
        taken = np.isin(np.arange(len(pooled)), chosen)
        as_far += abs(u_statistic(pooled[taken], pooled[~taken]) - n * len(b) / 2) >= found
        total += 1
    return as_far / total


@settings(deadline=None, max_examples=40)
@given(likert, likert)
def test_mann_whitney_counts_every_arrangement(a: np.ndarray, b: np.ndarray) -> None:
    a, b = a[:5], b[:5]
    superiority, p_value = mann_whitney(a, b)
    assert superiority == pytest.approx(u_statistic(a, b) / (len(a) * len(b)))
    assert p_value == pytest.approx(slow_mann_whitney(a, b))


@settings(deadline=None)
@given(likert, likert)
def test_swapped_arms_mirror_the_result(a: np.ndarray, b: np.ndarray) -> None:
    one, other = difference_of(a, b, paired=False), difference_of(b, a, paired=False)
    assert one.mann_whitney_p == pytest.approx(other.mann_whitney_p)
    assert one.superiority == pytest.approx(1 - other.superiority)
    assert one.difference == pytest.approx(-other.difference)
    if one.low is not None:
        assert (one.low, one.high) == pytest.approx((-other.high, -other.low))


def test_mann_whitney_without_ties_is_scipys_exact_one() -> None:
    rng = np.random.default_rng(0)
    for n, m in ((1, 1), (1, 9), (4, 6), (8, 8)):
        values = rng.permutation(n + m).astype(float)
        expected = stats.mannwhitneyu(values[:n], values[n:], alternative="two-sided", method="exact").pvalue
        assert mann_whitney(values[:n], values[n:])[1] == pytest.approx(expected)


def test_large_arms_take_the_approximation_which_random_arrangements_confirm() -> None:
    rng = np.random.default_rng(1)
    a, b = rng.integers(1, 6, 60).astype(float), np.clip(rng.integers(1, 7, 50), 1, 5).astype(float)
    _, p_value = mann_whitney(a, b)
    ranks = stats.rankdata(np.concatenate([a, b]))
    sums = np.array([rng.permutation(ranks)[:60].sum() for _ in range(20_000)])
    expected = 60 * 111 / 2
    counted = (np.abs(sums - expected) >= abs(ranks[:60].sum() - expected)).mean()
    assert 0.001 < counted < 0.9
    assert p_value == pytest.approx(counted, abs=4 * math.sqrt(counted / 20_000) + 0.005)


@pytest.mark.parametrize("n", [1, 3, 100])
def test_a_constant_column_has_no_difference(n: int) -> None:
    found = difference_of(np.full(n, 4.0), np.full(n + 1, 4.0), paired=False)
    assert (found.mann_whitney_p, found.superiority, found.difference) == (1.0, 0.5, 0.0)
    assert (found.low, found.high) == ((None, None) if n == 1 else (0.0, 0.0))
    paired = difference_of(np.full(n, 4.0), np.full(n, 4.0), paired=True)
    assert (paired.wilcoxon_p, paired.difference, paired.n_pairs) == (1.0, 0.0, n)


def test_the_interval_of_a_mean() -> None:
    scores = np.array([1, 2, 2, 5, 4, 4, 3.0])
    found = mean_of(scores)
    low, high = stats.t.interval(0.95, len(scores) - 1, scores.mean(), stats.sem(scores))
    assert (found.mean, found.low, found.high) == pytest.approx((scores.mean(), low, high))
    assert (found.n, found.levels) == (7, [1, 2, 1, 2, 1])
    assert mean_of(np.array([])) == Mean(0, None, None, None, [0] * 5)
    assert mean_of(np.array([3.0])) == Mean(1, 3.0, None, None, [0, 0, 1, 0, 0])
    assert mean_of(np.array([3.0, 3.0])) == Mean(2, 3.0, 3.0, 3.0, [0, 0, 2, 0, 0])


def test_the_intervals_hold_what_they_promise() -> None:
    # 100 scores an arm, as the paper draws; 95 % of the intervals hold the true value, within four standard errors
    rng = np.random.default_rng(2)
    shares = [0.1, 0.1, 0.2, 0.3, 0.3], [0.05, 0.3, 0.3, 0.3, 0.05]
    truth = [float(np.dot(range(1, 6), one)) for one in shares]
    held = np.zeros(2)
    for _ in range(1000):
        a, b = (rng.choice(np.arange(1.0, 6), 100, p=one) for one in shares)
        mean, gap = mean_of(a), difference_of(a, b, paired=False)
        held += [mean.low <= truth[0] <= mean.high, gap.low <= truth[0] - truth[1] <= gap.high]
    assert (np.abs(held / 1000 - 0.95) < 4 * math.sqrt(0.95 * 0.05 / 1000)).all()


def test_the_difference_is_welchs() -> None:
    rng = np.random.default_rng(3)
    a, b = rng.integers(1, 6, 40).astype(float), rng.integers(2, 5, 13).astype(float)
    expected = stats.ttest_ind(a, b, equal_var=False).confidence_interval(0.95)
    found = difference_of(np.append(a, np.nan), b, paired=False)
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high))
    assert found.difference == pytest.approx(a.mean() - b.mean())
    assert (found.n_pairs, found.wilcoxon_p) == (None, None)


def test_pairs() -> None:
    rng = np.random.default_rng(4)
    a, b = rng.integers(1, 6, (2, 30)).astype(float)
    a[3] = b[7] = b[8] = np.nan
    both = ~np.isnan(a - b)
    found = difference_of(a, b, paired=True)
    expected = stats.ttest_rel(a[both], b[both]).confidence_interval(0.95)
    assert found.n_pairs == 27
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high))
    assert found.difference == pytest.approx((a - b)[both].mean())
    # the test of independent arms takes every score
    assert found.mann_whitney_p == mann_whitney(a[~np.isnan(a)], b[~np.isnan(b)])[1]
    mirrored = difference_of(b, a, paired=True)
    assert (mirrored.difference, mirrored.wilcoxon_p) == pytest.approx((-found.difference, found.wilcoxon_p))


@settings(deadline=None, max_examples=60)
@given(st.lists(st.integers(-4, 4), min_size=1, max_size=8))
def test_signed_rank_counts_every_sign(values: list[int]) -> None:
    gaps = np.array([one for one in values if one], np.float64)
    found = signed_rank(np.array(values, np.float64))
    if not len(gaps):
        assert found == 1.0
        return
    ranks = [sum((abs(y) < abs(x)) + (abs(y) == abs(x)) / 2 for y in gaps) + 0.5 for x in gaps]
    statistic = abs(sum(rank * np.sign(gap) for rank, gap in zip(ranks, gaps, strict=True)))
    every = [abs(np.dot(signs, ranks)) for signs in itertools.product((-1, 1), repeat=len(gaps))]
    assert found == pytest.approx(np.mean([one >= statistic for one in every]))


def test_signed_rank_of_many_pairs_is_scipys_approximation() -> None:
    gaps = np.random.default_rng(5).integers(-3, 5, 80).astype(float)
    expected = stats.wilcoxon(gaps, zero_method="wilcox", correction=False, method="asymptotic").pvalue
    assert signed_rank(gaps) == pytest.approx(expected)


def test_arms_without_scores() -> None:
    empty, full = np.array([np.nan, np.nan]), np.array([3.0, 4.0])
    nothing = Difference(None, None, None, None, None, None, None)
    assert difference_of(empty, full, paired=False) == difference_of(full, empty[:0], paired=False) == nothing
    assert difference_of(empty, full, paired=True) == Difference(None, None, None, None, None, 0, None)
    alone = difference_of(np.array([3.0]), full, paired=False)
    assert (alone.difference, alone.low, alone.mann_whitney_p) == (-0.5, None, 1.0)
