"""Embeddings of samples that are kept in a folder beside the store, so that each is computed once.

The folder has the form of a gradient index (docs/formats.md): shards with checksums, written whole; the columns of
losses and answer tokens are 0.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from diq.base.fingerprint import canonical_json, fingerprint_of
from diq.base.progress import Progress
from diq.base.sample import Message
from diq.encoders.embeddings import Encoder, text_of
from diq.encoders.options import Text
from diq.gradient_index.index import INDEX_FILE, BrokenShard, GradientIndex, ShardRecord, ShardTakenError
from diq.models.device import pick_device
from diq.models.memory import default_budget
from diq.models.source import ModelSource

log = logging.getLogger(__name__)

# texts of a shard: what a kill loses at most
_SHARD_ROWS = 2048


class RowsById:
    """Rows of an index folder by sample id; what is broken is left out, and the log says so.

    Args:
        index: the folder; every shard is read once, to check it.
    """

    def __init__(self, index: GradientIndex) -> None:
        self._index = index
        self._records: list[ShardRecord] = []
        self._places: dict[str, tuple[int, int]] = {}
        for one in index.shards_on_disk():
            if isinstance(one, BrokenShard):
                log.warning("%s: its samples count as missing", one.problem)
            else:
                self.note(one.record, one.sample_ids)

    def note(self, record: ShardRecord, sample_ids: Sequence[str]) -> None:
        """A shard that was written."""
        self._places.update((one, (len(self._records), row)) for row, one in enumerate(sample_ids))
        self._records.append(record)

    def missing(self, sample_ids: Sequence[str]) -> list[int]:
        """Places in a list of ids of those without a row."""
        return [place for place, one in enumerate(sample_ids) if one not in self._places]

    def of(self, sample_ids: Sequence[str]) -> npt.NDArray[np.float32]:
        """Unit rows ``[n, dim]`` of samples; zeros where there is none, or one without a direction."""
        found = np.zeros((len(sample_ids), self._index.dim), np.float32)
        by_shard: dict[int, list[tuple[int, int]]] = {}
        for place, one in enumerate(sample_ids):
            if one in self._places:
                shard, row = self._places[one]
                by_shard.setdefault(shard, []).append((place, row))
        for shard, pairs in by_shard.items():
            places, rows = np.asarray(pairs, np.int64).T
            vectors = self._index.rows(self._records[shard], rows)
            norms = np.sqrt(np.einsum("nd,nd->n", vectors, vectors, dtype=np.float64))
            norms[norms == 0] = 1
            found[places] = vectors / norms[:, None]
        return found


class KeptEmbeddings:
    """Embeddings by one encoder of one kind of text; the encoder is loaded when one is missing.

    Args:
        store: the store beside which they lie.
        source: the encoder.
        text: what is embedded of a sample.
        progress: called after every shard.
    """

    def __init__(self, store: Path, source: ModelSource, text: Text, progress: Progress) -> None:
        self.identity = {"what": "embeddings", "encoder": source.model_id, "text": text}
        self._source, self._text, self._progress = source, text, progress
        self._folder = Path(f"{store}.embeddings") / fingerprint_of(canonical_json(self.identity))[:12]
        self._encoder: Encoder | None = None
        self._budget = 0
        self._index: GradientIndex | None = None
        self._rows: RowsById | None = None
        if (self._folder / INDEX_FILE).exists():
            self._index = GradientIndex.open(self._folder, write=True)
            self._rows = RowsById(self._index)

    def missing(self, sample_ids: Sequence[str]) -> list[int]:
        """Places in a list of ids of those without an embedding."""
        return list(range(len(sample_ids))) if self._rows is None else self._rows.missing(sample_ids)

    def make(self, samples: Mapping[str, Sequence[Message]]) -> None:
        """Embed samples, given by their ids, and keep them.

        Raises:
            ModelError: the encoder cannot be loaded.
            RunFailedError: the folder cannot be written, or one text alone does not fit into memory.
        """
        if self._encoder is None:
            device = pick_device("auto")
            self._encoder, self._budget = Encoder(self._source, device=device), default_budget("embedding", device.type)
        ids = list(samples)
        for start in range(0, len(ids), _SHARD_ROWS):
            part = ids[start : start + _SHARD_ROWS]
            texts = [text_of(samples[one], self._text) for one in part]
            self._keep(part, self._encoder.embed_in_batches(texts, token_budget=self._budget).astype(np.float32))
            self._progress("embeddings", start + len(part), len(ids))

    def _keep(self, ids: Sequence[str], vectors: npt.NDArray[np.float32]) -> None:
        if self._index is None or self._rows is None:
            identity = {**self.identity, "dim": vectors.shape[1]}
            self._index = GradientIndex.create(self._folder, identity, element="float32")
            self._rows = RowsById(self._index)
        nothing = np.zeros(len(ids))
        number = max(self._index.numbers_on_disk(), default=-1) + 1
        while True:
            # another process may write to the folder meanwhile
            with contextlib.suppress(ShardTakenError):
                record = self._index.write_shard(number, vectors, ids, nothing, nothing)
                break
            number += 1
        self._rows.note(record, ids)

    def of(self, sample_ids: Sequence[str]) -> npt.NDArray[np.float32]:
        """Unit embeddings ``[n, dim]``; zeros where one is missing or has no direction."""
        assert self._rows is not None
        return self._rows.of(sample_ids)
