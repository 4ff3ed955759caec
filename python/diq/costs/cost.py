"""What selecting and training cost: the paper's formulas (Eq. 7 to 9), and a count of every matrix product beside them.

A FLOP is one multiplication or one addition, so a weight costs two a token. Counted are the linear layers, attention
and the language-model head: forward, backward to the activations, and gradients of weights only where something is
trained or recorded. Not counted: norms, activation functions, softmax, embeddings, optimizer steps; together below one
percent for the models that are meant. Times come from ``diq.probe``, never from these counts.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path

from diq.base.errors import UsageError
from diq.base.options import verb
from diq.base.text import Ratio
from diq.costs.account import Account, Plan, account
from diq.costs.lengths import Lengths, read_file_lengths, read_lengths
from diq.costs.options import VALIDATION_SAMPLES, CostOptions
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


@verb(CostOptions)
def cost(options: CostOptions) -> Account:
    """Count what selecting from a dataset and training on it costs.

    Raises:
        UsageError: an unknown dataset, a number that makes no sense, or neither a source nor numbers.
        ModelError: the model's sizes cannot be had.
    """
    if options.source is None and (options.samples is None or options.tokens is None):
        raise UsageError("there is nothing to count", "name a dataset or a file, or give --samples and --tokens")
    if options.source is not None and (options.samples is not None or options.tokens is not None):
        raise UsageError("a dataset and --samples or --tokens were given", "give one of the two")
    size = find_size(options.model)
    max_length = options.max_length
    if size.context is not None and size.context < max_length:
        log.info("samples are cut to the %d tokens that `%s` can take", size.context, size.name)
        max_length = size.context
    sets, validation_samples = options.validation_sets, options.validation_samples
    if options.source is None:
        assert options.samples is not None
        assert options.tokens is not None
        lengths = Lengths.same(options.samples, min(options.tokens, max_length))
    elif Path(options.source).is_file():
        lengths = read_file_lengths(
            options.source, max_length=max_length, characters_per_token=options.characters_per_token
        )
    else:
        lengths = read_lengths(
            options.store_file,
            options.source,
            model=size.name,
            max_length=max_length,
            characters_per_token=options.characters_per_token,
        )
        with Store(options.store_file, read_only=True) as opened:
            # a set that came with scores computed elsewhere has no samples here
            known = [one for one in opened.rows("store/list_validation_sets") if one["dataset_id"] is not None]
        if known:
            sets = sets or len(known)
            if validation_samples is None:
                validation_samples = sum(one["n_samples"] or 0 for one in known)
    if validation_samples is None:
        validation_samples = VALIDATION_SAMPLES
    encoder = None if options.rater is None else find_size(options.rater)
    questions = None if options.questions is None else Lengths.same(options.questions, options.question_tokens)
    return account(
        Plan(
            size=size,
            lengths=lengths,
            # a validation sample is taken to be as long as a training sample
            validation=Lengths.same(validation_samples, lengths.mean),
            sets=sets or 1,
            ratios=tuple(Ratio.parse(one) for one in options.ratio),
            epochs=options.epochs,
            params=options.params,
            rank=options.lora_rank,
            method=options.method,
            checkpointing=options.gradient_checkpointing,
            difficulty=encoder or BIOMEDBERT,
            rater=encoder or MODERNBERT,
            questions=questions,
        )
    )
