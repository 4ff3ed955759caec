"""What a store keeps of an index: where it lies, its shards, and which row of which shard a sample has.

A shard is on the disk before the store speaks of it, so a kill leaves at most a shard that is nobody's.
"""

from __future__ import annotations

import logging
import uuid
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from diq.base.arrow import numbers
from diq.base.errors import UsageError
from diq.base.text import amount
from diq.gradient_index.index import INDEX_FILE, GradientIndex, ShardRecord, ShardTakenError
from diq.store.connection import WAIT_S
from diq.store.store import Store, now

log = logging.getLogger(__name__)

INSERT_ROWS = "gradient_index/insert_gradient_rows"


def folder_of(opened: Store, store: Path, run_id: int | None, fingerprint: str, *, moved: str | None = None) -> Path:
    """Where the index of a run lies, or shall lie: beside the store, unless it was noted elsewhere.

    Args:
        opened: an open store.
        store: its file.
        run_id: of the run; None where there is none yet.
        fingerprint: of the run.
        moved: what to do where it is gone; None: it shall be made again beside the store.

    Raises:
        UsageError: the store knows of an index that is no longer where it was, and ``moved`` says so.
    """
    beside = Path(f"{store}.gradients") / fingerprint[:12]
    noted = None if run_id is None else opened.row("gradient_index/get_gradient_index", run_id=run_id)
    # a store that was moved together with its indexes finds them again
    if noted is None or run_id is None or (beside / INDEX_FILE).exists():
        return beside
    folder = Path(noted["folder"])
    if (folder / INDEX_FILE).exists():
        return folder
    if moved is None:
        return beside
    if records_of(opened, run_id):
        raise UsageError(f"the gradient index of run {run_id} is no longer in `{folder}`", moved)
    return folder


def note_index(store: Path, run_id: int, index: GradientIndex, kind: str) -> None:
    """Note where the index of a run lies."""
    with Store(store, wait_s=WAIT_S) as opened, opened.transaction():
        noted = opened.row("gradient_index/get_gradient_index", run_id=run_id)
        if noted is not None and Path(noted["folder"]).resolve() != index.folder.resolve():
            log.info("the gradient index of run %d moved from %s to %s", run_id, noted["folder"], index.folder)
        opened.run(
            "gradient_index/insert_gradient_index",
            run_id=run_id,
            folder=str(index.folder.resolve()),
            kind=kind,
            dim=index.dim,
            element=index.element,
            created_at=now(),
        )


def records_of(opened: Store, run_id: int) -> dict[int, ShardRecord]:
    """The shards of the index of a run, by their numbers."""
    return {
        row["shard"]: ShardRecord(row["shard"], row["file"], row["n_rows"], row["n_bytes"], row["content_hash"])
        for row in opened.rows("gradient_index/list_gradient_shards", run_id=run_id)
    }


def problems(opened: Store) -> Iterator[tuple[dict[str, Any], ShardRecord, str | None]]:
    """Every shard of every index of a store: the row of the index, the shard, and what is wrong with it, or None."""
    for row in opened.rows("gradient_index/list_gradient_indexes"):
        folder = Path(row["folder"])
        index = GradientIndex.open(folder) if (folder / INDEX_FILE).exists() else None
        for record in records_of(opened, row["run_id"]).values():
            yield row, record, "the file is missing" if index is None else index.shard_problem(record)


def forget_broken(store: Path, run_id: int, folder: Path) -> int:
    """Check every shard against its checksum; the samples of one that fails are missing again. Returns how many are."""
    with Store(store, read_only=True, wait_s=WAIT_S) as opened:
        records = records_of(opened, run_id)
    index = GradientIndex.open(folder) if (folder / INDEX_FILE).exists() else None
    n_lost = 0
    for record in records.values():
        problem = f"`{folder / record.file}` is missing" if index is None else index.shard_problem(record)
        if problem is None:
            continue
        log.warning("%s: its %s are lost and must be made again", problem, amount(record.n_rows, "sample"))
        n_lost += record.n_rows
        with Store(store, wait_s=WAIT_S) as opened, opened.transaction():
            opened.run("gradient_index/delete_gradient_rows", run_id=run_id, shard=record.shard)
            opened.run("gradient_index/delete_gradient_shard", run_id=run_id, shard=record.shard)
    return n_lost


def gradient_rows(
    run_id: int,
    ids: pa.Array,
    reasons: Sequence[str | None],
    counts: npt.NDArray[np.integer[Any]],
    losses: npt.NDArray[np.floating[Any]] | None = None,
) -> pa.Table:
    """Rows of ``gradient_rows`` without their places; a sample without a gradient has a reason, and no loss."""
    refused = np.asarray([one is not None for one in reasons], np.bool_)
    return pa.table(
        {
            "run_id": pa.array(np.full(len(ids), run_id)),
            "sample_id": ids,
            "loss": pa.nulls(len(ids), pa.float64())
            if losses is None
            else pa.array(losses, pa.float64(), mask=refused),
            "answer_tokens": pa.array(counts, pa.int32()),
            "reason": pa.array(reasons, pa.string()),
        }
    )


def write_rows(
    store: Path, run_id: int, index: GradientIndex, rows: pa.Table, gradients: npt.NDArray[np.float32]
) -> None:
    """Write a shard, then its rows in the store.

    Args:
        store: the store file.
        run_id: the run of the index.
        index: where the shard goes.
        rows: as `gradient_rows` makes them.
        gradients: ``[n, dim]`` of the rows without a reason, in their order.
    """
    scored = pc.is_null(rows.column("reason"))
    kept, record = rows.filter(scored), None
    while len(kept) and record is None:
        # a process with another store may write to the same folder, and be faster
        with suppress(ShardTakenError):
            record = index.write_shard(
                _next_shard(store, run_id, index),
                np.ascontiguousarray(gradients),
                [str(uuid.UUID(bytes=one)) for one in kept.column("sample_id").to_pylist()],
                numbers(kept.column("loss")),
                numbers(kept.column("answer_tokens")),
            )
    commit_rows(store, run_id, record, pa.concat_tables([rows.filter(pc.invert(scored)), kept]))


def _next_shard(store: Path, run_id: int, index: GradientIndex) -> int:
    with Store(store, read_only=True, wait_s=WAIT_S) as opened:
        known = records_of(opened, run_id)
    # a shard that a killed run wrote and did not enter keeps its number, and is nobody's
    return max([*known, *index.numbers_on_disk(), -1]) + 1


def commit_rows(store: Path, run_id: int, record: ShardRecord | None, rows: pa.Table) -> None:
    """Enter a shard and its rows, which are the last ones; those before have no gradient."""
    n = record.n_rows if record is not None else 0
    none = len(rows) - n
    incoming = rows.append_column(
        "shard", pa.array([None] * none + ([record.shard] * n if record is not None else []), pa.int32())
    ).append_column("row", pa.array([None] * none + list(range(n)), pa.int32()))
    with Store(store, wait_s=WAIT_S) as opened, opened.transaction():
        if record is not None:
            opened.run(
                "gradient_index/insert_gradient_shard",
                run_id=run_id,
                shard=record.shard,
                file=record.file,
                n_rows=record.n_rows,
                n_bytes=record.n_bytes,
                content_hash=record.content_hash,
                written_at=now(),
            )
        opened.insert(INSERT_ROWS, incoming)
