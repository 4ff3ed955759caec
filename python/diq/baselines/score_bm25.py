"""BM25 of the samples of a dataset against the questions of one or several validation sets.

How rare a word is depends on the whole dataset, so a dataset that grew is another run: everything is computed again.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from diq.base.errors import RunFailedError
from diq.base.options import verb
from diq.base.sample import Message, prompt_text
from diq.baselines.bm25 import Statistics, bm25, count_questions, count_words, vocabulary_of
from diq.baselines.options import ScoreBm25Options
from diq.baselines.text_scores import INSERT, digest_of, read_conversations, replace_older, text_job, text_rows
from diq.encoders.embeddings import text_of
from diq.scoring.harness import Batch, Scorer, score_missing
from diq.scoring.job import Request, ScoreJob, read_request
from diq.scoring.summary import ScoreSummary

# what names a run beside its settings: the samples that words were counted in
DOCUMENTS = "documents"
NO_WORD = "the text has no word"


@verb(ScoreBm25Options)
def score_bm25(options: ScoreBm25Options) -> ScoreSummary:
    """Compute the missing BM25 scores of a dataset with one or several validation sets (formula: docs/method.md).

    No model runs. Scores of a dataset that has other samples now are replaced by a run of their own.

    Raises:
        UsageError: unknown names, an empty dataset, or no validation set with samples.
        RunFailedError: no question of a validation set has a word.
        StoreError: the store is held by another process.
    """
    request = read_request(options.store_file, options.dataset, options.validation_set)
    settings = {
        "reduction": options.reduction,
        "text": options.text,
        "k1": float(options.k1),
        "b": float(options.b),
        DOCUMENTS: digest_of(options.store_file, request.data),
    }
    job = text_job(
        options,
        request.data,
        kind="bm25",
        method=options.reduction,
        model_id=None,
        settings=settings,
        set_ids=[int(one["validation_set_id"]) for one in request.sets],
    )

    @contextmanager
    def load() -> Iterator[_Scorer]:
        yield _Scorer(options, request, job)

    summary = score_missing(job, load)
    replace_older(job, summary.run_id, DOCUMENTS)
    summary.details |= {
        "reduction": options.reduction,
        "text": options.text,
        "validation_sets": [one["name"] for one in request.sets],
    }
    return summary


class _Scorer(Scorer):
    """The questions, the statistics of the dataset, and the texts of a block."""

    model = None
    insert = INSERT
    # nothing but words is counted, so a block is one batch
    token_budget = 1 << 62

    def __init__(self, options: ScoreBm25Options, request: Request, job: ScoreJob) -> None:
        self.environment: dict[str, Any] = {}
        self._options = options
        self._set_ids = job.set_ids
        asked = [[prompt_text(one) for one in conversations] for conversations in request.conversations]
        vocabulary = vocabulary_of([text for one in asked for text in one])
        self._questions = [count_questions(one, vocabulary) for one in asked]
        for one, questions in zip(request.sets, self._questions, strict=True):
            if not questions.any():
                raise RunFailedError(
                    f"no question of the validation set `{one['name']}` has a word",
                    "name other sets with --validation-set",
                )
        self._statistics = Statistics(vocabulary)
        for conversations in read_conversations(job):
            self._statistics.add([self._text(one) for one in conversations])
            job.report("counting words", self._statistics.n, int(job.data["n_samples"]))

    def _text(self, messages: Sequence[Message]) -> str:
        return text_of(messages, self._options.text)

    def read(self, conversations: Sequence[Sequence[Message]]) -> tuple[npt.NDArray[np.int64], dict[int, str]]:
        """See ``Scorer``."""
        self._texts = [self._text(one) for one in conversations]
        lengths = count_words(self._texts)
        return lengths, {int(i): NO_WORD for i in np.flatnonzero(lengths == 0)}

    def score(self, batches: Iterator[Batch]) -> Iterator[tuple[Batch, npt.NDArray[np.float64]]]:
        """See ``Scorer``: scores ``[m, k]`` with k validation sets."""
        options = self._options
        for batch in batches:
            texts = [self._texts[i] for i in batch.wanted]
            found = [
                bm25(texts, one, self._statistics, k1=options.k1, b=options.b, reduction=options.reduction)
                for one in self._questions
            ]
            yield batch, np.stack(found, axis=1)

    def rows(self, run_id: int, ids: pa.Array, result: npt.NDArray[np.float64]) -> pa.Table:
        """See ``Scorer``."""
        reasons = [None] * len(result)
        return text_rows(run_id, ids, validation_set_ids=self._set_ids, value=result.ravel().tolist(), reasons=reasons)

    def refused(self, run_id: int, ids: pa.Array, reasons: Sequence[str]) -> pa.Table:
        """See ``Scorer``."""
        return text_rows(run_id, ids, validation_set_ids=self._set_ids, reasons=reasons)
