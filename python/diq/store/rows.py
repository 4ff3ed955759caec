"""Columns of millions of scores, found by sample id outside of SQL, where a join by long ids takes longer."""

from __future__ import annotations

import uuid
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from diq import _core
from diq.base.arrow import numbers
from diq.store.store import Store

# rows that are looked for together: a batch of DuckDB's own size is too short for several threads, and probes each part
# of the index too seldom for it to stay in the cache
_TOGETHER = 1 << 21

Floats = npt.NDArray[np.float64]
Rows = npt.NDArray[np.int64]


class SampleRows:
    """The samples of a dataset as rows in the order of their positions.

    Args:
        store: an open store.
        dataset_id: dataset.
        part: share of the samples to take, by their ids, which are hashes: always the same ones.

    Attributes:
        position: ``[n]`` ascending.
        source_id: ``[n]``.
    """

    def __init__(self, store: Store, dataset_id: int, *, part: float = 1.0) -> None:
        self._last_id = uuid.UUID(int=min(int(part * 2**128), 2**128 - 1))
        found = store.arrow("store/sample_ids", dataset_id=dataset_id, last_id=self._last_id)
        names = ("position", "source_id", "high", "low")
        position, source_id, high, low = (numbers(found.column(name)) for name in names)
        # the columns are copies, and the index needs room
        del found
        if not np.all(position[1:] > position[:-1]):
            order = np.argsort(position)
            position, source_id, high, low = position[order], source_id[order], high[order], low[order]
        self.position: Rows = np.ascontiguousarray(position)
        self.source_id: npt.NDArray[np.int32] = source_id
        self._ids = _core.IdIndex(high, low)
        self._is_gapless = not len(position) or int(position[-1]) == len(position) - 1

    def __len__(self) -> int:
        return len(self.position)

    def of_positions(self, position: Rows) -> Rows:
        """The row of each position, all of which are the dataset's: ``[m]``."""
        return position if self._is_gapless else np.searchsorted(self.position, position)

    def batches(
        self, store: Store, names: Sequence[str], query: str, **params: Any
    ) -> Iterator[tuple[Rows, Mapping[str, Floats]]]:
        """Columns that a query finds by ``high`` and ``low`` half of the id up to ``last_id``, part by part, with rows.

        Every part is written where the one before was, since fresh memory costs more than the search: it is the
        caller's until the next one.

        Yields:
            ``[m]`` rows, -1 for ids of no sample of the dataset, and ``[m]`` of each name, NaN for null.
        """
        high, low = np.empty(_TOGETHER, np.uint64), np.empty(_TOGETHER, np.uint64)
        columns = {name: np.empty(_TOGETHER) for name in names}
        n = 0
        with store.batches(query, rows=_TOGETHER, last_id=self._last_id, **params) as found:
            for batch in found:
                start = 0
                while start < len(batch):
                    piece = batch.slice(start, _TOGETHER - n)
                    into = slice(n, n + len(piece))
                    high[into], low[into] = numbers(piece.column("high")), numbers(piece.column("low"))
                    for name, column in columns.items():
                        column[into] = numbers(piece.column(name))
                    start, n = start + len(piece), into.stop
                    if n == _TOGETHER:
                        yield self._ids.rows(high, low), columns
                        n = 0
            if n:
                yield self._ids.rows(high[:n], low[:n]), {name: column[:n] for name, column in columns.items()}

    def scatter(self, store: Store, columns: Mapping[str, Floats], query: str, **params: Any) -> None:
        """Write columns that a query finds to their rows; what is not finite stays as it was."""
        for rows, found in self.batches(store, list(columns), query, **params):
            for name, values in found.items():
                # scores of other datasets of the run have no row
                kept = np.isfinite(values) & (rows >= 0)
                if kept.all():
                    columns[name][rows] = values
                else:
                    columns[name][rows[kept]] = values[kept]
