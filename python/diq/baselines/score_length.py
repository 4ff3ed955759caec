"""Length of the answers that were not counted yet: the tokens of each that a training would learn."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from diq.base.config import MAX_LENGTH
from diq.base.options import verb
from diq.base.sample import Message
from diq.baselines.options import ScoreLengthOptions
from diq.baselines.text_scores import INSERT, text_job, text_rows
from diq.influence.stored import NO_ANSWER
from diq.models.source import ModelSource, find_model
from diq.models.tokens import Tokenization, check_length, load_tokenization, load_tokenizer
from diq.scoring.harness import Batch, Scorer, score_missing
from diq.scoring.job import read_dataset
from diq.scoring.summary import ScoreSummary

METHOD = "answer-tokens"


@verb(ScoreLengthOptions)
def score_length(options: ScoreLengthOptions) -> ScoreSummary:
    """Count the answer tokens of the samples of a dataset that were not counted yet (docs/method.md says which).

    No model runs. The run belongs to the tokenizer and the template: two models that share them share the counts.

    Raises:
        UsageError: unknown names, an empty dataset, or a maximum length below 2.
        ModelError: there is no usable tokenizer.
        StoreError: the store is held by another process.
    """
    data = read_dataset(options.store_file, options.dataset)
    tokenization = _tokenization(options)
    job = text_job(options, data, kind="length", method=METHOD, model_id=None, settings=tokenization.settings())

    @contextmanager
    def load() -> Iterator[_Scorer]:
        yield _Scorer(tokenization, str(options.model))
        tokenization.say(f"dataset `{options.dataset}`")

    summary = score_missing(job, load)
    summary.details |= {
        "tokenizer": str(options.model),
        "template": tokenization.template_name,
        "max_length": tokenization.max_length,
    }
    return summary


def _tokenization(options: ScoreLengthOptions) -> Tokenization:
    max_length, template = options.max_length or MAX_LENGTH, options.template or "auto"
    folder = Path(options.model)
    if folder.is_dir() and not (folder / "config.json").is_file():
        # a tokenizer alone: no model limits the length or lacks a token
        check_length(max_length)
        source = ModelSource(str(options.model), folder.resolve(), folder.resolve().name, "")
        return Tokenization(
            load_tokenizer(source),
            max_length=max_length,
            template=template,
            template_kwargs=options.chat_template_kwargs,
        )
    if folder.is_dir():
        source = ModelSource(str(options.model), folder.resolve(), folder.resolve().name, "")
    else:
        source = find_model(options.model)
    return load_tokenization(
        source, max_length=max_length, template=template, template_kwargs=options.chat_template_kwargs
    )


class _Scorer(Scorer):
    """A tokenizer and the counts of a block."""

    model = None
    insert = INSERT
    # nothing runs, so a block is one batch
    token_budget = 1 << 62

    def __init__(self, tokenization: Tokenization, source: str) -> None:
        self.environment = {"tokenizer": source}
        self._tokenization = tokenization
        self._counts = np.zeros(0, np.int64)

    def read(self, conversations: Sequence[Sequence[Message]]) -> tuple[npt.NDArray[np.int64], dict[int, str]]:
        """See ``Scorer``."""
        tokens = self._tokenization.encode(conversations)
        refused = {i: one for i, one in enumerate(tokens) if isinstance(one, str)}
        self._counts = np.asarray([0 if isinstance(one, str) else one.answer_tokens for one in tokens], np.int64)
        lengths = np.asarray([0 if isinstance(one, str) else len(one.ids) for one in tokens], np.int64)
        refused |= {int(i): NO_ANSWER for i in np.flatnonzero(self._counts == 0) if int(i) not in refused}
        return lengths, refused

    def score(self, batches: Iterator[Batch]) -> Iterator[tuple[Batch, npt.NDArray[np.int64]]]:
        """See ``Scorer``: answer tokens of each sample."""
        for batch in batches:
            yield batch, self._counts[batch.wanted]

    def rows(self, run_id: int, ids: pa.Array, result: npt.NDArray[np.int64]) -> pa.Table:
        """See ``Scorer``."""
        return text_rows(run_id, ids, value=result.astype(np.float64).tolist(), reasons=[None] * len(result))

    def refused(self, run_id: int, ids: pa.Array, reasons: Sequence[str]) -> pa.Table:
        """See ``Scorer``."""
        return text_rows(run_id, ids, reasons=reasons)
