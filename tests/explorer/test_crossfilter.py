"""Bins, linked counts, pages and ids of the core against a few lines of numpy."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest

from diq import _core


def table(n: int, seed: int = 0) -> tuple[list[npt.NDArray[np.uint8]], npt.NDArray[np.uint8]]:
    rng = np.random.default_rng(seed)
    columns = [rng.integers(0, size, n).astype(np.uint8) for size in (256, 5, 40)]
    allowed = (rng.random((3, 256)) < 0.7).astype(np.uint8)
    return columns, allowed


@pytest.mark.parametrize("n", [0, 1, 63, 300_001])
def test_counts_are_those_of_numpy(n: int) -> None:
    columns, allowed = table(n)
    classes = np.random.default_rng(1).integers(0, 4, n).astype(np.uint8)
    histograms, plane, passing = _core.crossfilter(columns, allowed, plane=(1, 2), classes=classes)
    lets = [allowed[i][column] != 0 for i, column in enumerate(columns)]
    for i, column in enumerate(columns):
        others = np.logical_and.reduce([one for j, one in enumerate(lets) if j != i])
        expected = np.zeros((256, 4), np.uint32)
        np.add.at(expected, (column[others], classes[others]), 1)
        np.testing.assert_array_equal(histograms[i], expected)
    expected = np.zeros((256, 256, 4), np.uint32)
    np.add.at(expected, (columns[2][lets[0]], columns[1][lets[0]], classes[lets[0]]), 1)
    np.testing.assert_array_equal(plane, expected)
    assert passing == tuple(np.bincount(classes[np.logical_and.reduce(lets)], minlength=4))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_bins_are_those_of_searchsorted(dtype: type) -> None:
    rng = np.random.default_rng(2)
    values = np.concatenate([rng.integers(-5, 5, 5000) / 4, [np.nan, np.inf, -np.inf, 1e30]]).astype(dtype)
    for m in (0, 1, 17, 254):
        cuts = np.sort(rng.integers(-5, 5, m) / 4)
        expected = np.where(np.isfinite(values), np.searchsorted(cuts, values, side="right"), 255)
        np.testing.assert_array_equal(_core.bin_column(values, cuts), expected)


@pytest.mark.parametrize("descending", [False, True])
@pytest.mark.parametrize("first", [0, 25, 70_000, 10**9])
def test_pages_are_those_of_a_sort(descending: bool, first: int) -> None:
    n = 300_001
    columns, allowed = table(n)
    values = np.random.default_rng(4).integers(0, 1000, n) / 8
    values[::97] = np.nan
    columns[2] = _core.bin_column(values, np.arange(5, 120, 5.0))
    allowed[2, 255] = 1
    rows = np.flatnonzero(np.logical_and.reduce([allowed[i][column] != 0 for i, column in enumerate(columns)]))
    keys = {None: rows.astype(float), "bins": columns[1][rows].astype(float), "values": values[rows]}
    for how, key in keys.items():
        order = rows[np.argsort(-key if descending else key, kind="stable")]
        found = _core.page_rows(
            columns,
            allowed,
            column={None: None, "bins": 1, "values": 2}[how],
            values=values if how == "values" else None,
            descending=descending,
            first=first,
            count=25,
        )
        np.testing.assert_array_equal(found, order[first : first + 25])


def test_extents_are_those_of_numpy() -> None:
    values = np.random.default_rng(6).standard_normal(200_001)
    assert _core.extent(values) == (values.min(), values.max(), False)
    assert _core.extent(np.array([np.nan, 3.0, -np.inf, -2.0])) == (-2.0, 3.0, True)
    assert _core.extent(np.array([np.nan, np.inf])) is None
    assert _core.extent(np.array([])) is None


def test_ids_find_their_rows() -> None:
    rng = np.random.default_rng(5)
    high, low = (rng.integers(0, 2**63, 50_000).astype(np.uint64) for _ in range(2))
    order = rng.permutation(50_000)
    index = _core.IdIndex(high, low)
    np.testing.assert_array_equal(index.rows(high[order], low[order]), order)
    np.testing.assert_array_equal(index.rows(high[:3], low[1:4]), [-1, -1, -1])


def test_what_does_not_fit_is_refused() -> None:
    columns, allowed = table(10)
    classes = np.zeros(10, np.uint8)
    with pytest.raises(ValueError, match="classes has 9 rows"):
        _core.crossfilter(columns, allowed, plane=(0, 1), classes=classes[1:])
    with pytest.raises(ValueError, match="plane must be"):
        _core.crossfilter(columns, allowed, plane=(0, 3), classes=classes)
    with pytest.raises(ValueError, match="contiguous"):
        _core.crossfilter([columns[0][::2]], allowed, plane=(0, 0), classes=classes)
    with pytest.raises(TypeError, match="uint8"):
        _core.crossfilter([columns[0].astype(np.int64)], allowed, plane=(0, 0), classes=classes)
    with pytest.raises(ValueError, match="allowed"):
        _core.page_rows(columns, allowed[:2], count=1)
    with pytest.raises(ValueError, match="cuts must be ascending"):
        _core.bin_column(np.zeros(1), np.array([2.0, 1.0]))
    with pytest.raises(ValueError, match="low has 1 rows"):
        _core.IdIndex(np.zeros(2, np.uint64), np.zeros(1, np.uint64))
