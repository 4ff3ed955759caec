"""Perplexity of the samples that lack it."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from diq.base.config import MAX_LENGTH
from diq.base.options import verb
from diq.base.sample import Message
from diq.baselines.options import ScorePerplexityOptions
from diq.baselines.perplexity import NOTHING_TO_PREDICT, mean_losses, perplexity
from diq.baselines.text_scores import INSERT, MISSING, REASONS, text_rows
from diq.models.architecture import loader_of, read_config, rope_change
from diq.models.device import describe_environment, pick_device, pick_dtype
from diq.models.memory import default_budget, in_halves
from diq.models.network import load_causal_lm
from diq.models.source import ModelSource, find_adapter, find_model, is_adapter
from diq.models.tokens import Tokenization, Tokens, load_tokenization
from diq.scoring.harness import Batch, Scorer, score_missing
from diq.scoring.job import RunModel, ScoreJob, check_name, read_dataset
from diq.scoring.summary import ScoreSummary

log = logging.getLogger(__name__)

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
    source = find_model(options.model, name=options.model_name)
    target = source if options.adapter is None else find_adapter(options.adapter, source)
    check_name(options.store_file, target)
    wrapped = options.adapter is not None and is_adapter(target)
    base = source if wrapped else target
    # before the store is asked what is missing: it costs nothing
    loader_of(base, read_config(base))
    place = pick_device(options.device)
    precision = pick_dtype(options.dtype, place)
    tokenization = load_tokenization(
        source,
        max_length=options.max_length or MAX_LENGTH,
        template=options.template or "auto",
        template_kwargs=options.chat_template_kwargs,
    )
    job = ScoreJob(
        store=options.store_file,
        data=data,
        kind="perplexity",
        method=METHOD,
        model_id=target.model_id,
        settings={"dtype": precision, **tokenization.settings()},
        missing=MISSING,
        params={"validation_set_ids": []},
        reasons=REASONS,
        label="perplexity",
        progress=options.progress,
    )

    @contextmanager
    def load() -> Iterator[_Scorer]:
        network = load_causal_lm(
            base, dtype=precision, device=str(place), attention=options.attention, adapter=target if wrapped else None
        )
        yield _Scorer(target, network, tokenization, options.batch_tokens or default_budget("perplexity", place.type))
        tokenization.say(f"dataset `{options.dataset}`")

    summary = score_missing(job, load)
    summary.details |= {
        "model": target.name,
        "dtype": precision,
        "template": tokenization.template_name,
        "max_length": tokenization.max_length,
    }
    return summary


class _Scorer(Scorer):
    """A loaded model and the tokens of a block."""

    insert = INSERT

    def __init__(self, source: ModelSource, network: Any, tokenization: Tokenization, token_budget: int) -> None:
        n_parameters = sum(one.numel() for one in network.parameters())
        self.model = RunModel(source.model_id, source.name, source.source, type(network).__name__, n_parameters)
        self.environment = describe_environment(next(network.parameters()).device)
        self.token_budget = token_budget
        self.rope_change = rope_change(network.config)
        self._network, self._tokenization = network, tokenization
        self._tokens: list[Tokens | str] = []

    def read(self, conversations: Sequence[Sequence[Message]]) -> tuple[npt.NDArray[np.int64], dict[int, str]]:
        """See ``Scorer``."""
        self._tokens = self._tokenization.encode(conversations)
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
            yield batch, ([len(one.ids) - 1 for one in samples], self._losses(samples))

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

    def refused(self, run_id: int, ids: pa.Array, reasons: Sequence[str]) -> pa.Table:
        """See ``Scorer``."""
        return text_rows(run_id, ids, reasons=reasons)

    def _losses(self, samples: Sequence[Tokens]) -> npt.NDArray[np.float64]:
        parts = in_halves(
            samples,
            lambda part: mean_losses(self._network, part),
            what="samples",
            one=f"one sample of up to {max(len(one.ids) for one in samples)} tokens",
            hint="use --dtype bfloat16, or lower --max-length",
        )
        return np.concatenate(parts)
