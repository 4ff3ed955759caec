"""What every scoring shares: its summary, and how often it commits."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from diq.base.summary import Summary

# a shard is as much as one is willing to compute again after a kill; a commit costs some 20 ms
SHARD_SECONDS = 10.0
# it is also written when it holds as much as one likes to hold in memory
SHARD_BYTES = 256 << 20
# samples that are read at once
READ_ROWS = 2048


@dataclass(slots=True, repr=False)
class ScoreSummary(Summary):
    """What a scoring did.

    Attributes:
        run_id: run in the store.
        dataset: name of the dataset.
        n_samples: samples of the dataset.
        n_scored: samples scored by this call.
        n_cached: samples that the store had already.
        n_no_score: samples of the dataset without a score, whose reason is in the store.
        reasons: count of each reason.
        seconds: wall time of the scoring itself.
        tokens: tokens that went through the model.
        details: more figures by name.
    """

    run_id: int
    dataset: str
    n_samples: int
    n_scored: int = 0
    n_cached: int = 0
    n_no_score: int = 0
    reasons: dict[str, int] = field(default_factory=dict)
    seconds: float = 0.0
    tokens: int = 0
    details: dict[str, Any] = field(default_factory=dict)
