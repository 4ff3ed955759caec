"""Perplexity of the samples that lack it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from diq.base.options import verb
from diq.base.sample import Message
from diq.baselines.language_model import ModelScorer, ScoringModel
from diq.baselines.options import ScorePerplexityOptions
from diq.baselines.perplexity import NOTHING_TO_PREDICT, mean_losses, perplexity
from diq.baselines.text_scores import text_job, text_rows
from diq.models.tokens import Tokens
from diq.scoring.harness import Batch, score_missing
from diq.scoring.job import read_dataset
from diq.scoring.summary import ScoreSummary

METHOD = "full-text"


@verb(ScorePerplexityOptions)
def score_perplexity(options: ScorePerplexityOptions) -> ScoreSummary:
    """Compute the missing perplexities of a dataset (docs/method.md has the formula).

    Raises:
        UsageError: unknown names, an empty dataset, or a maximum length below 2.
        ModelError: the model cannot be used.
        RunFailedError: one sample alone does not fit into memory.
        StoreError: the store is held by another process.
    """
    data = read_dataset(options.store_file, options.dataset)
    model = ScoringModel.of(options)
    tokenization = model.tokenization()
    job = text_job(
        options,
        data,
        kind="perplexity",
        method=METHOD,
        model_id=model.target.model_id,
        settings={"dtype": model.dtype, **tokenization.settings()},
    )

    @contextmanager
    def load() -> Iterator[_Scorer]:
        yield _Scorer(model, tokenization)
        tokenization.say(f"dataset `{options.dataset}`")

    summary = score_missing(job, load)
    summary.details |= model.describe(tokenization)
    return summary


class _Scorer(ModelScorer):
    """A loaded model and the tokens of a block."""

    def read(self, conversations: Sequence[Sequence[Message]]) -> tuple[npt.NDArray[np.int64], dict[int, str]]:
        """See ``Scorer``."""
        self._tokens = self.tokenization.encode(conversations)
        lengths = np.zeros(len(self._tokens), np.int64)
        refused: dict[int, str] = {}
        for i, one in enumerate(self._tokens):
            if isinstance(one, str):
                refused[i] = one
            elif len(one.ids) < 2:
                refused[i] = NOTHING_TO_PREDICT
            else:
                lengths[i] = len(one.ids)
        return lengths, refused

    def score(self, batches: Iterator[Batch]) -> Iterator[tuple[Batch, tuple[list[int], npt.NDArray[np.float64]]]]:
        """See ``Scorer``: predicted tokens of each sample, and mean losses."""
        for batch in batches:
            samples = [one for i in batch.wanted if isinstance(one := self._tokens[i], Tokens)]
            losses = self.in_parts(samples, lambda part: mean_losses(self.network, part))
            yield batch, ([len(one.ids) - 1 for one in samples], losses)

    def rows(self, run_id: int, ids: pa.Array, result: tuple[list[int], npt.NDArray[np.float64]]) -> pa.Table:
        """See ``Scorer``."""
        n_tokens, losses = result
        found = [perplexity(float(loss)) for loss in losses]
        return text_rows(
            run_id,
            ids,
            perplexity=[value for value, _ in found],
            n_tokens=n_tokens,
            reasons=[reason for _, reason in found],
        )
