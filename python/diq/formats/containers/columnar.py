"""Parquet and Arrow files, a bounded batch of rows at a time."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from diq.base.errors import InputError
from diq.formats.rows import BadRow, Meter, Row
from diq.formats.streams import CHUNK, unpacked

BATCH_BYTES = 8 << 20  # of uncompressed data
BATCH_ROWS = 10_000


def rows(path: Path, meter: Meter) -> Iterator[Row | BadRow]:
    """Rows of a Parquet or Arrow file; ``line`` is the 1-based row."""
    line = 0
    for batch in batches(path, meter):
        yield from batch_rows(batch, line + 1)
        line += batch.num_rows


def batch_rows(batch: Any, line: int) -> Iterator[Row | BadRow]:
    """Rows of one Arrow batch, the first being row ``line``."""
    try:
        values = batch.to_pylist()
    except UnicodeDecodeError:
        for number in range(batch.num_rows):
            yield from _single(batch.slice(number, 1), line + number)
        return
    for number, row in enumerate(values, start=line):
        yield Row(number, row)


def _single(batch: Any, line: int) -> Iterator[Row | BadRow]:
    try:
        yield Row(line, batch.to_pylist()[0])
    except UnicodeDecodeError as error:
        yield BadRow(line, f"not UTF-8: {error.reason} at offset {error.start}", "")


def batches(path: Path, meter: Meter) -> Iterator[Any]:
    """Arrow record batches.

    Raises:
        InputError: the file is truncated, damaged, or not what its name says.
    """
    with tempfile.TemporaryDirectory(prefix="diq-") as folder:
        try:
            yield from _batches(unpacked(path, folder), meter)
        except (pa.ArrowException, OSError) as error:
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
        # buffered, not whole column chunks: a row group may be larger than the memory that we promise to use
        with pq.ParquetFile(path, buffer_size=CHUNK, pre_buffer=False) as parquet:
            meter.done, meter.total = 0, parquet.metadata.num_rows
            groups = [parquet.metadata.row_group(index) for index in range(parquet.metadata.num_row_groups)]
            row_bytes = max((group.total_byte_size // max(group.num_rows, 1) for group in groups), default=1)
            n = max(16, min(BATCH_ROWS, BATCH_BYTES // max(row_bytes, 1)))
            for batch in parquet.iter_batches(batch_size=n):
                meter.done += batch.num_rows
                yield batch
        return
    with pa.memory_map(str(path)) as file:
        for batch in _arrow(file, stream=head != b"ARROW1"):
            n = max(16, min(BATCH_ROWS, BATCH_BYTES * batch.num_rows // max(batch.nbytes, 1)))
            for start in range(0, batch.num_rows, n):
                part = batch.slice(start, n)
                meter.done += part.num_rows
                yield part


def _arrow(file: Any, *, stream: bool) -> Iterator[Any]:
    if stream:
        yield from pa.ipc.open_stream(file)
    else:
        reader = pa.ipc.open_file(file)
        for index in range(reader.num_record_batches):
            yield reader.get_batch(index)
