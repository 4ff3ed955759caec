"""Columns of millions of scores, found by sample id outside of SQL, where a join by long ids takes longer."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from diq import _core
from diq.store.store import Store

if TYPE_CHECKING:
    import pyarrow as pa

_BATCH = 1 << 20

Floats = npt.NDArray[np.float64]
Rows = npt.NDArray[np.int64]


class SampleRows:
    """The samples of a dataset as rows in the order of their positions.

    Attributes:
        position: ``[n]`` ascending.
        source_id: ``[n]``.
    """

    def __init__(self, store: Store, dataset_id: int) -> None:
        found = store.arrow("store/sample_ids", dataset_id=dataset_id)
        names = ("position", "source_id", "high", "low")
        position, source_id, high, low = (found.column(name).to_numpy() for name in names)
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

    def batches(self, store: Store, query: str, **params: Any) -> Iterator[tuple[Rows, pa.RecordBatch]]:
        """What a query finds by ``high`` and ``low`` half of the id, batch by batch, with its rows; -1: of none.

        Batch by batch: whole results would be copied before they are used, and fresh memory costs more than the search.
        """
        with store.batches(query, rows=_BATCH, **params) as found:
            for batch in found:
                yield self._ids.rows(batch.column("high").to_numpy(), batch.column("low").to_numpy()), batch

    def scatter(self, store: Store, columns: Mapping[str, Floats], query: str, **params: Any) -> None:
        """Write columns that a query finds to their rows; what is not finite stays as it was."""
        for rows, batch in self.batches(store, query, **params):
            for name, column in columns.items():
                values = batch.column(name).to_numpy(zero_copy_only=False)
                # scores of other datasets of the run have no row
                kept = np.isfinite(values) & (rows >= 0)
                if kept.all():
                    column[rows] = values
                else:
                    column[rows[kept]] = values[kept]
