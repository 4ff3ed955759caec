"""The symmetric logarithm, the axis of columns with heavy tails: linear about zero, logarithmic far from it.

A value x lies at ``sign(x) ln(1 + |x| / scale)``. Vega's scale ``symlog`` with ``scale`` as its constant draws the
same, and the queries ``plot/plane_cells`` and ``plot/dot_bins`` compute it where the values are.

Source: Webber (2013), "A bi-symmetric log transformation for wide-range data", Measurement Science and Technology 24.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]

TURNS = 0.9
"""The scale is what this share of the values other than zero stay below in size (likewise in ``plot/plane_bounds`` and
``plot/dot_bounds``)."""


def scale_of(values: Floats) -> float | None:
    """The scale of a column; None where every value is zero, or there is none.

    Args:
        values: ``[n]`` finite.
    """
    sizes = np.abs(values[values != 0])
    return float(np.quantile(sizes, TURNS)) if len(sizes) else None


def reaching(scale: float, largest: float) -> float:
    """The scale, or a larger one from which the axis reaches the largest value in twelve powers of ten.

    More of them leave no room between the values to be seen, and in the end leave the range of a double.

    Args:
        scale: more than 0.
        largest: size of the largest value.
    """
    return max(scale, largest * 1e-12, float(np.finfo(np.float64).tiny))


def places(values: npt.ArrayLike, scale: float) -> Floats:
    """Where values lie on the axis."""
    given = np.asarray(values, np.float64)
    return np.asarray(np.copysign(np.log1p(np.abs(given / scale)), given))


def values_at(places: npt.ArrayLike, scale: float) -> Floats:
    """The values that lie at some places; infinite where they leave the range of a double."""
    given = np.asarray(places, np.float64)
    with np.errstate(over="ignore"):
        return np.asarray(np.copysign(np.expm1(np.abs(given)) * scale, given))
