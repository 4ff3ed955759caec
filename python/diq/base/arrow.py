"""Arrow columns as numpy arrays without pandas, which pyarrow imports (half a second) for any conversion of its own."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    import pyarrow as pa


def numbers(column: pa.Array | pa.ChunkedArray) -> npt.NDArray[Any]:
    """The values of a column of numbers or truth values.

    Args:
        column: a column of a fixed width, or of booleans.

    Returns:
        ``[n]`` of the column's type; float64 where it has nulls, which are NaN. A single chunk without nulls is not
        copied, and cannot be written to.

    Raises:
        TypeError: the column holds something else.
    """
    chunks = getattr(column, "chunks", None)
    parts = [_values(chunk) for chunk in ([column] if chunks is None else chunks)]
    if len(parts) == 1:
        return parts[0]
    return np.concatenate(parts) if parts else np.empty(0, _dtype(column.type))


def by_position(position: npt.NDArray[np.int64], found: pa.Table, name: str) -> npt.NDArray[np.float64]:
    """A column of a query's answer at the samples of a dataset; NaN where the answer has none.

    Args:
        position: ``[n]`` of the samples, ascending.
        found: the answer, in any order, with the column ``position``, each of them among these.
        name: of the column.
    """
    column = np.full(len(position), np.nan)
    column[np.searchsorted(position, numbers(found.column("position")))] = numbers(found.column(name))
    return column


def _values(array: pa.Array) -> npt.NDArray[Any]:
    dtype = _dtype(array.type)
    validity, data = array.buffers()
    n, start = len(array), array.offset
    values: npt.NDArray[Any]
    if not n:
        values = np.empty(0, dtype)
    elif dtype == np.bool_:
        values = _bits(data, start, n)
    else:
        values = np.frombuffer(data, dtype, n, start * dtype.itemsize)
        values.flags.writeable = False
    if array.null_count:
        values = np.where(_bits(validity, start, n), values, np.nan)
    return values


def _bits(buffer: pa.Buffer, start: int, n: int) -> npt.NDArray[np.bool_]:
    first, last = start // 8, (start + n + 7) // 8
    bits = np.unpackbits(np.frombuffer(buffer, np.uint8, last - first, first), bitorder="little")
    return bits[start % 8 : start % 8 + n].view(np.bool_)


def _dtype(kind: pa.DataType) -> np.dtype[Any]:
    name = {"double": "float64", "float": "float32", "halffloat": "float16"}.get(str(kind), str(kind))
    if name not in _NAMES:
        raise TypeError(f"a column of type {kind} holds no numbers")
    return np.dtype(name)


_NAMES = {
    "bool",
    "float16",
    "float32",
    "float64",
    *(f"{sign}int{8 * size}" for sign in ("", "u") for size in (1, 2, 4, 8)),
}
