"""The file of a selection: chat messages with ids, ranks and scores as columns, in JSON lines or Parquet."""

from __future__ import annotations

import contextlib
import gzip
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from diq.base.errors import UsageError
from diq.store.store import Store

_WRITE_ROWS = 1000


@dataclass(frozen=True, slots=True)
class _Shape:
    """Which columns a file has: the name of its score, and what its samples hold."""

    score: str | None
    has_reasoning: bool
    has_rejected: bool


def check_output(output: Path) -> None:
    """Refuse an output that cannot be written, before any work is done.

    Raises:
        UsageError: an unknown ending, or a folder that does not exist.
    """
    if not output.name.endswith((".jsonl", ".jsonl.gz", ".parquet")):
        raise UsageError(f"the output `{output}` is neither .jsonl nor .parquet", "name a file such as selection.jsonl")
    if not output.parent.is_dir():
        raise UsageError(f"there is no folder `{output.parent}` for the output", "make it first, or name another")


@contextlib.contextmanager
def written(store: Store, output: Path, *, score: str | None, **place: int) -> Iterator[Path]:
    """Write a selection beside its place; the caller moves it there. On an error nothing stays behind.

    Args:
        store: an open store.
        output: where the file will be.
        score: name of the column of the score, ``perplexity`` or ``similarity``; None leaves it out.
        place: ``dataset_id``, ``ranking_id``, ``first`` and ``n``: the part of a stored ranking that is written.
    """
    pending = output.with_name(f".{output.name}.{os.getpid()}.part")
    try:
        (found,) = store.rows("selection/shape_of_selection", **place)
        shape = _Shape(score, **found)
        writer = _write_parquet if output.suffix == ".parquet" else _write_jsonl
        with store.batches("selection/rows_of_selection", rows=_WRITE_ROWS, **place) as rows:
            writer(pending, rows, shape)
        yield pending
    except OSError as error:
        raise UsageError(
            f"`{output}` cannot be written: {error.strerror or error}", "free some space or name another file"
        ) from error
    finally:
        pending.unlink(missing_ok=True)


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
        yield row


def _write_jsonl(path: Path, batches: Iterator[pa.RecordBatch], shape: _Shape) -> None:
    opener: Any = gzip.open if path.name.split(".part")[0].rsplit(".", 1)[0].endswith(".gz") else open
    with opener(path, "wt", encoding="utf-8") as file:
        for batch in batches:
            for row in _records(batch, shape):
                file.write(json.dumps(row, ensure_ascii=False) + "\n")


def _write_parquet(path: Path, batches: Iterator[pa.RecordBatch], shape: _Shape) -> None:
    import pyarrow.parquet as pq

    message = [pa.field("role", pa.string()), pa.field("content", pa.string())]
    if shape.has_reasoning:
        message.append(pa.field("reasoning_content", pa.string()))
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
    ]
    schema = pa.schema(fields)
    with pq.ParquetWriter(path, schema) as writer:
        for batch in batches:
            writer.write_table(pa.Table.from_pylist(list(_records(batch, shape)), schema=schema))
