"""Numbers of a validation against slow forms, and how often an interval misses the truth."""

from __future__ import annotations

import math

import numpy as np
import pytest
import scipy.stats

from diq.trials.measures import Estimate, datamodelling_score, mean_difference, spearman, verdict


def test_spearman_is_that_of_scipy_with_ties() -> None:
    rng = np.random.default_rng(0)
    for _ in range(50):
        a, b = rng.integers(0, 6, 20).astype(float), rng.normal(size=20)
        assert spearman(a, b) == pytest.approx(scipy.stats.spearmanr(a, b).statistic, abs=1e-12)
    assert math.isnan(spearman(np.ones(5), np.arange(5.0)))


def test_a_score_that_tells_the_losses_has_1_and_its_opposite_minus_1() -> None:
    losses = np.random.default_rng(1).normal(size=30)
    assert datamodelling_score(-3 * losses, losses) == Estimate(pytest.approx(1), pytest.approx(1), pytest.approx(1))
    assert datamodelling_score(losses, losses).value == pytest.approx(-1)
    assert math.isnan(datamodelling_score(np.ones(30), losses).low)
    assert math.isnan(datamodelling_score(losses[:3], losses[:3]).low)


def test_the_interval_of_a_score_holds_the_truth_about_as_often_as_it_says() -> None:
    rng = np.random.default_rng(2)
    truth = 6 / math.pi * math.asin(0.6 / 2)
    held = 0
    for number in range(40):
        a, b = rng.multivariate_normal([0, 0], [[1, 0.6], [0.6, 1]], 40).T
        found = datamodelling_score(a, -b, seed=number)
        held += found.low <= truth <= found.high
    assert 34 <= held <= 40


@pytest.mark.parametrize(("seeds", "samples"), [(1, 60), (3, 40), (5, 20)])
def test_the_interval_of_a_difference_covers_seeds_and_samples(seeds: int, samples: int) -> None:
    """Samples differ by 0.3 and seeds by 0.1; the mean difference is 0.2."""
    rng = np.random.default_rng(3)
    held = 0
    for _ in range(300):
        of_samples = rng.normal(scale=0.3, size=samples)
        # with one seed nothing tells how much seeds differ, and the interval says nothing of it
        drawn = rng.normal(scale=0.1 if seeds > 1 else 0.0, size=seeds)
        found = mean_difference([0.2 + of_samples + one + rng.normal(scale=0.1, size=samples) for one in drawn])
        held += found.low <= 0.2 <= found.high
    assert 276 <= held <= 300


def test_words() -> None:
    assert verdict(Estimate(-0.2, -0.3, -0.1)) == "better"
    assert verdict(Estimate(0.2, 0.1, 0.3)) == "worse"
    assert verdict(Estimate(0.0, -0.1, 0.1)) == "no difference"
    assert verdict(Estimate(0.0, math.nan, math.nan)) == "unknown"
    assert mean_difference([np.zeros(4), np.zeros(4)]) == Estimate(0.0, 0.0, 0.0)
    assert math.isnan(mean_difference([np.ones(1)]).low)
