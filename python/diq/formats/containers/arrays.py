"""Arrow arrays of files that nobody vouches for: whether they may be followed, and how large their values are.

A value may stand once and be used by many rows (dictionaries, views), so what rows hold can be far more than they take.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

BATCH_BYTES = 8 << 20  # of values, each counted as often as it is used
BATCH_ROWS = 10_000

_types = pa.types


def check(batch: Any) -> None:
    """Make sure that every place which a batch names lies in it; what is no UTF-8 is a matter of its row.

    Raises:
        pa.ArrowException: it does not. To read it would give other texts than the file has, or end the process.
    """
    for column in batch.columns:
        try:
            column.validate(full=True)
        except pa.ArrowInvalid:
            # as bytes it may be all right
            column.view(_as_bytes(column.type)).validate(full=True)


def parts(batch: Any) -> Iterator[Any]:
    """A batch in pieces, each of at most ``BATCH_ROWS`` rows and ``BATCH_BYTES`` of values, or of one row."""
    n = batch.num_rows
    if n <= BATCH_ROWS and (n <= 1 or unfolded(batch) <= BATCH_BYTES):
        yield batch
        return
    # whole runs first, so that the pieces of small rows are as large as they may be
    half = BATCH_ROWS if n > BATCH_ROWS else (n + 1) // 2
    for start in range(0, n, half):
        yield from parts(batch.slice(start, half))


def unfolded(batch: Any) -> int:
    """Bytes of the values of a batch, each counted as often as it is used; of rare types at least so many."""
    return sum(map(_bytes, batch.columns))


def _bytes(array: Any) -> int:
    kind = array.type
    if isinstance(array, pa.ExtensionArray):
        return _bytes(array.storage)
    if _types.is_dictionary(kind):
        return _bytes_used(array)
    if _types.is_struct(kind):
        return sum(_bytes(one) for one in array.flatten())
    if _types.is_list(kind) or _types.is_large_list(kind) or _types.is_map(kind):
        first, last = array.offsets[0].as_py(), array.offsets[-1].as_py()
        return 8 * len(array) + _bytes(array.values.slice(first, last - first))
    if _types.is_fixed_size_list(kind):
        return _bytes(array.flatten())
    if _is_view(kind):
        return _bytes_viewed(array)
    if _types.is_run_end_encoded(kind):
        return len(array) * _bytes(array.values)
    if kind.num_fields:
        # unions and views of lists may use any of their values in each row
        return len(array) * int(array.nbytes)
    return int(array.nbytes)


def _bytes_used(array: Any) -> int:
    """Bytes of the values of a dictionary, each as often as its index is there."""
    values, n = array.dictionary, len(array)
    kind = values.type
    if _types.is_string(kind) or _types.is_large_string(kind) or _types.is_binary(kind) or _types.is_large_binary(kind):
        lengths = pc.take(pc.binary_length(values), array.indices)
        return 8 * n + int(pc.sum(lengths.cast(pa.int64())).as_py() or 0)
    # numbers fit into this as well, and of anything else every row may use the longest
    return n * max(8, _bytes(values) if kind.num_fields or _is_view(kind) else 8)


def _bytes_viewed(array: Any) -> int:
    """Bytes of the texts of an array of views, of 16 bytes each, which begin with the length."""
    start, n = 4 * array.offset, len(array)
    lengths = memoryview(array.buffers()[1]).cast("i")[start : start + 4 * n : 4]
    return 8 * n + sum(lengths)


def _is_view(kind: Any) -> bool:
    return bool(_types.is_string_view(kind) or _types.is_binary_view(kind))


def _as_bytes(kind: Any) -> Any:
    """A type with bytes in place of each text within it."""
    if _types.is_struct(kind):
        return pa.struct([_field(one) for one in kind])
    if _types.is_list(kind):
        return pa.list_(_field(kind.value_field))
    if _types.is_large_list(kind):
        return pa.large_list(_field(kind.value_field))
    if _types.is_fixed_size_list(kind):
        return pa.list_(_field(kind.value_field), kind.list_size)
    if _types.is_map(kind):
        return pa.map_(_field(kind.key_field), _field(kind.item_field), kind.keys_sorted)
    if _types.is_dictionary(kind):
        return pa.dictionary(kind.index_type, _as_bytes(kind.value_type), kind.ordered)
    if _types.is_string_view(kind):
        return pa.binary_view()
    if _types.is_large_string(kind):
        return pa.large_binary()
    return pa.binary() if _types.is_string(kind) else kind


def _field(field: Any) -> Any:
    return field.with_type(_as_bytes(field.type))
