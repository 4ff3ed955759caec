"""Instruction-following difficulty of the samples that lack it.

``IFD(Q, A) = L(A | Q) / L(A)``: the mean cross-entropy of the answer tokens behind their question, over that of the
same tokens behind the same layout with the question left empty. Near 1 the question helps little; above 1 it misleads.

Source: Li et al. (2024), arXiv:2308.12032, section 2.2, and ``cherry_seletion`` of tianyi-lab/Cherry_LLM.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from diq.base.options import verb
from diq.base.sample import Message, split_prompt
from diq.baselines.language_model import ModelScorer, ScoringModel
from diq.baselines.options import LARGEST_IFD, ScoreIfdOptions
from diq.baselines.perplexity import NOT_FINITE, answer_losses
from diq.baselines.text_scores import count_above, text_job, text_rows
from diq.influence.stored import NO_ANSWER
from diq.models.tokens import Tokenization, Tokens
from diq.scoring.harness import Batch, score_missing
from diq.scoring.job import read_dataset
from diq.scoring.summary import ScoreSummary

METHOD = "loss-ratio"
SURE = "the answer alone has no loss to compare with"


@verb(ScoreIfdOptions)
def score_ifd(options: ScoreIfdOptions) -> ScoreSummary:
    """Compute the missing instruction-following difficulties of a dataset (docs/method.md has the formula).

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
        kind="ifd",
        method=METHOD,
        model_id=model.target.model_id,
        settings={"dtype": model.dtype, **tokenization.settings()},
    )

    @contextmanager
    def load() -> Iterator[_Scorer]:
        # what is cut or refused is told of the samples as they are, not of those without a question
        yield _Scorer(model, tokenization, model.tokenization())
        tokenization.say(f"dataset `{options.dataset}`")

    summary = score_missing(job, load)
    summary.details |= model.describe(tokenization) | {"n_above_1": count_above(job, summary.run_id, LARGEST_IFD)}
    return summary


def without_question(tokens: Tokens, bare: Tokens) -> Tokens:
    """The answer tokens of a sample behind the head of the same sample with an empty question.

    So the two losses are of the same tokens, also where the sample was cut on the right.
    """
    head = bare.ids[: bare.answer_start]
    return Tokens(np.concatenate([head, tokens.ids[tokens.answer_start :]]), len(head))


def ifd(conditioned: float, alone: float) -> tuple[float | None, str | None]:
    """The ratio of two mean losses in nats, or why there is none."""
    if not (math.isfinite(conditioned) and math.isfinite(alone)):
        return None, NOT_FINITE
    if alone <= 0 or not math.isfinite(ratio := conditioned / alone):
        return None, SURE
    return ratio, None


class _Scorer(ModelScorer):
    """A loaded model, and the tokens of a block with and without the question."""

    def __init__(self, model: ScoringModel, tokenization: Tokenization, bare: Tokenization) -> None:
        super().__init__(model, tokenization)
        self._bare = bare

    def read(self, conversations: Sequence[Sequence[Message]]) -> tuple[npt.NDArray[np.int64], dict[int, str]]:
        """See ``Scorer``."""
        with_question = self.tokenization.encode(conversations)
        bare = self._bare.encode([[{"role": "user", "content": ""}, split_prompt(one)[1]] for one in conversations])
        lengths = np.zeros(len(with_question), np.int64)
        refused: dict[int, str] = {}
        self._pairs: list[tuple[Tokens, Tokens] | None] = [None] * len(with_question)
        for i, (one, other) in enumerate(zip(with_question, bare, strict=True)):
            if isinstance(one, str):
                refused[i] = one
            elif isinstance(other, str):
                refused[i] = f"without its question: {other}"
            elif not one.answer_tokens:
                refused[i] = NO_ANSWER
            else:
                alone = without_question(one, other)
                self._pairs[i] = one, alone
                lengths[i] = max(len(one.ids), len(alone.ids))
        return lengths, refused

    def score(self, batches: Iterator[Batch]) -> Iterator[tuple[Batch, tuple[list[int], npt.NDArray[np.float64]]]]:
        """See ``Scorer``: answer tokens of each sample, and ``[m, 2]`` losses with and without the question."""
        for batch in batches:
            pairs = [pair for i in batch.wanted if (pair := self._pairs[i]) is not None]
            both = [self.in_parts(one, self._losses) for one in zip(*pairs, strict=True)]
            yield batch, ([one.answer_tokens for one, _ in pairs], np.stack(both, axis=1))

    def _losses(self, samples: Sequence[Tokens]) -> npt.NDArray[np.float64]:
        return answer_losses(self.network, samples)

    def rows(self, run_id: int, ids: pa.Array, result: tuple[list[int], npt.NDArray[np.float64]]) -> pa.Table:
        """See ``Scorer``."""
        n_tokens, losses = result
        found = [ifd(*pair) for pair in losses.tolist()]
        return text_rows(
            run_id,
            ids,
            value=[value for value, _ in found],
            n_tokens=n_tokens,
            reasons=[reason for _, reason in found],
        )
