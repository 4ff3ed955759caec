"""Perplexity of the samples that lack it."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any, get_args

import numpy as np
import numpy.typing as npt

from diq.base.config import MAX_LENGTH
from diq.base.progress import Progress
from diq.base.sample import Message
from diq.base.text import check_choice
from diq.baselines.perplexity import NOTHING_TO_PREDICT, mean_losses, perplexity, require_causal_lm
from diq.models.device import describe_environment, pick_device, pick_dtype
from diq.models.memory import default_budget, in_halves
from diq.models.network import load_causal_lm
from diq.models.source import find_adapter, find_model, is_adapter
from diq.models.tokens import Template, Tokenization, Tokens, check_length, load_tokenization
from diq.scoring.harness import TextJob, TextScore, score_missing
from diq.scoring.job import check_budget, read_dataset
from diq.scoring.summary import ScoreSummary

log = logging.getLogger(__name__)

METHOD = "full-text"


def score_perplexity(
    dataset: str,
    *,
    model: str,
    store: Path,
    model_name: str | None = None,
    adapter: str | None = None,
    max_length: int | None = None,
    template: str | None = None,
    dtype: str = "auto",
    device: str = "auto",
    attention: str | None = None,
    token_budget: int | None = None,
    progress: Progress | None = None,
) -> ScoreSummary:
    """Compute the missing perplexities of a dataset (see ``diq.perplexity``).

    Args:
        dataset: name of a dataset in the store.
        model: folder or hub id of a causal language model.
        store: the store file.
        model_name: name of the model in the store; default the hub id or the folder's name.
        adapter: a LoRA adapter of the model, or a full checkpoint in its place; the run is then its own model's.
        max_length: tokens after which a sample is cut on the right; default 8192.
        template: ``auto`` (default) uses the tokenizer's chat template if there is one, ``none`` never does.
        dtype: ``auto``, ``float32``, ``bfloat16`` or ``float64``.
        device: ``auto``, ``cpu``, ``cuda``, ...
        attention: attention implementation of transformers.
        token_budget: padded tokens a batch; None takes a default (what does not fit into memory is halved).
        progress: called now and then with the samples done and to do.

    Raises:
        UsageError: unknown names, an empty dataset, or a maximum length below 2.
        ModelError: the model cannot be used.
        RunFailedError: one sample alone does not fit into memory.
        StoreError: the store is held by another process.
    """
    check_choice("--template", template, get_args(Template))
    check_budget(token_budget)
    if max_length is not None:
        check_length(max_length)
    data = read_dataset(store, dataset)
    source = find_model(model, name=model_name)
    target = source if adapter is None else find_adapter(adapter, source)
    wrapped = adapter is not None and is_adapter(target)
    base = source if wrapped else target
    require_causal_lm(base)
    place = pick_device(device)
    precision = pick_dtype(dtype, place)
    tokenization = load_tokenization(
        source,
        max_length=max_length or MAX_LENGTH,
        template=template or "auto",  # type: ignore[arg-type]
    )
    job = TextJob(
        store=store,
        data=data,
        kind="perplexity",
        method=METHOD,
        source=target,
        settings={"dtype": precision, **tokenization.settings()},
        set_ids=[],
        progress=progress,
    )

    def load() -> _Scorer:
        network = load_causal_lm(
            base, dtype=precision, device=str(place), attention=attention, adapter=target if wrapped else None
        )
        return _Scorer(network, tokenization, token_budget or default_budget("perplexity", place.type))

    summary = score_missing(job, load)
    summary.details |= {
        "model": target.name,
        "dtype": precision,
        "template": "chat template" if tokenization.uses_template else "Question/Answer",
        "max_length": tokenization.max_length,
    }
    return summary


class _Scorer:
    """A loaded model and the tokens of a block."""

    def __init__(self, model: Any, tokenization: Tokenization, token_budget: int) -> None:
        self.architecture = type(model).__name__
        self.n_parameters = sum(one.numel() for one in model.parameters())
        self.environment = describe_environment(next(model.parameters()).device)
        self.token_budget = token_budget
        self._model, self._tokenization = model, tokenization
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

    def score(self, chosen: Sequence[int], ids: Sequence[str]) -> list[TextScore]:
        """See ``Scorer``."""
        samples = [one for i in chosen if isinstance(one := self._tokens[i], Tokens)]
        rows = []
        for sample_id, sample, loss in zip(ids, samples, self._losses(samples), strict=True):
            value, reason = perplexity(float(loss))
            rows.append(TextScore(sample_id, perplexity=value, n_tokens=len(sample.ids) - 1, reason=reason))
        return rows

    def _losses(self, samples: Sequence[Tokens]) -> npt.NDArray[np.float64]:
        parts = in_halves(
            samples,
            lambda part: mean_losses(self._model, part),
            what="samples",
            one=f"one sample of up to {max(len(one.ids) for one in samples)} tokens",
            hint="use --dtype bfloat16, or lower --max-length",
        )
        return np.concatenate(parts)
