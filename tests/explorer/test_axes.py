"""Axes: every value in the bin whose edges hold it, whatever the column is like."""

from __future__ import annotations

from typing import get_args

import numpy as np
import pytest

from diq import _core
from diq.explorer.axes import Kind, make_axis

COLUMNS = {
    "heavy": np.random.default_rng(0).standard_t(1, 3000),
    "even": np.linspace(-3, 8, 1001),
    "levels": np.random.default_rng(1).integers(1, 6, 500).astype(float),
    "alike": np.full(40, 0.25),
    "zero": np.zeros(7),
    "one": np.array([3.5]),
    "none": np.full(5, np.nan),
    "missing": np.where(np.arange(100) % 3, np.arange(100) / 7, np.nan),
    "huge": np.array([-1.7e308, -1.0, 0.0, 5e-324, 1.7e308]),
    "tiny": np.array([1e-310, 2e-310, 3e-310]),
    "neighbours": np.array([1.0, np.nextafter(1.0, 2.0)]),
}


@pytest.mark.parametrize("kind", [None, *get_args(Kind)])
@pytest.mark.parametrize("name", COLUMNS)
@pytest.mark.filterwarnings("error")
def test_every_value_lies_in_its_bin(name: str, kind: Kind | None) -> None:
    values = COLUMNS[name]
    axis = make_axis(values, kind)
    assert np.isfinite(axis.edges).all()
    assert (np.diff(axis.edges) > 0).all()
    assert axis.n_bins <= 255
    assert axis.kind in axis.kinds
    bins = _core.bin_column(values, axis.cuts)
    for value, place in zip(values, bins, strict=True):
        if np.isnan(value):
            assert place == 255
        else:
            assert place < axis.n_bins
            assert axis.edges[place] <= value <= axis.edges[place + 1]


@pytest.mark.parametrize("name", COLUMNS)
def test_a_range_of_bins_is_a_range_of_values_and_back(name: str) -> None:
    axis = make_axis(COLUMNS[name])
    for first in range(0, axis.n_bins, max(1, axis.n_bins // 9)):
        for last in range(first, axis.n_bins, max(1, axis.n_bins // 9)):
            assert axis.bins_of(*axis.range_of(first, last)) == (first, last)


def test_scales_that_fit_are_chosen() -> None:
    assert make_axis(COLUMNS["heavy"]).kind == "symlog"
    assert make_axis(COLUMNS["even"]).kind == "linear"
    strips = make_axis(COLUMNS["levels"])
    assert (strips.kind, strips.edges.tolist()) == ("strips", [1, 2, 3, 4, 5, 6])
    assert make_axis(COLUMNS["even"], "strips").kind == "linear"
    ranks = make_axis(COLUMNS["heavy"], "rank")
    counts = np.bincount(_core.bin_column(COLUMNS["heavy"], ranks.cuts))
    assert counts.max() <= 2 * 3000 / 255
