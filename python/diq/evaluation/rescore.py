"""Marking again what is kept, by today's rules: without the models, and without the benchmarks' files."""

from __future__ import annotations

import logging
from dataclasses import dataclass

from diq.base.errors import UsageError
from diq.base.options import verb
from diq.base.summary import Summary
from diq.base.text import amount
from diq.evaluation import generations
from diq.evaluation.answers import read_tags, scoring
from diq.evaluation.generations import Answers
from diq.evaluation.options import RescoreOptions
from diq.store.connection import WAIT_S
from diq.store.store import Store

log = logging.getLogger(__name__)


@dataclass(frozen=True, repr=False, slots=True)
class Rescored(Summary):
    """What marking again found for the answers of a run to a benchmark, once over.

    Attributes:
        run_id: the run.
        model: what answered.
        backend: how it was asked.
        benchmark: the benchmark.
        questions: fingerprint of its questions.
        repeat: 0-based number of the repeat.
        n: questions.
        scoring: version of the rules, and the thinking tags that were added.
        accuracy: by today's rules.
        accuracy_strict: by today's strict rule.
        n_unanswered: outputs without an option.
        before: accuracy by the rules of each other version that is in the store.
    """

    run_id: int
    model: str
    backend: str
    benchmark: str
    questions: str
    repeat: int
    n: int
    scoring: str
    accuracy: float
    accuracy_strict: float
    n_unanswered: int
    before: dict[str, float]


@verb(RescoreOptions)
def rescore(options: RescoreOptions) -> list[Rescored]:
    """Mark all kept answers again by today's rules: without the models, and without the benchmarks' files.

    Rows of other versions of the rules stay in the table evaluations.

    Raises:
        UsageError: nothing is kept, or thinking tags of another form.
        StoreError: there is no store.
    """
    store, tags = options.store_file, read_tags(options.thinking_tags)
    with Store(store, wait_s=WAIT_S) as opened:
        sets = opened.rows("evaluation/list_generation_sets", run_id=options.run)
        others = dict.fromkeys(one["run_id"] for one in opened.rows("evaluation/list_generation_sets", run_id=None))
    if not sets:
        of = "" if options.run is None else f" of run {options.run}"
        hint = f"name another with --run: {', '.join(map(str, others))}" if others else "run `diq evaluate` first"
        raise UsageError(f"`{store}` has no answers{of} to mark", hint)
    found = []
    for number, one in enumerate(sets, start=1):
        which = Answers(one["run_id"], one["benchmark"], one["questions"], one["repeat"])
        kept = generations.read(store, which)
        if len(kept.answers) < one["n_questions"]:
            log.warning(
                "run %d, %s, repeat %d: %d of %s are there; it is not marked before the rest is generated",
                which.run_id, which.benchmark, which.repeat + 1, len(kept.answers),
                amount(one["n_questions"], "answer"),
            )  # fmt: skip
            continue
        numbers = generations.score((kept.answers[place] for place in sorted(kept.answers)), tags)
        generations.record(store, which, numbers, tags)
        generations.tell_unread(
            f"run {which.run_id}, {which.benchmark}, repeat {which.repeat + 1}", numbers["n_unanswered"], numbers["n"]
        )
        with Store(store, read_only=True, wait_s=WAIT_S) as opened:
            rows = opened.rows("evaluation/accuracies_by_scoring", **which.key())
        found.append(
            Rescored(
                **which.key(),
                model=one["model"] or one["model_id"],
                backend=one["backend"],
                n=numbers["n"],
                scoring=scoring(tags),
                accuracy=numbers["accuracy"],
                accuracy_strict=numbers["n_right_strict"] / numbers["n"],
                n_unanswered=numbers["n_unanswered"],
                before={row["scoring"]: row["accuracy"] for row in rows if row["scoring"] != scoring(tags)},
            )
        )
        if options.progress:
            options.progress("marking", number, len(sets))
    return found
