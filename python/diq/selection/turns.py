"""The order in which validation samples take turns: each takes the sample nearest to it, then its second nearest, ...

In round r, in their order, each validation sample names the r-th nearest of all samples to it; what was taken before is
not taken again, and the turn is over. So a sample is taken in the first round in which anybody names it, and within the
round by the first who does. That decides the whole order without a list for each validation sample: the smallest pair
(place in the list of v, number of v) over all v. One column of places is held at a time, and every prefix of the order
is what the turns give until so many are taken.

Source: the branch ``max`` of ``get_top_influences.py`` of hamishivi/automated-instruction-selection (RDS+,
arXiv:2503.01807); docs/method.md says where it differs from the paper and from itself.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from diq.base.arrow import numbers
from diq.base.errors import MissingScoresError, RunFailedError
from diq.gradient_index.index import GradientIndex, ShardRecord
from diq.gradient_index.kept import folder_of, records_of
from diq.selection.scores import Floats, Runs, Scores
from diq.store.store import Store

# cosines that are held at once: columns are read from the shards so many at a time
_BLOCK = 1 << 26


def take_turns(columns: Iterable[npt.NDArray[np.floating[Any]]], n: int) -> tuple[npt.NDArray[np.int64], Floats]:
    """Who is taken when, and how near the validation sample that took it is.

    Args:
        columns: ``[n]`` similarities of all samples with each validation sample in turn, at least one.
        n: samples.

    Returns:
        ``[n]`` places in the order, from 0 up; ``[n]`` similarities. Of equally near samples the first row is nearer.
    """
    rounds = np.full(n, np.iinfo(np.int64).max)
    turn = np.zeros(n, np.int64)
    nearness = np.full(n, np.nan)
    place = np.empty(n, np.int64)
    for number, column in enumerate(columns):
        place[np.argsort(-column, kind="stable")] = np.arange(n)
        earlier = place < rounds
        rounds[earlier], turn[earlier], nearness[earlier] = place[earlier], number, column[earlier]
    order = np.empty(n, np.int64)
    order[np.lexsort((turn, rounds))] = np.arange(n)
    return order, nearness


def with_turns(
    store: Store, data: dict[str, Any], runs: Runs, validation_sets: Sequence[str] | None, scores: Scores
) -> Scores:
    """The scores with the turn in which each sample is taken, and its cosine with the validation sample that takes it.

    Args:
        store: an open store.
        data: the dataset.
        runs: the run of the embeddings.
        validation_sets: whose samples take turns; None: all of the run.
        scores: what is left of the dataset; those with a finite score have an embedding.

    Raises:
        MissingScoresError: a validation set has no embedding.
        RunFailedError: embeddings are damaged or gone.
    """
    assert runs.score is not None
    embeddings = _Embeddings(store, runs.score, data)
    vectors = embeddings.of_validation_sets(store, runs.score, validation_sets)
    embedded = np.flatnonzero(np.isfinite(scores.score))
    order, nearness = take_turns(embeddings.cosines(scores.position[embedded], vectors), len(embedded))
    turn, score = np.full(len(scores.position), np.nan), np.full(len(scores.position), np.nan)
    turn[embedded], score[embedded] = order, nearness
    return replace(scores, turn=turn, score=score)


class _Embeddings:
    """The unit rows of a run, on disk."""

    def __init__(self, store: Store, run_id: int, data: dict[str, Any]) -> None:
        run = store.row("store/get_run", run_id=run_id)
        assert run is not None
        folder = folder_of(store, Path(store.path), run_id, run["fingerprint"])
        self._hint = f"run `diq score rds {data['name']} --model MODEL` again: it embeds what is lost"
        records = records_of(store, run_id)
        self._index = self._open(folder, records)
        self._records = records
        table = store.arrow("selection/embeddings_of_dataset", run_id=run_id, dataset_id=data["dataset_id"])
        self._position, self._shard, self._row = (numbers(table.column(name)) for name in ("position", "shard", "row"))

    def _open(self, folder: Path, records: dict[int, ShardRecord]) -> GradientIndex:
        index = GradientIndex.open(folder)
        for record in records.values():
            problem = index.shard_problem(record)
            if problem is not None:
                raise RunFailedError(f"the embeddings in `{folder}` are damaged: {problem}", self._hint)
        return index

    def of_validation_sets(
        self, store: Store, run_id: int, validation_sets: Sequence[str] | None
    ) -> npt.NDArray[np.float32]:
        """Embeddings ``[m, dim]`` of validation samples, set by set."""
        found = []
        for one in store.rows("store/validation_sets_of_run", run_id=run_id):
            if validation_sets is not None and one["name"] not in validation_sets:
                continue
            table = store.arrow(
                "selection/embeddings_of_validation_set", run_id=run_id, validation_set_id=one["validation_set_id"]
            )
            if not len(table):
                raise MissingScoresError(f"the validation set `{one['name']}` has no embedding", self._hint)
            shard, row = numbers(table.column("shard")), numbers(table.column("row"))
            vectors = np.empty((len(table), self._index.dim), np.float32)
            for number in np.unique(shard):
                here = shard == number
                vectors[here] = self._index.read(self._records[int(number)]).gradients[row[here]]
            found.append(vectors)
        return np.concatenate(found)

    def cosines(
        self, position: npt.NDArray[np.int64], vectors: npt.NDArray[np.float32]
    ) -> Iterator[npt.NDArray[np.float32]]:
        """Cosines ``[n]`` of the samples at some positions with each vector in turn."""
        n = len(position)
        place = np.searchsorted(position, self._position)
        kept = (place < n) & (position[np.minimum(place, max(n - 1, 0))] == self._position)
        place, shard, row = place[kept], self._shard[kept], self._row[kept]
        step = max(1, _BLOCK // max(n, 1))
        for first in range(0, len(vectors), step):
            part = np.ascontiguousarray(vectors[first : first + step])
            block = np.empty((len(part), n), np.float32)
            for number in np.unique(shard):
                here = shard == number
                block[:, place[here]] = self._index.dots(self._records[int(number)], part)[row[here]].T
            yield from block
