"""Quadrants and the ranking of Algorithm 1 (arXiv 2508.01450, section 3.4) on plain columns."""

from __future__ import annotations

from collections.abc import Sequence
from decimal import Decimal
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from diq import _core
from diq.base.errors import UsageError
from diq.base.text import Ratio, amount, first_line

QUADRANTS = ("Q1", "Q2", "Q3", "Q4")

Values: TypeAlias = npt.NDArray[np.float32] | npt.NDArray[np.float64]
# values; or where some are null values, validity bitmap and the bit of the first value
Chunk: TypeAlias = Values | tuple[Values, npt.NDArray[np.uint8], int]

_TABLE = "columns `dot` and `difficulty`"


def rank(
    dot: Any,
    difficulty: Any = None,
    *,
    percentile: float = 0.5,
    threshold: float | None = None,
    ratio: str | float | Decimal | None = None,
) -> _core.Ranking:
    """Order rows by quadrant, dot descending, difficulty descending, row ascending.

    A column is a NumPy array or whatever speaks the Arrow PyCapsule interface (pyarrow, polars and pandas columns, a
    table or a DuckDB relation of one column), in any number of chunks. Contiguous float32 and float64 are read where
    they are, chunk by chunk and nulls included, and never copied; other numbers (integers, booleans, decimals, float16,
    dictionaries of numbers) are converted, chunk by chunk, which is the one copy. A stream is read to its end first.

    Memory beside the columns: at most 12 bytes a row, the result included, and about 1 KB a chunk.

    Args:
        dot: influence of each row, ``[n]``; or, without ``difficulty``, a table with the columns `dot` and
            `difficulty` (a DuckDB relation, a pyarrow table or reader, a data frame), read in one pass; other columns
            are ignored, but they are read, so leave them out of a query.
        difficulty: difficulty of each row, ``[n]``; its chunks need not match those of ``dot``.
        percentile: p of the difficulty threshold, 0 to 1; linear interpolation between order statistics.
        threshold: an absolute difficulty threshold in place of the percentile.
        ratio: how much of the order to return: floor(N * ratio) rows, N being the rows with finite dot and difficulty;
            None returns the whole order.

    Returns:
        ``rows`` (int64, in order), ``quadrant`` of each row (uint8, 1 to 4, 0 where the dot or the difficulty is null,
        NaN or infinite), ``tau``, ``median``, ``n_scored`` and ``counts`` of Q1 to Q4.

    Raises:
        UsageError: columns of different lengths, a column that is not of numbers, a table without the two columns, or
            a percentile, threshold or ratio out of range.

    Source: arXiv 2508.01450, Algorithm 1.
    """
    parsed = None if ratio is None else Ratio.parse(ratio)
    if difficulty is None:
        dots, difficulties = _of_table(dot)
    else:
        dots, difficulties = _column(dot, "dot"), _column(difficulty, "difficulty")
    try:
        return _core.rank(
            dots,
            difficulties,
            percentile=percentile,
            threshold=threshold,
            ratio=None if parsed is None else (parsed.numerator, parsed.denominator),
        )
    except ValueError as error:
        raise UsageError(str(error)) from error


def _column(values: Any, name: str) -> list[Chunk]:
    """One column as the chunks that it is made of."""
    if not _is_arrow(values):
        return [_array(values, name)]
    kind, chunks = _read(values, f"`{name}`")
    names = _names(kind)
    if names is None:
        return _borrow(kind, chunks, name)
    if len(names) != 1:
        raise UsageError(
            f"`{name}` has {amount(len(names), 'column')} ({_listed(names)}), not one",
            f"pass one column; or, as the only argument, a table with the {_TABLE}",
        )
    return _borrow(kind.field(0).type, [_field(chunk, 0) for chunk in chunks], name)


def _of_table(table: Any) -> tuple[list[Chunk], list[Chunk]]:
    """The columns `dot` and `difficulty` of a table, from one reading."""
    hint = f"pass both columns, or one table with the {_TABLE}"
    if not _is_arrow(table):
        raise UsageError(f"`difficulty` is missing, and {type(table).__name__} is no table", hint)
    kind, chunks = _read(table, "the table")
    names = _names(kind)
    if names is None:
        raise UsageError(f"`difficulty` is missing, and a column of {kind} is no table", hint)

    def column(name: str) -> list[Chunk]:
        if names.count(name) != 1:
            count = f"{amount(names.count(name), 'column')}" if name in names else "no column"
            raise UsageError(f"the table has {count} `{name}`, found: {_listed(names)}", hint)
        i = names.index(name)
        return _borrow(kind.field(i).type, [_field(chunk, i) for chunk in chunks], name)

    return column("dot"), column("difficulty")


def _array(values: Any, name: str) -> Values:
    """A column as one contiguous float32 or float64 array, without a copy where it is one already."""
    if isinstance(values, np.ma.MaskedArray):
        values = np.ma.filled(values.astype(np.float64), np.nan)
    array = np.asarray(values)
    if array.ndim != 1:
        raise UsageError(f"`{name}` has {array.ndim} dimensions, not 1", "give one number a row")
    if array.dtype in (np.float32, np.float64):
        return np.require(array, requirements=["C", "A"])
    if array.dtype.kind not in "fiub":
        raise UsageError(f"`{name}` has type {array.dtype}, not numbers", "convert it to float32 or float64 first")
    return array.astype(np.float32 if array.dtype == np.float16 else np.float64)


def _is_arrow(values: Any) -> bool:
    return hasattr(values, "__arrow_c_stream__") or hasattr(values, "__arrow_c_array__")


def _read(values: Any, name: str) -> tuple[Any, Sequence[Any]]:
    """Arrow type and chunks of a column, or of a table as a column of structs; a stream is read to its end."""
    import pyarrow as pa

    try:
        if hasattr(values, "__arrow_c_stream__"):
            chunked = pa.chunked_array(values)
            return chunked.type, chunked.chunks
        array = pa.array(values)
    except pa.ArrowException as error:
        raise UsageError(f"{name} cannot be read: {first_line(error)}") from error
    return array.type, [array]


def _names(kind: Any) -> list[str] | None:
    """Names of a table's columns; None for what is no table."""
    import pyarrow as pa

    return [field.name for field in kind] if pa.types.is_struct(kind) else None


def _listed(names: Sequence[str]) -> str:
    return ", ".join(f"`{name}`" for name in names) or "none"


def _field(chunk: Any, i: int) -> Any:
    """Column ``i`` of a chunk of a table; null where the row is."""
    return chunk.flatten()[i] if chunk.null_count else chunk.field(i)


def _borrow(kind: Any, chunks: Sequence[Any], name: str) -> list[Chunk]:
    """NumPy views of the buffers of Arrow arrays; each view keeps its buffer alive."""
    import pyarrow as pa

    is_number = (
        pa.types.is_integer,
        pa.types.is_floating,
        pa.types.is_decimal,
        pa.types.is_boolean,
        pa.types.is_null,
    )
    if pa.types.is_dictionary(kind):
        kind, chunks = kind.value_type, [chunk.dictionary_decode() for chunk in chunks]
    if not any(is_kind(kind) for is_kind in is_number):
        raise UsageError(f"`{name}` has type {kind}, not numbers", "convert it to float32 or float64 first")
    dtype = np.dtype(np.float32 if pa.types.is_float32(kind) or pa.types.is_float16(kind) else np.float64)
    if not (pa.types.is_float32(kind) or pa.types.is_float64(kind)):
        chunks = [chunk.cast(pa.from_numpy_dtype(dtype), safe=False) for chunk in chunks]
    borrowed: list[Chunk] = []
    for chunk in chunks:
        if len(chunk):
            validity, data = chunk.buffers()
            values = np.frombuffer(data, dtype, len(chunk), chunk.offset * dtype.itemsize)
            # a foreign producer may align as it likes
            values = np.require(values, requirements=["A"])
            borrowed.append((values, np.frombuffer(validity, np.uint8), chunk.offset) if chunk.null_count else values)
    return borrowed
