"""Score only what a selection can reach: the hard samples, and of the others so many as bound the median of all dots.

A selection of Algorithm 1 that fits into Q1 takes hard samples alone; of the others it needs nothing but the side of
the median on which its last dot lies. So the scoring goes in rounds: all hard samples and a random few of the others,
then twice as many of the others, until the certificate holds (``certificate.py``). The run is the run of all dots, left
open: the same command with a larger ratio, or without one, goes on with it.
"""

from __future__ import annotations

import json
import logging
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from diq import _core
from diq.base.arrow import by_position, numbers
from diq.base.errors import UsageError
from diq.base.text import Ratio, amount
from diq.influence.certificate import Certificate, Columns, Floats, Mask, parts
from diq.influence.stored import all_weights, divided, read_certificate, read_influence
from diq.scoring.commands import difficulty_command
from diq.scoring.harness import Choice
from diq.scoring.job import Samples, ScoreJob, read_samples
from diq.scoring.summary import ScoreSummary
from diq.store.connection import WAIT_S
from diq.store.runs import difficulty_candidates, one_run
from diq.store.store import Store

if TYPE_CHECKING:
    from typing_extensions import Self

log = logging.getLogger(__name__)

# of the others, at first: enough where the last dot of a selection is far from the median
_FIRST_DRAWN = 256


@dataclass(frozen=True, slots=True)
class Aim:
    """The selection that is to be made.

    Attributes:
        ratio: of the samples with both scores.
        difficulty: dimension.
        percentile: p of the difficulty threshold.
        threshold: an absolute one in its place.
        difficulty_run: number of the run of the difficulty; None takes the only one.
        norms: whether it shall also hold for dots over gradient norms.
    """

    ratio: Ratio
    difficulty: str
    percentile: float
    threshold: float | None
    difficulty_run: int | None
    norms: bool

    def tau(self, level: Floats) -> float:
        """The threshold over the difficulty of all samples that count."""
        return _core.quantile(level, self.percentile) if self.threshold is None else self.threshold


class ForRatio(Choice):
    """The samples that a selection needs dots of.

    Args:
        job: the scoring of dots.
        aim: what is to be selected.
        difficulty_run: run of the difficulty.
        level: ``[n]`` difficulty of the samples of the dataset; NaN where it is missing.
    """

    def __init__(self, job: ScoreJob, aim: Aim, difficulty_run: int, level: Floats) -> None:
        self._job, self._aim = job, aim
        self._difficulty_run, self._level = difficulty_run, level
        self._state: Certificate | None = None
        # at the random sample so far, whatever they were for
        self._looks = 0

    @classmethod
    def of(cls, job: ScoreJob, aim: Aim, *more: Any) -> Self:
        """With the difficulty that is in the store, and what a kind of it takes more.

        Raises:
            MissingScoresError: the dataset has no finished difficulty, or that of several runs.
        """
        data, dataset_id = job.data, job.data["dataset_id"]
        with Store(job.store, read_only=True, wait_s=WAIT_S) as opened:
            run_id = one_run(
                opened,
                difficulty_candidates(opened, dataset_id, aim.difficulty_run),
                aim.difficulty_run,
                "difficulty scores",
                dict(data),
                difficulty_command(data["name"]),
                "--difficulty-run",
                aim.difficulty,
            )
            found = opened.arrow(
                "store/levels_of_dataset", dataset_id=dataset_id, difficulty=aim.difficulty, difficulty_run=run_id
            )
            position = numbers(opened.arrow("store/positions_of_dataset", dataset_id=dataset_id).column("position"))
        return cls(job, aim, run_id, by_position(position, found, "level"), *more)

    # what is enough --------------------------------------------------------------------------------------------------

    def settled(self, job: ScoreJob) -> ScoreSummary | None:
        """See ``Choice``."""
        with Store(job.store, read_only=True, wait_s=WAIT_S) as opened:
            run = opened.row("store/get_run_by_fingerprint", fingerprint=job.fingerprint)
            kept = None if run is None else read_certificate(opened, run["run_id"], job.data["dataset_id"])
            if kept is not None and self._is_same(kept):
                self._looks = kept.looks
            if run is None or kept is None or not self._continues(kept):
                return None
            self._state = kept
            samples = read_samples(opened, job, run["run_id"])
        found = self._columns(run["run_id"], samples.positions, samples.missing)
        if not all(self._supports(one, kept) for one in found):
            return None
        n_cached = int(np.count_nonzero(~samples.missing))
        summary = ScoreSummary(run["run_id"], job.data["name"], len(samples.missing), n_cached=n_cached)
        self.tell(summary)
        return summary

    def _continues(self, kept: Certificate) -> bool:
        """Whether the samples that were scored were chosen for such a selection."""
        # a cascade took some of the hard ones alone
        return self._is_same(kept) and kept.cheap_run is None

    def _is_same(self, kept: Certificate) -> bool:
        """Whether a certificate is of the same samples with the same difficulty."""
        mine = (self._job.data["n_samples"], self._difficulty_run, self._aim.difficulty)
        return mine == (kept.n_samples, kept.difficulty_run, kept.difficulty)

    def _supports(self, columns: Columns, kept: Certificate) -> bool:
        level = columns.level[columns.counted]
        if not len(level) or (tau := self._aim.tau(level)) < kept.tau:
            return False
        known, drawn, hard = parts(columns, kept, tau)
        if (columns.missing & (known | drawn)).any():
            return False
        evidence = columns.evidence(hard, known, drawn, kept.looks)
        return evidence.supports(self._aim.ratio.of(evidence.n))

    # rounds ----------------------------------------------------------------------------------------------------------

    def next(self, run_id: int, samples: Samples, usable: Mask) -> Mask | None:
        """See ``Choice``."""
        if not samples.missing.any():
            return None
        by_dot, *by_cosine = self._columns(run_id, samples.positions, samples.missing)
        counted = by_dot.counted
        n, count = self._count(by_dot)
        tau = self._aim.tau(self._level[counted])
        kept = self._begun(tau, n)
        known, drawn, hard = parts(by_dot, kept, tau)
        self._state = kept
        if (samples.missing & (known | drawn)).any():
            return known | drawn
        # from here on these dots are all there
        others = counted & ~known
        n_hard, n_failed = (int(np.count_nonzero(one)) for one in (hard, self._failed(by_dot, usable, kept.tau)))
        why = None
        if count > n_hard:
            why = f"no more than {amount(n_hard, 'sample')} reach the difficulty {tau:g}"
        elif n_failed:
            why = f"{amount(n_failed, 'sample')} without a finite dot: how many others are so is open"
        else:
            self._state = kept = replace(kept, looks=kept.looks + 1)
            found = [one.evidence(hard, known, drawn, kept.looks) for one in (by_dot, *by_cosine)]
            supports = min(one.largest() for one in found)
            self._keep(run_id, replace(kept, supports=supports))
            if supports >= count:
                return None
            if any(one.refutes(count) for one in found) or kept.drawn >= int(np.count_nonzero(others)):
                why = f"the median of the dots is above the last of {amount(count, 'hard sample')}: Q1 is smaller"
        if why is None:
            self._state = kept = replace(kept, drawn=2 * kept.drawn)
            self._keep(run_id, kept)
            return known | by_dot.drawn(others, kept.drawn)
        return self._all(usable, why)

    def _all(self, usable: Mask, why: str) -> Mask:
        """All that can be scored, and a word why."""
        log.warning("a ratio of %s needs the dots of all samples: %s", self._aim.ratio.text, why)
        return usable

    def _count(self, columns: Columns) -> tuple[int, int]:
        """N, and the size of the selection.

        Raises:
            UsageError: the ratio selects nothing.
        """
        n = int(np.count_nonzero(columns.counted))
        count = self._aim.ratio.of(n)
        if count == 0:
            raise UsageError(
                f"a ratio of {self._aim.ratio.text} of {amount(n, 'sample')} with a difficulty selects none",
                f"give at least {1 / n:.3g}" if n else "score the difficulty first",
            )
        return n, count

    def _failed(self, columns: Columns, usable: Mask, tau: float) -> Mask:
        """Samples below a threshold that could be scored, were, and have no finite dot."""
        return usable & ~columns.missing & (self._level < tau) & np.isnan(columns.dot)

    def _columns(self, run_id: int, position: Any, missing: Mask) -> list[Columns]:
        """Dots, and cosines where they count, with the validation sets of the scoring."""
        with Store(self._job.store, read_only=True, wait_s=WAIT_S) as opened:
            sets = opened.rows("store/validation_sets_of_run", run_id=run_id)
            asked = [one for one in sets if one["validation_set_id"] in self._job.set_ids]
            read = read_influence(
                opened,
                dataset_id=self._job.data["dataset_id"],
                run_id=run_id,
                weights=all_weights(asked),
                norms=self._aim.norms,
            )
        found = [Columns(position, self._level, read.dot, missing)]
        if read.norm is not None:
            found.append(Columns(position, self._level, divided(read.dot, read.norm), missing))
        return found

    def _begun(self, tau: float, n: int) -> Certificate:
        """Where an earlier call stopped, which may have taken easier samples too; or the beginning."""
        kept = self._state
        drawn, looks, least = _FIRST_DRAWN, self._looks, tau
        if kept is not None:
            drawn, looks, least = kept.drawn, kept.looks, min(kept.tau, tau)
        return Certificate(
            int(self._job.data["n_samples"]), self._difficulty_run, self._aim.difficulty, least, drawn, looks, n, 0
        )

    def _keep(self, run_id: int, certificate: Certificate) -> None:
        self._state = certificate
        with Store(self._job.store, wait_s=WAIT_S) as opened:
            opened.run(
                "influence/update_certificate",
                run_id=run_id,
                dataset_id=self._job.data["dataset_id"],
                certificate=json.dumps(asdict(certificate)),
            )

    # what came out ---------------------------------------------------------------------------------------------------

    def tell(self, summary: ScoreSummary) -> None:
        """See ``Choice``."""
        assert self._state is not None
        summary.details["partial"] = self._told(self._state)

    def _told(self, kept: Certificate) -> dict[str, object]:
        return {
            "of": kept.n,
            "difficulty at least": f"{kept.tau:g}",
            "others drawn": min(kept.drawn, kept.n),
            "selects up to": kept.supports,
            "a ratio of": f"{np.floor(1e4 * kept.supports / kept.n) / 1e4:g}",
        }
