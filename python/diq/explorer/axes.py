"""Axes: how the values of a column are cut into at most 255 bins, which is all that the page draws and filters by."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import numpy.typing as npt

from diq import _core
from diq.base import symlog

Floats = npt.NDArray[np.float64]
Kind = Literal["linear", "symlog", "rank", "strips"]
KINDS: tuple[Kind, ...] = get_args(Kind)

BINS = 255
# most whole numbers that get a strip each
_MOST_STRIPS = 40
# values that quantiles are taken of; a stride, so that the same column has the same axis
_SAMPLE = 200_000
# a column is heavy-tailed where its range is so many times the range of its middle half
_HEAVY = 20.0


@dataclass(frozen=True, slots=True)
class Axis:
    """The bins of a column.

    Attributes:
        kind: of the scale.
        edges: ``[bins + 1]`` ascending; bin ``i`` holds what is at least ``edges[i]`` and below ``edges[i + 1]``, the
            last one also the largest value.
        kinds: those that the column can have.
    """

    kind: Kind
    edges: Floats
    kinds: tuple[Kind, ...]

    @property
    def n_bins(self) -> int:
        """Bins, without that of missing values."""
        return len(self.edges) - 1

    @property
    def cuts(self) -> Floats:
        """What tells the bins apart, as :func:`diq._core.bin_column` takes it."""
        return np.ascontiguousarray(self.edges[1:-1])

    def bins_of(self, low: float | None, high: float | None) -> tuple[int, int]:
        """First and last bin of the values from ``low`` to below ``high``; None is open."""
        cuts = self.cuts
        first = 0 if low is None else int(np.searchsorted(cuts, low, side="right"))
        last = len(cuts) if high is None else int(np.searchsorted(cuts, high, side="left"))
        return min(first, last), max(first, last)

    def range_of(self, first: int, last: int) -> tuple[float | None, float | None]:
        """The values of some bins: the least, and what they are all below; None where there is no limit."""
        low = None if first == 0 else float(self.edges[first])
        return low, None if last >= self.n_bins - 1 else float(self.edges[last + 1])


def make_axis(values: Floats, kind: Kind | None = None) -> Axis:
    """The axis of a column.

    Args:
        values: ``[n]``, NaN where there is none.
        kind: of the scale; None: strips for a few whole numbers, symlog for heavy tails, else linear. One that the
            column cannot have counts as None.
    """
    sample = values[:: max(1, len(values) // _SAMPLE)]
    sample = sample[np.isfinite(sample)]
    found = _core.extent(values)
    if found is None:
        return Axis("linear", np.array([0.0, 1.0]), ("linear",))
    low, high, whole = found
    whole = whole and high - low < _MOST_STRIPS
    kinds: tuple[Kind, ...] = ("linear", "symlog", "rank", "strips") if whole else ("linear", "symlog", "rank")
    if kind not in kinds:
        kind = "strips" if whole else "symlog" if _is_heavy(sample, low, high) else "linear"
    if kind == "strips":
        return Axis(kind, np.arange(low, high + 2), kinds)
    if low == high:
        return Axis(kind, np.array([low, np.nextafter(high, np.inf)]), kinds)
    if kind == "linear":
        # in quarters, so that the difference of the ends stays in range
        edges = np.linspace(low / 4, high / 4, BINS + 1) * 4
    elif kind == "symlog":
        edges = _symlog(sample, low, high)
    else:
        edges = np.quantile(np.append(sample, [low, high]), np.linspace(0, 1, BINS + 1), method="lower")
    edges[0], edges[-1] = low, high
    edges = np.unique(np.clip(edges, low, high))
    return Axis(kind, edges, kinds)


def _is_heavy(sample: Floats, low: float, high: float) -> bool:
    if not len(sample):
        return False
    # in quarters, as above
    first, third = np.quantile(sample / 4, [0.25, 0.75])
    return bool((high / 4 - low / 4) / _HEAVY > third - first)


def _symlog(sample: Floats, low: float, high: float) -> Floats:
    """Edges that are even on the axis of a symmetric logarithm."""
    largest = max(abs(low), abs(high))
    scale = symlog.reaching(symlog.scale_of(sample) or largest, largest)
    first, last = symlog.places([low, high], scale)
    return symlog.values_at(np.linspace(first, last, BINS + 1), scale)
