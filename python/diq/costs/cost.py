"""What selecting and training cost: the paper's formulas (Eq. 7 to 9), and a count of every matrix product beside them.

A FLOP is one multiplication or one addition, so a weight costs two a token. Counted are the linear layers, attention
and the language-model head: forward, backward to the activations, and gradients of weights only where something is
trained or recorded. Not counted: norms, activation functions, softmax, embeddings, optimizer steps; together below one
percent for the models that are meant. Times come from ``diq.probe``, never from these counts.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path

from diq.base.config import MAX_LENGTH
from diq.base.errors import UsageError
from diq.base.text import Ratio, did_you_mean
from diq.costs.account import Account, Plan, account
from diq.costs.lengths import Lengths, read_file_lengths, read_lengths
from diq.costs.options import PARAMS
from diq.costs.sizes import BIOMEDBERT, MODERNBERT, find_size
from diq.store.store import Store

log = logging.getLogger(__name__)


def predict(found: Account, rates: Mapping[str, tuple[float, float, float]]) -> None:
    """Fill in the hours of the steps that a rate is known for: their tokens over tokens a second.

    Args:
        found: the account.
        rates: ``(middle, least, most)`` tokens a second by ``Step.rate``.
    """
    for step in found.steps:
        if step.rate is not None and step.rate in rates:
            middle, least, most = rates[step.rate]
            step.hours = (step.tokens / middle / 3600, step.tokens / most / 3600, step.tokens / least / 3600)


def cost(
    source: str | None = None,
    *,
    model: str,
    store: Path | None = None,
    samples: int | None = None,
    tokens: float | None = None,
    validation_samples: int | None = None,
    validation_sets: int | None = None,
    ratios: Sequence[str] = ("0.01", "0.1"),
    epochs: float = 3.0,
    params: str = "qkv",
    rank: int = 8,
    method: str = "sft",
    checkpointing: bool = False,
    max_length: int = MAX_LENGTH,
    rater: str | None = None,
    questions: int | None = None,
    question_tokens: float = 1024.0,
    characters_per_token: float | None = None,
) -> Account:
    """Count what selecting from a dataset and training on it costs.

    Args:
        source: name of a dataset in the store, or a file; None takes ``samples`` and ``tokens``.
        model: folder, hub id or one of the paper's models.
        store: the store file; only for a dataset's name.
        samples: number of samples, without a source.
        tokens: tokens a sample, without a source.
        validation_samples: of all validation sets together; default those of the store, else 180, the paper's.
        validation_sets: default those of the store, else 1.
        ratios: that are to be trained on.
        epochs: of training.
        params: ``qkv``, ``all-linear`` or ``full`` (training of all weights; influence still looks at q, k and v).
        rank: of LoRA.
        method: ``sft`` or ``dpo``.
        checkpointing: gradient checkpointing in training.
        max_length: tokens after which a sample is cut.
        rater: folder of an encoder, for difficulty and rater; default BiomedBERT and ModernBERT-base.
        questions: of an evaluation; None leaves it out.
        question_tokens: tokens of a question and its output.
        characters_per_token: of the model's tokenizer, if it was measured.

    Raises:
        UsageError: an unknown dataset, a number that makes no sense, or neither a source nor numbers.
        ModelError: the model's sizes cannot be had.
    """
    _check(source, samples, tokens, validation_samples, validation_sets, epochs, params, rank, method, max_length)
    size = find_size(model)
    if size.context is not None and size.context < max_length:
        log.info("samples are cut to the %d tokens that `%s` can take", size.context, size.name)
        max_length = size.context
    if source is None:
        assert samples is not None
        assert tokens is not None
        lengths = Lengths.same(samples, min(tokens, max_length))
    elif Path(source).is_file():
        lengths = read_file_lengths(source, max_length=max_length, characters_per_token=characters_per_token)
    else:
        assert store is not None
        lengths = read_lengths(
            store, source, model=size.name, max_length=max_length, characters_per_token=characters_per_token
        )
        with Store(store, read_only=True) as opened:
            # a set that came with scores computed elsewhere has no samples here
            sets = [one for one in opened.rows("store/list_validation_sets") if one["dataset_id"] is not None]
        if sets:
            validation_sets = validation_sets or len(sets)
            if validation_samples is None:
                validation_samples = sum(one["n_samples"] or 0 for one in sets)
    encoder = None if rater is None else find_size(rater)
    return account(
        Plan(
            size=size,
            lengths=lengths,
            # a validation sample is taken to be as long as a training sample
            validation=Lengths.same(180 if validation_samples is None else validation_samples, lengths.mean),
            sets=validation_sets or 1,
            ratios=tuple(Ratio.parse(one) for one in ratios),
            epochs=epochs,
            params=params,  # type: ignore[arg-type]
            rank=rank,
            method=method,  # type: ignore[arg-type]
            checkpointing=checkpointing,
            difficulty=encoder or BIOMEDBERT,
            rater=encoder or MODERNBERT,
            questions=None if questions is None else Lengths.same(questions, question_tokens),
        )
    )


def _check(
    source: str | None,
    samples: int | None,
    tokens: float | None,
    validation_samples: int | None,
    validation_sets: int | None,
    epochs: float,
    params: str,
    rank: int,
    method: str,
    max_length: int,
) -> None:
    if source is None and (samples is None or tokens is None):
        raise UsageError("there is nothing to count", "name a dataset or a file, or give --samples and --tokens")
    if source is not None and (samples is not None or tokens is not None):
        raise UsageError("a dataset and --samples or --tokens were given", "give one of the two")
    if params not in PARAMS:
        raise UsageError(f"--params `{params}` is not known", did_you_mean(params, PARAMS))
    if method not in ("sft", "dpo"):
        raise UsageError(f"--method `{method}` is not known", did_you_mean(method, ("sft", "dpo")))
    for option, value in (
        ("--samples", samples),
        ("--tokens", tokens),
        ("--validation-sets", validation_sets),
        ("--epochs", epochs),
        ("--lora-rank", rank),
        ("--max-length", max_length),
    ):
        if value is not None and not value > 0:
            raise UsageError(f"{option} {value:g} is not a positive number", "give a number above 0")
    if validation_samples is not None and validation_samples < 0:
        raise UsageError(f"--validation-samples {validation_samples} is negative", "give 0 or more")
