"""Stage: find out by training whether scores tell what helps, and whether selections beat random ones of their size."""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from diq.base.errors import UsageError
from diq.base.fingerprint import canonical_json, run_fingerprint
from diq.base.options import verb
from diq.base.text import amount
from diq.models.device import describe_environment, pick_device
from diq.models.source import ModelSource, find_model
from diq.models.tokens import load_tokenization
from diq.scoring.job import read_dataset
from diq.store.connection import WAIT_S
from diq.store.store import Store
from diq.training.data import read_validation_sets
from diq.training.settings import make_settings
from diq.trials.kept import Validation
from diq.trials.options import ValidateOptions
from diq.trials.outcome import datamodelling, race
from diq.trials.trial import Bench, Outcome
from diq.trials.work import BEFORE, Key, Work, read_work


@verb(ValidateOptions)
def validate(options: ValidateOptions) -> Validation:
    """Train on random subsets and on selections, and tell what the scores and strategies are worth on this data.

    The same call goes on where it stopped; trainings that were made are found by what was trained on.

    Raises:
        UsageError: unknown names, a validation set that is too small to hold out half, or nothing to do.
        MissingScoresError: the dataset has no scores of the model.
    """
    started = time.monotonic()
    if not options.seeds and not options.subsets:
        raise UsageError("no seed and no subset leave nothing to train", "give --seeds or --subsets")
    data = read_dataset(options.store_file, options.dataset)
    scored_by = find_model(options.model, name=options.model_name)
    trained = scored_by if options.proxy is None else find_model(options.proxy)
    work = read_work(options, data, scored_by.name)
    bench = _bench(options, work, trained)
    if work.entrants and not work.held_out:
        _check_halves(bench)
    plan = list(work.plan())
    limit, n_new = _Budget(options, started), 0
    found: dict[Key, Outcome] = {}
    for number, (key, rows, seed) in enumerate(plan):
        outcome = bench.find(rows, seed)
        # what is known before any training is no training
        if outcome is None and (key == BEFORE or limit.allows(n_new)):
            with _told_once(n_new):
                outcome = bench.run(rows, seed)
            n_new += key != BEFORE
        if outcome is not None:
            found[key] = outcome
        if options.progress:
            options.progress("trainings", number + 1, len(plan))
    n_left = len(plan) - len(found)
    # a smaller call loses nothing of a larger one
    for more in work.beyond():
        for key, rows, seed in more:
            if (outcome := bench.find(rows, seed)) is None:
                break
            found[key] = outcome
    result: dict[str, Any] = {
        "dataset": options.dataset,
        "model": scored_by.name,
        "trained": trained.name,
        "scores": datamodelling(work, found),
        "race": race(work, found),
        "left_out": work.left_out,
        "n_subsets": sum(key.kind == "subset" for key in found),
        "subset_size": work.subset_size,
        "n_trainings": len(found) - 1,
        "n_left": n_left,
        "seconds": sum(one.seconds for one in found.values()),
        "tokens": sum(one.tokens for one in found.values()),
    }
    return Validation(
        run_id=_record(options, bench, scored_by.model_id, result),
        n_new=n_new,
        **result,
    )


@contextlib.contextmanager
def _told_once(n_before: int) -> Iterator[None]:
    """What every training says of itself is said by the first."""
    logger = logging.getLogger("diq")
    level = logger.level
    if n_before:
        logger.setLevel(max(level, logging.WARNING))
    try:
        yield
    finally:
        logger.setLevel(level)


@dataclass(frozen=True, slots=True)
class _Budget:
    """How long trainings may be started."""

    options: ValidateOptions
    started: float

    def allows(self, new: int) -> bool:
        minutes, runs = self.options.minutes, self.options.runs
        return (runs is None or new < runs) and (minutes is None or time.monotonic() - self.started < 60 * minutes)


def _bench(options: ValidateOptions, work: Work, trained: ModelSource) -> Bench:
    template, kwargs = options.template or "auto", tuple(options.chat_template_kwargs)
    tokenization = load_tokenization(
        trained, max_length=options.max_length, template=template, template_kwargs=kwargs, turns=options.turns
    )
    settings = make_settings(
        method="sft",
        params=options.params,
        starts=False,
        lora={"lora_rank": None, "lora_alpha": None, "lora_dropout": None},
        quantization=None,
        beta=0.1,
        epochs=options.epochs,
        learning_rate=options.learning_rate,
        packing=False,
        scheduler="cosine",
        warmup_ratio=0.03,
        weight_decay=0.0,
        batch_size=options.batch_size,
        max_length=options.max_length,
    ) | {"dtype": options.dtype}
    return Bench(
        store=options.store_file,
        data=work.data,
        position=work.position,
        ids=work.ids,
        source=trained,
        settings=settings,
        tokenization=tokenization,
        template=template,
        template_kwargs=kwargs,
        turns=options.turns,
        validation=read_validation_sets(options.store_file, work.measured),
        device=options.device,
        progress=options.progress,
    )


def _check_halves(bench: Bench) -> None:
    """Refuse validation sets of which no half can be held out."""
    for name, conversations in bench.validation.items():
        if len(conversations) < 2:
            raise UsageError(
                f"the validation set `{name}` has {amount(len(conversations), 'sample')}, too few to hold half out",
                "give a set that no score has seen with --held-out, or ingest more validation samples",
            )


def _record(options: ValidateOptions, bench: Bench, model_id: str, result: Mapping[str, Any]) -> int:
    """Keep the outcome; the same question is the same run, and its latest outcome counts."""
    asked = {name: getattr(options, name) for name in _QUESTION}
    settings = {
        **bench.settings,
        **{name: [str(each) for each in one] if isinstance(one, list | tuple) else one for name, one in asked.items()},
        # a call without one of the two answers another question than one with both
        "measures": [name for name in ("seeds", "subsets") if getattr(options, name)],
        "dataset": bench.data["name"],
        "trained": bench.source.model_id,
    }
    with Store(options.store_file, wait_s=WAIT_S) as opened, opened.transaction():
        run_id = opened.open_run(
            kind="validate",
            method="trials",
            model_id=model_id,
            fingerprint=run_fingerprint("validate", "trials", model_id, settings),
            settings=settings,
            environment=describe_environment(pick_device(options.device)),
        )
        opened.run("store/update_run_result", run_id=run_id, result=canonical_json(_without_nan(result)))
    return run_id


# options that make another question
_QUESTION = (
    "strategy", "selection", "ratio", "held_out", "influence", "run", "difficulty", "difficulty_percentile",
    "difficulty_run", "subset_size", "seed", "template", "chat_template_kwargs", "turns",
)  # fmt: skip


def _without_nan(value: Any) -> Any:
    """A result as JSON can hold it: null for what is not a number."""
    if isinstance(value, dict):
        return {name: _without_nan(one) for name, one in value.items()}
    if isinstance(value, list | tuple):
        return [_without_nan(one) for one in value]
    return None if isinstance(value, float) and not np.isfinite(value) else value
