"""Parquet and Arrow files, a bounded batch of rows at a time."""

from __future__ import annotations

import functools
import itertools
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from diq.base.errors import InputError
from diq.formats.containers import arrays
from diq.formats.containers.arrays import BATCH_BYTES, BATCH_ROWS
from diq.formats.rows import BadRow, Meter, Row
from diq.formats.streams import CHUNK, MAX_LINE, unpacked

# rows of more bytes than this on average are read few at a time: larger batches are no faster, and rows that are far
# longer than the average may stand together
_LONG_ROW = 256
_LONG_ROWS = 256
# bytes that one read of Parquet may become: at the very worst, so that nobody has to look; and by the longest values
_UNFOLDED = 256 << 20
_UNFOLDED_BY_LENGTH = 64 << 20
_UNKNOWN_LENGTH = 4 << 20
_TEXTS = frozenset(["STRING", "JSON", "ENUM", "BSON", "NONE"])


def rows(path: Path, meter: Meter) -> Iterator[Row | BadRow]:
    """Rows of a Parquet or Arrow file; ``line`` is the 1-based row."""
    line = 1
    for batch in batches(path, meter):
        yield from _rows(batch, line)
        line += batch.num_rows


def table_rows(table: Any, line: int) -> Iterator[Row | BadRow]:
    """Rows of an Arrow table that was read and checked elsewhere, the first being row ``line``."""
    for batch in table.to_batches():
        for part in arrays.parts(batch):
            yield from _rows(part, line)
            line += part.num_rows


def _rows(batch: Any, line: int) -> Iterator[Row | BadRow]:
    if batch.num_rows == 1 and arrays.unfolded(batch) > MAX_LINE:
        yield BadRow(line, f"the row is longer than {MAX_LINE >> 20} MB", "")
        return
    try:
        values = batch.to_pylist()
    except (ValueError, OverflowError, pa.ArrowException) as error:
        # bytes that are no text, a date after the year 9999
        if batch.num_rows == 1:
            yield BadRow(line, _reason(error), "")
            return
        for number in range(batch.num_rows):
            yield from _rows(batch.slice(number, 1), line + number)
        return
    for number, row in enumerate(values, start=line):
        yield Row(number, row)


def _reason(error: Exception) -> str:
    if isinstance(error, UnicodeDecodeError):
        return f"not UTF-8: {error.reason} at offset {error.start}"
    return f"a value that cannot be read: {' '.join(str(error).split())[:200]}"


def batches(path: Path, meter: Meter) -> Iterator[Any]:
    """Arrow record batches, cut as `arrays.parts` does; columns may be dictionaries.

    Raises:
        InputError: the file is truncated, damaged, or not what its name says.
    """
    meter.done = 0
    with tempfile.TemporaryDirectory(prefix="diq-") as folder:
        try:
            for batch in _batches(unpacked(path, folder), meter):
                for part in arrays.parts(batch):
                    meter.done += part.num_rows
                    yield part
        except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
            # the last for a name of a column
            text = " ".join(str(error).split())
            raise InputError(
                f"`{path}` cannot be read as {_kind(path)}: {text}", "it may be cut off; download or write it again"
            ) from error


def _kind(path: Path) -> str:
    return "Parquet" if ".parquet" in path.suffixes else "Arrow"


def _batches(path: Path, meter: Meter) -> Iterator[Any]:
    with path.open("rb") as file:
        head = file.read(6)
    if head[:4] == b"PAR1" or path.suffix == ".parquet":
        yield from _parquet(path, meter)
        return
    # mapped, since a batch may be the whole of a large file; Arrow refuses parts that lie behind the file's end, and
    # what they say of places within is checked before anything follows it
    with pa.memory_map(str(path)) as file:
        for batch in _arrow(file, stream=head != b"ARROW1"):
            arrays.check(batch)
            yield batch


def _arrow(file: Any, *, stream: bool) -> Iterator[Any]:
    if stream:
        yield from pa.ipc.open_stream(file)
    else:
        reader = pa.ipc.open_file(file)
        for index in range(reader.num_record_batches):
            yield reader.get_batch(index)


# Parquet --------------------------------------------------------------------------------------------------------------


class _Plan(NamedTuple):
    """How a row group is read.

    Attributes:
        n: rows at once.
        dictionaries: columns that come as dictionaries, for their values stand once in the file.
        group: its number, where another group may not be read with it.
    """

    n: int
    dictionaries: tuple[str, ...] = ()
    group: int = -1


def _parquet(path: Path, meter: Meter) -> Iterator[Any]:
    with _open(path) as parquet:
        meter.total = parquet.metadata.num_rows
        plans = functools.partial(_plan, path, parquet.metadata, _rows_at_once(parquet.metadata))
        for plan, groups in itertools.groupby(range(parquet.metadata.num_row_groups), key=plans):
            with _open(path, parquet.metadata, plan.dictionaries) as opened:
                yield from opened.iter_batches(batch_size=plan.n, row_groups=list(groups))


def _open(path: Path, metadata: Any = None, dictionaries: tuple[str, ...] = ()) -> Any:
    # buffered, not whole column chunks: a row group may be larger than the memory that we promise to use
    return pq.ParquetFile(
        path, metadata=metadata, read_dictionary=list(dictionaries), buffer_size=CHUNK, pre_buffer=False
    )


def _rows_at_once(metadata: Any) -> int:
    groups = [metadata.row_group(index) for index in range(metadata.num_row_groups)]
    longest = max((one.total_byte_size // max(one.num_rows, 1) for one in groups), default=1)
    return max(1, min(_LONG_ROWS if longest >= _LONG_ROW else BATCH_ROWS, BATCH_BYTES // max(longest, 1)))


def _plan(path: Path, metadata: Any, n: int, group: int) -> _Plan:
    """How to read a group so that values which stand once and are used by many rows do not fill the memory."""
    schema = metadata.schema
    columns = [schema.column(index) for index in range(metadata.num_columns)]
    texts = [
        index
        for index, one in enumerate(columns)
        if one.physical_type == "BYTE_ARRAY" and one.logical_type.type in _TEXTS
    ]
    found = metadata.row_group(group)
    if not texts or not found.num_rows or n * found.total_byte_size <= _UNFOLDED:
        return _Plan(n)
    # a row before anything else: what is said of a damaged column would end the process (pyarrow 26)
    _first_row(path, metadata, group, [columns[index].path for index in texts])
    dictionaries, row_bytes = [], 0
    for index in texts:
        column, name = found.column(index), columns[index].path
        size, longest = _dictionary(path, metadata, group, name) or (0, column.total_uncompressed_size)
        only_dictionary = column.total_uncompressed_size - size <= 8 * column.num_values
        if columns[index].max_repetition_level and only_dictionary:
            # one row may use any number of them; there are places and levels beside them alone, so it stays small
            dictionaries.append(name)
        else:
            row_bytes += longest * -(-column.num_values // found.num_rows)
    return _Plan(max(1, min(n, _UNFOLDED_BY_LENGTH // max(row_bytes, 1))), tuple(dictionaries), group)


def _first_row(path: Path, metadata: Any, group: int, columns: list[str], dictionaries: tuple[str, ...] = ()) -> Any:
    with _open(path, metadata, dictionaries) as opened:
        return next(opened.iter_batches(batch_size=1, row_groups=[group], columns=columns), None)


def _dictionary(path: Path, metadata: Any, group: int, column: str) -> tuple[int, int] | None:
    """Bytes of the dictionary of a column and of the longest of its values; None where its first row has no value."""
    try:
        first = _first_row(path, metadata, group, [column], (column,))
    except (pa.ArrowException, OSError):
        # other encodings do not come as dictionaries
        return 0, _UNKNOWN_LENGTH
    if first is None:
        return None
    found = first.column(0)
    while not pa.types.is_dictionary(found.type):
        if not found.type.num_fields:
            return 0, _UNKNOWN_LENGTH
        found = found.field(0) if pa.types.is_struct(found.type) else found.values
    lengths = pc.binary_length(found.dictionary).cast(pa.int64())
    return (pc.sum(lengths).as_py() + 4 * len(lengths), pc.max(lengths).as_py()) if len(lengths) else None
