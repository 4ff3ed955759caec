"""Scoring by an encoder with a head: difficulty, or a rater's influence.

A block is some thousand samples: the more texts, the more of nearly one length in it. It is tokenised in one call. A
batch in which anything is missing is computed whole, also for the samples that are known.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import torch

from diq.base.sample import Message
from diq.base.text import amount
from diq.encoders.network import Encoded
from diq.models.memory import default_budget, in_halves
from diq.scoring.harness import Batch, Scorer
from diq.scoring.job import RunModel

log = logging.getLogger(__name__)

EMPTY = "the text is empty"
NOT_FINITE = "the output of the encoder is not finite"


class Network(Protocol):
    """A loaded encoder with a head."""

    max_length: int

    def encode(self, texts: Sequence[str]) -> Encoded:
        """Texts as tokens, cut to ``max_length``."""
        ...

    def predict(self, encoded: Encoded, rows: Sequence[int] | npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
        """Outputs ``[m, ...]`` of some texts, computed as one batch."""
        ...


class EncoderScorer(Scorer):
    """A loaded encoder and the texts of a block.

    Args:
        network: the encoder.
        model: what is recorded of it.
        environment: versions and hardware.
        device: where it runs.
        token_budget: padded tokens a batch; None takes a default.
        text_of: what it reads of a sample.
        shape: of the outputs of one sample.
        insert: query that adds rows, except those that are there.
        table: the rows of outputs ``[m, ...]`` (NaN where there is none) of samples ``[m, 16]`` with a reason or None
            each, as that query reads them.

    Attributes:
        n_cut: scored texts that are longer than the encoder takes.
    """

    block_reads = 8

    def __init__(
        self,
        network: Network,
        *,
        model: RunModel,
        environment: Mapping[str, Any],
        device: torch.device,
        token_budget: int | None,
        text_of: Callable[[Sequence[Message]], str],
        shape: tuple[int, ...],
        insert: str,
        table: Callable[[int, pa.Array, npt.NDArray[np.float64], Sequence[str | None]], pa.Table],
    ) -> None:
        self.model, self.environment, self.insert = model, environment, insert
        self.token_budget = token_budget or default_budget("encoder", device.type)
        self.n_cut = 0
        self._network, self._text_of, self._shape, self._table = network, text_of, shape, table
        self._encoded: Encoded
        # place of each text of the block among those that have tokens
        self._place = np.zeros(0, np.int64)

    def read(self, conversations: Sequence[Sequence[Message]]) -> tuple[npt.NDArray[np.int64], dict[int, str]]:
        """See ``Scorer``."""
        texts = [self._text_of(messages) for messages in conversations]
        filled = np.asarray([bool(text.strip()) for text in texts], np.bool_)
        lengths = np.zeros(len(texts), np.int64)
        self._place = np.cumsum(filled) - 1
        if filled.any():
            self._encoded = self._network.encode([texts[i] for i in np.flatnonzero(filled)])
            lengths[filled] = self._encoded.lengths
        return lengths, {int(i): EMPTY for i in np.flatnonzero(~filled)}

    def score(self, batches: Iterator[Batch]) -> Iterator[tuple[Batch, npt.NDArray[np.float64]]]:
        """See ``Scorer``."""
        for batch in batches:
            places = self._place[batch.rows]
            values = self._predict(places)[batch.missing]
            self.n_cut += int(self._encoded.cut[places[batch.missing]].sum())
            yield batch, values

    def _predict(self, places: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
        parts = in_halves(
            places.tolist(),
            lambda rows: self._network.predict(self._encoded, rows),
            what="texts",
            one=f"one text of up to {self._encoded.lengths[places].max()} tokens",
            hint="use --dtype bfloat16",
        )
        return np.concatenate(parts)

    def rows(self, run_id: int, ids: pa.Array, result: npt.NDArray[np.float64]) -> pa.Table:
        """See ``Scorer``."""
        finite = [bool(np.isfinite(one).all()) for one in result]
        result[np.logical_not(finite)] = np.nan
        return self._table(run_id, ids, result, [None if one else NOT_FINITE for one in finite])

    def refused(self, run_id: int, ids: pa.Array, reasons: Sequence[str]) -> pa.Table:
        """See ``Scorer``."""
        return self._table(run_id, ids, np.full((len(ids), *self._shape), np.nan), reasons)

    def tell_of_cuts(self, n_scored: int) -> dict[str, int]:
        """What the summary tells of cut texts; the log warns of them."""
        if self.n_cut:
            log.warning(
                "%d of %s are longer than the encoder's %d tokens and were cut",
                self.n_cut, amount(n_scored, "text"), self._network.max_length,
            )  # fmt: skip
        return {"n_truncated": self.n_cut}
