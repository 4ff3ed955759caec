"""The file of a selection: chat messages with ids, ranks and scores as columns, in JSON lines or Parquet."""

from __future__ import annotations

import contextlib
import gzip
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import pyarrow as pa

from diq.base.errors import UsageError
from diq.base.files import whole_file
from diq.base.sample import Message
from diq.store.store import Store

_WRITE_ROWS = 1000


@dataclass(frozen=True, slots=True)
class _Shape:
    """Which columns a file has: the name of its score, and what its samples hold."""

    score: str | None
    has_weight: bool
    has_reasoning: bool
    has_tools: bool
    has_masks: bool
    has_rejected: bool


def check_ending(output: Path) -> None:
    """Refuse a file of a kind that selections are not written to.

    Raises:
        UsageError: an unknown ending.
    """
    if not output.name.endswith((".jsonl", ".jsonl.gz", ".parquet")):
        raise UsageError(f"the output `{output}` is neither .jsonl nor .parquet", "name a file such as selection.jsonl")


@contextlib.contextmanager
def written(
    store: Store, output: Path, *, score: str | None, file_order: str | None, weighted: bool, **place: int
) -> Iterator[None]:
    """Write a selection beside its place; it is moved there at the end of the block. On an error nothing stays behind.

    Args:
        store: an open store.
        output: where the file will be.
        score: name of the column of the score, ``perplexity`` or ``similarity``; None leaves it out.
        file_order: ``easy`` or ``hard`` first; None: as ranked.
        weighted: whether there is a column ``weight``.
        place: ``dataset_id``, ``ranking_id``, ``first`` and ``n``: the part of a stored ranking that is written.
    """
    (found,) = store.rows("selection/shape_of_selection", **place)
    shape = _Shape(score, weighted, **found)
    with whole_file(output) as file:
        with store.batches("selection/rows_of_selection", rows=_WRITE_ROWS, file_order=file_order, **place) as rows:
            if output.suffix == ".parquet":
                _write_parquet(file, rows, shape)
            elif output.suffix == ".gz":
                with gzip.GzipFile("", "wb", fileobj=file, mtime=0) as packed:
                    _write_jsonl(packed, rows, shape)
            else:
                _write_jsonl(file, rows, shape)
        yield


def _records(batch: pa.RecordBatch, shape: _Shape) -> Iterator[dict[str, Any]]:
    for row in batch.to_pylist():
        row["messages"] = json.loads(row["messages"])
        if shape.has_rejected:
            row["rejected"] = json.loads(row["rejected"]) if row["rejected"] else None
        else:
            del row["rejected"]
        score = row.pop("score")
        if shape.score:
            row[shape.score] = score
        if not shape.has_weight:
            del row["weight"]
        yield row


def _write_jsonl(file: IO[bytes] | gzip.GzipFile, batches: Iterator[pa.RecordBatch], shape: _Shape) -> None:
    for batch in batches:
        # whole batches: what packs has work of its own with every call
        file.write("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in _records(batch, shape)).encode())


def _write_parquet(file: IO[bytes], batches: Iterator[pa.RecordBatch], shape: _Shape) -> None:
    import pyarrow.parquet as pq

    message = [pa.field("role", pa.string()), pa.field("content", pa.string())]
    if shape.has_reasoning:
        message.append(pa.field("reasoning_content", pa.string()))
    if shape.has_masks:
        message.append(pa.field("train", pa.bool_()))
    if shape.has_tools:
        # calls differ in their arguments, and a column has one type: as JSON, which diq reads again
        message += [pa.field(name, pa.string()) for name in (*_AS_JSON, "name", "tool_call_id")]
    conversation = pa.list_(pa.struct(message))
    fields = [
        pa.field("messages", conversation),
        *([pa.field("rejected", conversation)] if shape.has_rejected else []),
        pa.field("sample_id", pa.string()),
        pa.field("position", pa.int64()),
        pa.field("quadrant", pa.string()),
        pa.field("rank", pa.int64()),
        pa.field("difficulty", pa.float64()),
        pa.field("dot", pa.float64()),
        *([pa.field(shape.score, pa.float64())] if shape.score else []),
        pa.field("order", pa.int64()),
        *([pa.field("weight", pa.float64())] if shape.has_weight else []),
    ]
    schema = pa.schema(fields)
    with pq.ParquetWriter(file, schema) as writer:
        for batch in batches:
            records = list(_records(batch, shape))
            if shape.has_tools:
                for record in records:
                    record["messages"] = [_flat(one) for one in record["messages"]]
            writer.write_table(pa.Table.from_pylist(records, schema=schema))


_AS_JSON = ("tools", "tool_calls")


def _flat(message: Message) -> Message:
    return message | {name: json.dumps(message[name], ensure_ascii=False) for name in _AS_JSON if name in message}
