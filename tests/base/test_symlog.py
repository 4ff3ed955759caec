"""The symmetric logarithm against a slow, obvious form, and its two users against each other and the store's SQL."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest

from conftest import fill_store
from diq.base import symlog
from diq.explorer.axes import BINS, make_axis
from diq.plot import data
from diq.plot.data import Axis
from diq.plot.ground import grounded

RNG = np.random.default_rng(0)
HEAVY = RNG.standard_t(1.2, 5000) * 1e-3


@pytest.mark.parametrize("scale", [1e-9, 0.3, 1.0, 4e7])
def test_places_are_those_of_the_formula_and_lead_back(scale: float) -> None:
    values = [0.0, 1e-12, -1e-12, 0.5, -3.25, 7e4, -1e9]
    found = symlog.places(values, scale)
    for value, place in zip(values, found, strict=True):
        expected = math.log1p(abs(value) / scale) * (1 if value >= 0 else -1)
        assert place == pytest.approx(expected, rel=1e-14)
    assert symlog.values_at(found, scale) == pytest.approx(values, rel=1e-12)
    assert symlog.places(-np.array(values), scale) == pytest.approx(-found), "both sides are alike"
    assert symlog.values_at([1e4, -1e4], 1.0).tolist() == [math.inf, -math.inf]


def test_nine_in_ten_values_other_than_zero_lie_below_the_scale() -> None:
    values = np.append(HEAVY, np.zeros(20_000))
    scale = symlog.scale_of(values)
    assert scale is not None
    assert np.mean(np.abs(HEAVY) < scale) == pytest.approx(0.9, abs=1e-3)
    assert symlog.scale_of(np.zeros(3)) is None
    assert symlog.scale_of(np.empty(0)) is None
    assert symlog.scale_of(np.array([-2.0])) == 2.0
    assert symlog.reaching(1e-30, 5.0) == 5e-12
    assert symlog.reaching(0.5, 5.0) == 0.5


def test_the_explorer_and_the_charts_lie_the_same_column_out_alike(tmp_path: Path) -> None:
    dots = np.append(HEAVY, np.zeros(50))
    fill_store(tmp_path / "s.duckdb", dots={"a": dots}, difficulty=np.arange(len(dots)) % 5)
    with grounded(tmp_path / "s.duckdb") as ground:
        plane, histogram = data.plane(ground).facts, data.dots(ground).facts["sets"]["a"]
    assert plane["scale"] == pytest.approx(symlog.scale_of(dots), rel=1e-12)
    assert histogram["scale"] == pytest.approx(symlog.scale_of(dots), rel=1e-12)
    found = make_axis(dots, "symlog")
    axis = Axis.over(float(dots.min()), float(dots.max()), BINS, symlog.scale_of(dots))
    assert found.edges.tolist() == pytest.approx([axis.edge(k) for k in range(BINS + 1)], rel=1e-9, abs=1e-15)
