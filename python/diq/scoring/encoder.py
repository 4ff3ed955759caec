"""One scoring by an encoder, difficulty or a rater's influence: what is missing, its batches, its rows in the store.

The dataset is read in windows of some thousand samples in its order. A window is tokenised in one call and its batches
are planned over all its samples, also those that are known; a batch in which anything is missing is computed whole. So
the bits do not depend on how far an earlier run came. Windows in which nothing is missing are not read.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import orjson
import pyarrow as pa
import torch

from diq.base.config import WAIT_S
from diq.base.progress import Progress
from diq.base.sample import Message
from diq.encoders.network import Encoded
from diq.models.memory import default_budget, in_halves
from diq.models.tokens import plan_batches
from diq.scoring import summary as shards
from diq.scoring.summary import ScoreSummary
from diq.store.store import Store

log = logging.getLogger(__name__)

EMPTY = "the text is empty"
NOT_FINITE = "the output of the encoder is not finite"

# a window is so many reads: the more texts, the more of nearly one length in it
_WINDOW_READS = 8


class Network(Protocol):
    """A loaded encoder with a head."""

    max_length: int

    def encode(self, texts: Sequence[str]) -> Encoded:
        """Texts as tokens, cut to ``max_length``."""
        ...

    def predict(self, encoded: Encoded, rows: Sequence[int] | npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
        """Outputs ``[m, ...]`` of some texts, computed as one batch."""
        ...


@dataclass(frozen=True, slots=True)
class Outputs:
    """What an encoder says of some samples, m of them.

    Attributes:
        sample_ids: their ids.
        values: ``[m, ...]``; NaN where there is a reason.
        reasons: why there is no score, or None.
    """

    sample_ids: list[str]
    values: npt.NDArray[np.float64]
    reasons: list[str | None]


@dataclass(frozen=True, slots=True)
class EncoderJob:
    """One call, its names looked up.

    Attributes:
        store: the store file.
        data: row of the dataset.
        label: what is scored, for the progress.
        missing: query for the samples of the dataset in order, and whether each is missing.
        params: its parameters.
        insert: query that adds rows, except those that are there.
        rows: the rows of some outputs, as that query reads them.
        text_of: what the encoder reads of a sample.
        shape: of the outputs of one sample.
        token_budget: padded tokens a batch; None takes a default.
        progress: called with the samples done and to do.
    """

    store: Path
    data: Mapping[str, Any]
    label: str
    missing: str
    params: Mapping[str, Any]
    insert: str
    rows: Callable[[Outputs], pa.Table]
    text_of: Callable[[Sequence[Message]], str]
    shape: tuple[int, ...]
    token_budget: int | None
    progress: Progress | None


def score_missing(job: EncoderJob, network: Network, device: torch.device, summary: ScoreSummary) -> None:
    """Score what is missing and tell the summary; a shard is committed every some seconds."""
    with Store(job.store, read_only=True, wait_s=WAIT_S) as opened:
        states = opened.arrow(job.missing, **job.params)
    n_missing = int(states.column("missing").to_numpy().sum())
    summary.n_cached = summary.n_samples - n_missing
    started = last = time.monotonic()
    pending: list[Outputs] = []
    done = n_cut = 0
    for outputs, cut, tokens in _outputs(job, states, network, device):
        pending.append(outputs)
        done += len(outputs.sample_ids)
        n_cut += cut
        summary.tokens += tokens
        if time.monotonic() - last >= shards.SHARD_SECONDS:
            _commit(job, pending)
            summary.n_scored, pending, last = done, [], time.monotonic()
        if job.progress:
            job.progress(job.label, done, n_missing)
    _commit(job, pending)
    summary.n_scored = done
    summary.seconds = time.monotonic() - started
    summary.details["n_truncated"] = n_cut
    if n_cut:
        log.warning(
            "%d of %d texts are longer than the encoder's %d tokens and were cut", n_cut, done, network.max_length
        )


def _outputs(
    job: EncoderJob, states: pa.Table, network: Network, device: torch.device
) -> Iterator[tuple[Outputs, int, int]]:
    """Outputs of the missing samples batch by batch, how many of their texts were cut, and their tokens."""
    budget = job.token_budget or default_budget("encoder", device.type)
    for ids, missing, texts in _windows(job, states):
        filled = np.asarray([bool(text.strip()) for text in texts], np.bool_)
        empty = [ids[i] for i in np.flatnonzero(missing & ~filled)]
        if empty:
            yield _refused(job, empty, EMPTY), 0, 0
        places = np.flatnonzero(filled)
        if not missing[places].any():
            continue
        encoded = network.encode([texts[i] for i in places])
        for batch in plan_batches(encoded.lengths, token_budget=budget):
            wanted = missing[places[batch]]
            if not wanted.any():
                continue
            values = _predict(network, encoded, batch)[wanted]
            rows = batch[wanted]
            broken = np.asarray([not np.isfinite(one).all() for one in values], np.bool_)
            values[broken] = np.nan
            reasons = [NOT_FINITE if one else None for one in broken.tolist()]
            outputs = Outputs([ids[i] for i in places[rows]], values, reasons)
            yield outputs, int(encoded.cut[rows].sum()), int(encoded.lengths[rows].sum())


def _refused(job: EncoderJob, ids: list[str], reason: str) -> Outputs:
    return Outputs(ids, np.full((len(ids), *job.shape), np.nan), [reason] * len(ids))


def _predict(network: Network, encoded: Encoded, batch: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
    parts = in_halves(
        batch.tolist(),
        lambda rows: network.predict(encoded, rows),
        what="texts",
        one=f"one text of up to {encoded.lengths[batch].max()} tokens",
        hint="use --dtype bfloat16",
    )
    return np.concatenate(parts)


def _windows(job: EncoderJob, states: pa.Table) -> Iterator[tuple[list[str], npt.NDArray[np.bool_], list[str]]]:
    """Ids, whether they are missing, and texts of each window of the dataset in which something is missing."""
    size = shards.READ_ROWS * _WINDOW_READS
    for first in range(0, len(states), size):
        part = states.slice(first, size)
        missing = np.asarray(part.column("missing").to_numpy(), np.bool_)
        if not missing.any():
            continue
        ids = part.column("sample_id").to_pylist()
        with Store(job.store, read_only=True, wait_s=WAIT_S) as opened:
            found = opened.arrow("store/messages_of_samples", sample_ids=ids)
        texts = dict(zip(found.column("sample_id").to_pylist(), found.column("messages").to_pylist(), strict=True))
        yield ids, missing, [job.text_of(orjson.loads(texts[one])) for one in ids]


def _commit(job: EncoderJob, pending: Sequence[Outputs]) -> None:
    if not pending:
        return
    together = Outputs(
        [one for outputs in pending for one in outputs.sample_ids],
        np.concatenate([outputs.values for outputs in pending]),
        [one for outputs in pending for one in outputs.reasons],
    )
    with Store(job.store, wait_s=WAIT_S) as opened, opened.transaction():
        opened.insert(job.insert, job.rows(together))
