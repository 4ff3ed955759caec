"""Quadrants and the ranking of Algorithm 1 (arXiv 2508.01450, section 3.4) on plain columns."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import numpy as np
import numpy.typing as npt

from diq import _core
from diq.errors import UsageError
from diq.records import Ratio

QUADRANTS = ("Q1", "Q2", "Q3", "Q4")


def rank(
    dot: Any,
    difficulty: Any,
    *,
    percentile: float = 0.5,
    threshold: float | None = None,
    ratio: str | float | Decimal | None = None,
) -> _core.Ranking:
    """Order rows by quadrant, dot descending, difficulty descending, row ascending.

    Args:
        dot: influence of each row, ``[n]``: a NumPy array or anything Arrow (PyCapsule interface) or array-like;
            float32 and float64 are read in place, other number types are converted.
        difficulty: difficulty of each row, ``[n]``, likewise.
        percentile: p of the difficulty threshold, 0 to 1; linear interpolation between order statistics.
        threshold: an absolute difficulty threshold in place of the percentile.
        ratio: how much of the order to return: floor(N * ratio) rows, N being the rows with finite dot and difficulty;
            None returns the whole order.

    Returns:
        ``rows`` (int64, in order), ``quadrant`` of each row (uint8, 1 to 4, 0 for rows without finite scores), ``tau``,
        ``median``, ``n_scored`` and ``counts`` of Q1 to Q4.

    Raises:
        UsageError: columns of different lengths, or a percentile, threshold or ratio out of range.

    Source: arXiv 2508.01450, Algorithm 1.
    """
    parsed = None if ratio is None else Ratio.parse(ratio)
    try:
        return _core.rank(
            column(dot, "dot"),
            column(difficulty, "difficulty"),
            percentile=percentile,
            threshold=threshold,
            ratio=None if parsed is None else (parsed.numerator, parsed.denominator),
        )
    except ValueError as error:
        raise UsageError(str(error)) from error


def column(values: Any, name: str) -> npt.NDArray[np.float32] | npt.NDArray[np.float64]:
    """A column as a contiguous float32 or float64 array, without a copy where it is one already; nulls become NaN."""
    if hasattr(values, "__arrow_c_stream__") or hasattr(values, "__arrow_c_array__"):
        import pyarrow as pa

        chunked = (
            pa.chunked_array(values) if hasattr(values, "__arrow_c_stream__") else pa.chunked_array([pa.array(values)])
        )
        if chunked.null_count:
            chunked = chunked.cast(pa.float64())
        values = chunked.to_numpy()
    array = np.asarray(values)
    if array.ndim != 1:
        raise UsageError(f"`{name}` has {array.ndim} dimensions, not 1", "give one number a row")
    if array.dtype in (np.float32, np.float64):
        return np.ascontiguousarray(array)
    if array.dtype.kind not in "fiub":
        raise UsageError(f"`{name}` has type {array.dtype}, not numbers", "convert it to float32 or float64 first")
    return array.astype(np.float32 if array.dtype == np.float16 else np.float64)
