"""What a part of the dots lets be selected: numbers alone, no store and no model.

A selection of Algorithm 1 (arXiv 2508.01450) that fits into Q1 is the hard samples with the largest dots, as long as
the last of them is not below the median of all dots. So the dots of the hard samples decide it, but for the median; and
that a dot is not below the median says that more than half of all dots are at most as large. How many of the unscored
are so is bounded by those of a random sample of them, exactly (hypergeometric), with no assumption about the dots.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from diq.base.draws import numbers_of_positions

Floats = npt.NDArray[np.float64]
Mask = npt.NDArray[np.bool_]

CONFIDENCE = 0.999
"""Confidence of a certificate, over all looks at a growing sample together."""


# of the random sample
_SEED = 0


@dataclass(frozen=True, slots=True)
class Recall:
    """Which share of the selection by all dots is among those that are known: an estimate, and its 95 % interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Certificate:
    """How the part of a dataset that has dots was chosen; kept with the run (``run_datasets.certificate``).

    Attributes:
        n_samples: of the dataset, when it was made.
        difficulty_run: whose difficulty tells the hard samples.
        difficulty: its dimension.
        tau: samples of at least this difficulty all have dots.
        drawn: how many of the others were drawn at random.
        looks: how often that sample was looked at.
        n: N, the samples with both scores.
        supports: the largest selection that it lets be made, with all validation sets of the scoring.
        cheap_run: of a cascade, the run whose score ordered the hard samples; else None.
        taken: of a cascade, how many of them have dots, from the top of that order.
        recall: of a cascade, what is found of the selection that it supports.
    """

    n_samples: int
    difficulty_run: int
    difficulty: str
    tau: float
    drawn: int
    looks: int
    n: int
    supports: int
    cheap_run: int | None = None
    taken: int = 0
    recall: Recall | None = None

    @classmethod
    def of(cls, stored: Mapping[str, Any]) -> Certificate:
        """From what the store holds."""
        recall = stored["recall"]
        return cls(**{**stored, "recall": Recall(**recall) if recall else None})


@dataclass(frozen=True, slots=True)
class Columns:
    """The samples of a dataset in their order, some without a dot as yet.

    Attributes:
        position: ``[n]``.
        level: ``[n]`` difficulty; NaN where it is missing.
        dot: ``[n]`` dots, or cosines; NaN where it is missing.
        missing: ``[n]`` which have no dot as yet, and can have one.
    """

    position: npt.NDArray[np.int64]
    level: Floats
    dot: Floats
    missing: Mask

    @property
    def counted(self) -> Mask:
        """``[n]`` samples of N: they have a difficulty, and have or will have a dot."""
        return np.isfinite(self.level) & (self.missing | np.isfinite(self.dot))

    def of(self, kept: Mask) -> Columns:
        """Some of the samples."""
        return Columns(self.position[kept], self.level[kept], self.dot[kept], self.missing[kept])

    def drawn(self, others: Mask, count: int) -> Mask:
        """``[n]`` the first of some samples in an order that is random, and the same for any set of them."""
        rows = np.flatnonzero(others)
        numbers = numbers_of_positions(self.position[rows], _SEED)
        chosen = np.zeros(len(others), np.bool_)
        chosen[rows[np.argsort(numbers, kind="stable")[:count]]] = True
        return chosen

    def evidence(self, hard: Mask, known: Mask, drawn: Mask, looks: int) -> Evidence:
        """What the dots tell, where no dot of these is missing."""
        return Evidence(
            hard=np.sort(self.dot[hard])[::-1],
            known=np.sort(self.dot[known]),
            drawn=np.sort(self.dot[drawn]),
            n_others=int(np.count_nonzero(self.counted & ~known)),
            looks=looks,
        )


def parts(columns: Columns, kept: Certificate, tau: float) -> tuple[Mask, Mask, Mask]:
    """``[n]`` each: the samples that are known as a whole, those that were drawn of the others, and the hard ones."""
    known = columns.counted & (columns.level >= kept.tau)
    drawn = columns.drawn(columns.counted & ~known, kept.drawn)
    return known, drawn, known & (columns.level >= tau)


@dataclass(frozen=True, slots=True)
class Evidence:
    """What is known of the dots of a dataset.

    Attributes:
        hard: ``[h]`` dots of the hard samples that are known, descending; the first of them make a selection.
        known: ``[k]`` dots that are known whatever they are, ascending; they may be among ``hard``.
        drawn: ``[d]`` dots of a random sample of the others, ascending.
        n_others: how many others there are, those that were drawn included.
        looks: how often this sample was looked at, growing, this time included.
    """

    hard: Floats
    known: Floats
    drawn: Floats
    n_others: int
    looks: int

    @property
    def n(self) -> int:
        """N, the samples with both scores."""
        return len(self.known) + self.n_others

    def supports(self, count: int) -> bool:
        """Whether the first ``count`` hard samples are a selection, all of them in Q1, with the confidence."""
        if count > len(self.hard):
            return False
        # a dot is not below the median where more than half of all are at most as large
        return self._more_than_half(*self._up_to(count))

    def refutes(self, count: int) -> bool:
        """Whether the last of the first ``count`` hard samples is below the median, with the confidence."""
        if count > len(self.hard):
            return True
        known, drawn = self._up_to(count)
        return self._more_than_half(len(self.known) - known, len(self.drawn) - drawn)

    def _up_to(self, count: int) -> tuple[int, int]:
        """How many of the known and of the drawn dots are at most that of the last of ``count`` hard samples."""
        last = self.hard[count - 1]
        return int(np.searchsorted(self.known, last, side="right")), int(
            np.searchsorted(self.drawn, last, side="right")
        )

    def _more_than_half(self, known: int, drawn: int) -> bool:
        """Whether more than half of all samples are such that so many of the known and of the drawn ones are."""
        needed = self.n // 2 + 1 - known
        if needed <= 0 or len(self.drawn) == self.n_others:
            return drawn >= needed
        if needed > self.n_others:
            return False
        # the error that is allowed is shared out among all looks: 1/2 + 1/6 + 1/12 + ... = 1
        allowed = (1 - CONFIDENCE) / (self.looks * (self.looks + 1))
        return chance_of(drawn, population=self.n_others, marked=needed - 1, draws=len(self.drawn)) <= allowed

    def largest(self) -> int:
        """The largest count that is supported; 0 where none is.

        Fewer hard samples end with a larger dot, which only more dots are below: whatever is smaller is supported too,
        and by the same event, so that one confidence holds for all of them.
        """
        fits, fails = 0, len(self.hard) + 1
        while fails - fits > 1:
            middle = (fits + fails) // 2
            if self.supports(middle):
                fits = middle
            else:
                fails = middle
        return fits


def chance_of(seen: int, *, population: int, marked: int, draws: int) -> float:
    """The chance that ``draws`` without replacement from a population hold ``seen`` marked ones or more.

    The upper tail of the hypergeometric distribution, summed from its largest terms on.
    """
    low, high = max(0, draws - (population - marked)), min(draws, marked)
    if seen <= low:
        return 1.0
    if seen > high:
        return 0.0
    if seen <= draws * marked / population:
        # the other tail is the smaller one: fewer marked ones are more of the others
        others = chance_of(draws - seen + 1, population=population, marked=population - marked, draws=draws)
        return 1.0 - others
    first = math.exp(_ways(marked, seen) + _ways(population - marked, draws - seen) - _ways(population, draws))
    at = np.arange(seen, high, dtype=np.float64)
    # each term from the one before it
    ratios = (marked - at) * (draws - at) / ((at + 1) * (population - marked - draws + at + 1))
    return min(1.0, first * (1.0 + float(np.cumprod(ratios).sum())))


def _ways(n: int, k: int) -> float:
    """Logarithm of n over k."""
    return math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1)
