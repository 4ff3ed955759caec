"""Score the likeliest samples first: a cheap score orders the hard samples, and a random audit tells when to stop.

Exact dots are taken from the top of the cheap order on, and of a random sample of all others. That sample says how
many of the best hard samples are still among the others, and so what share of the selection by all dots is found: its
recall. The selection is then the best of what was scored; it is no longer certain, and its recall is said with an
interval.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np

from diq.base.errors import MissingScoresError, UsageError
from diq.base.text import amount
from diq.influence.certificate import Certificate, Columns, Floats, Mask, Recall
from diq.influence.partial import Aim, ForRatio
from diq.influence.stored import read_influence, read_similarity
from diq.scoring.job import Samples, ScoreJob
from diq.store.connection import WAIT_S
from diq.store.store import Store, listed_runs

# the audit sample: of what is missed, a hundredth of the selection shows in it where a selection is a tenth
_AUDIT, _LEAST_AUDIT = 2048, 128
_GROWTH = 1.3


@dataclass(frozen=True, slots=True)
class Cheap:
    """A score that orders samples before their dots are known.

    Attributes:
        run_id: its run.
        score: ``[n]``, higher first; NaN comes last.
    """

    run_id: int
    score: Floats


def read_cheap(job: ScoreJob, run_id: int) -> Cheap:
    """The score of a run: influence of any method, a rater's predictions, similarities.

    Raises:
        UsageError: the run is the one that is to be scored, or holds no score of the dataset that orders samples.
        MissingScoresError: it is not finished.
    """
    ids = {"dataset_id": job.data["dataset_id"], "run_id": run_id}
    with Store(job.store, read_only=True, wait_s=WAIT_S) as opened:
        there = [
            one
            for kind in ("influence", "similarity")
            for one in opened.rows("store/candidate_runs", kind=kind, dataset_id=ids["dataset_id"], model=None)
        ]
        found = next((one for one in there if one["run_id"] == run_id), None)
        mine = opened.row("store/get_run_by_fingerprint", fingerprint=job.fingerprint)
        if found is None or (mine is not None and mine["run_id"] == run_id):
            others = [one for one in there if mine is None or one["run_id"] != mine["run_id"]]
            raise UsageError(
                f"run {run_id} is no cheap score of dataset `{job.data['name']}`",
                f"name another with --cascade: {listed_runs(others)}"
                if others
                else "score a rater or a similarity first",
            )
        if found["state"] != "sealed":
            raise MissingScoresError(f"run {run_id} is not finished", "score the rest of it first")
        run = opened.row("store/get_run", run_id=run_id)
        if run is not None and run["kind"] == "similarity":
            return Cheap(run_id, read_similarity(opened, **ids))
        return Cheap(run_id, read_influence(opened, **ids).dot)


def estimate_recall(top: Floats, drawn: Floats, *, n_drawn: int, n_others: int, count: int) -> Recall:
    """The share of the best ``count`` hard samples by all dots that is known, with a 95 % interval.

    A sample that was drawn stands for ``n_others / n_drawn``. The dot above which the weights make ``count`` is that of
    the true last; what lies above it and was not drawn is missed. The interval is Clopper and Pearson's of the share of
    the others that lie above it.

    Args:
        top: ``[t]`` dots that were scored from the top of the cheap order.
        drawn: ``[d]`` dots of those hard samples that were drawn at random from the others.
        n_drawn: how many were drawn, hard or not.
        n_others: how many others there are.
        count: size of the selection.
    """
    from scipy.stats import beta

    weight = n_others / n_drawn if n_drawn else 0.0
    dots = np.concatenate([top, drawn])
    weights = np.concatenate([np.ones(len(top)), np.full(len(drawn), weight)])
    order = np.argsort(-dots, kind="stable")
    above = np.cumsum(weights[order])
    last = int(np.searchsorted(above, count))
    if last >= len(order):
        return Recall(0.0, 0.0, 0.0)
    n_top = int(np.count_nonzero(order[: last + 1] < len(top)))
    seen = last + 1 - n_top
    low = float(beta.ppf(0.025, seen, n_drawn - seen + 1)) if seen else 0.0
    high = float(beta.ppf(0.975, seen + 1, n_drawn - seen)) if seen < n_drawn else 1.0

    def recall(share: float) -> float:
        return (n_top + seen) / (n_top + max(float(seen), share * n_others))

    return Recall(recall(seen / n_drawn if n_drawn else 1.0), recall(high), recall(low))


class Cascade(ForRatio):
    """The samples of a cascade.

    Args:
        job: the scoring of dots.
        aim: what is to be selected.
        difficulty_run: run of the difficulty.
        level: ``[n]`` difficulty of the samples of the dataset.
        cheap: what orders the hard ones.
        recall: share of the selection by all dots that shall be found.
    """

    def __init__(
        self, job: ScoreJob, aim: Aim, difficulty_run: int, level: Floats, cheap: Cheap, recall: float
    ) -> None:
        super().__init__(job, aim, difficulty_run, level)
        self._cheap, self._recall = cheap, recall

    def _continues(self, kept: Certificate) -> bool:
        return self._is_same(kept) and kept.cheap_run in (None, self._cheap.run_id)

    def _supports(self, columns: Columns, kept: Certificate) -> bool:
        """Whether an earlier cascade found enough of such a selection, or a certificate knows all of it."""
        if kept.cheap_run is None:
            return super()._supports(columns, kept)
        level = columns.level[columns.counted]
        if kept.recall is None or not len(level) or self._aim.tau(level) != kept.tau:
            return False
        n = int(np.count_nonzero(columns.counted))
        return kept.recall.value >= self._recall and self._aim.ratio.of(n) == kept.supports

    def next(self, run_id: int, samples: Samples, usable: Mask) -> Mask | None:
        """See ``Choice``."""
        if not samples.missing.any():
            return None
        columns, *_ = self._columns(run_id, samples.positions, samples.missing)
        n, count = self._count(columns)
        tau = self._aim.tau(self._level[columns.counted])
        hard = columns.counted & (self._level >= tau)
        n_hard = int(np.count_nonzero(hard))
        if count > n_hard:
            return self._all(usable, f"no more than {amount(n_hard, 'sample')} reach the difficulty {tau:g}")
        kept = self._state
        if kept is None or kept.tau != tau or kept.cheap_run is None:
            kept = self._begun(tau, n)
            # of few samples not all: they would be scored whatever the cheap score says
            audit = min(_AUDIT, max(n // 8, _LEAST_AUDIT))
            kept = replace(kept, tau=tau, drawn=audit, cheap_run=self._cheap.run_id, taken=count)
        self._state = kept = replace(kept, taken=min(max(kept.taken, count), n_hard))
        top = self._first(hard, kept.taken)
        others = columns.counted & ~top
        drawn = columns.drawn(others, kept.drawn)
        if (samples.missing & (top | drawn)).any():
            return top | drawn
        n_failed = int(np.count_nonzero(self._failed(columns, usable, math.inf)))
        if n_failed:
            return self._all(
                usable, f"{amount(n_failed, 'sample')} without a finite dot: how many others are so is open"
            )
        known = hard & (top | drawn)
        found = estimate_recall(
            np.sort(columns.dot[top])[::-1],
            np.sort(columns.dot[known & ~top])[::-1],
            n_drawn=int(np.count_nonzero(drawn)),
            n_others=int(np.count_nonzero(others)),
            count=count,
        )
        kept = replace(kept, looks=kept.looks + 1, recall=found)
        evidence = columns.evidence(known, top, drawn, kept.looks)
        if found.value >= self._recall or kept.taken == n_hard:
            if evidence.supports(count):
                self._keep(run_id, replace(kept, supports=count))
                return None
            if evidence.refutes(count) or kept.drawn >= int(np.count_nonzero(others)):
                why = f"the median of the dots is above the last of {amount(count, 'hard sample')}"
                return self._all(usable, why)
            kept = replace(kept, drawn=2 * kept.drawn)
        else:
            kept = replace(kept, taken=min(n_hard, math.ceil(kept.taken * _GROWTH)))
        self._keep(run_id, kept)
        top = self._first(hard, kept.taken)
        return top | columns.drawn(columns.counted & ~top, kept.drawn)

    def _first(self, hard: Mask, count: int) -> Mask:
        """The hard samples that the cheap score puts first."""
        rows = np.flatnonzero(hard)
        score = np.where(np.isfinite(self._cheap.score[rows]), self._cheap.score[rows], -np.inf)
        chosen = np.zeros(len(hard), np.bool_)
        chosen[rows[np.argsort(-score, kind="stable")[:count]]] = True
        return chosen

    def _told(self, kept: Certificate) -> dict[str, object]:
        if kept.recall is None:
            return super()._told(kept)
        return {
            "of": kept.n,
            "from the top of run": kept.cheap_run,
            "taken": kept.taken,
            "others drawn": min(kept.drawn, kept.n),
            "selects": kept.supports,
            "recall": f"{kept.recall.value:.3f} ({kept.recall.low:.3f} to {kept.recall.high:.3f})",
        }
