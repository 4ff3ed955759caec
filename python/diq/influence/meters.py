"""Meters of the dots of a run: how exact they are, what they lean on, and how much of a selection is chance.

Plain columns in, numbers out. A row without a finite value counts for nothing; a number that cannot be had (too few
rows, a constant column, no folds) is NaN or None, never 0. docs/method.md says what each meter means.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np
import numpy.typing as npt

from diq.base.summary import Summary
from diq.base.text import amount

Floats = npt.NDArray[np.float64]
Rows = npt.NDArray[np.int64]

RATIOS: Mapping[str, Fraction] = {text: Fraction(text) for text in ("0.01", "0.1", "0.5")}
"""The ratios that meters of a selection are given for."""


def order(values: Floats) -> Rows:
    """Rows of the finite values, largest first; ties by row, -0.0 equals 0.0.

    Args:
        values: ``[n]``.
    """
    finite = np.flatnonzero(np.isfinite(values))
    return finite[np.argsort(-values[finite], kind="stable")]


def average_ranks(values: Floats) -> Floats:
    """Rank of each value, 1 for the smallest; tied values share the mean of their ranks.

    Args:
        values: ``[n]``, finite.
    """
    rows = np.argsort(values, kind="stable")
    ascending = values[rows]
    # a run of ties from `first` to `last` (0-based, inclusive) has mean rank (first + last) / 2 + 1
    starts = np.flatnonzero(np.concatenate([[True], ascending[1:] != ascending[:-1]])) if len(values) else rows
    lengths = np.diff(np.append(starts, len(values)))
    ranks = np.empty(len(values))
    ranks[rows] = np.repeat(starts + (lengths + 1) / 2, lengths)
    return ranks


def pearson(x: Floats, y: Floats) -> float:
    """Pearson correlation of two columns over the rows where both are finite; NaN when there is none.

    Args:
        x: ``[n]``.
        y: ``[n]``.
    """
    both = np.isfinite(x) & np.isfinite(y)
    a, b = x[both], y[both]
    if len(a) < 2 or (a == a[0]).all() or (b == b[0]).all():
        return float("nan")
    # scaled first: squares of tiny or huge dots would leave the range of a float
    a, b = a / np.abs(a).max(), b / np.abs(b).max()
    a, b = a - a.mean(), b - b.mean()
    spread = float(np.sqrt(a @ a) * np.sqrt(b @ b))
    return min(1.0, max(-1.0, float(a @ b) / spread)) if spread else float("nan")


def spearman(x: Floats, y: Floats) -> float:
    """Spearman correlation of two columns over the rows where both are finite, ties with their mean rank.

    Args:
        x: ``[n]``.
        y: ``[n]``.
    """
    both = np.isfinite(x) & np.isfinite(y)
    return pearson(average_ranks(x[both]), average_ranks(y[both]))


def spearman_brown(correlation: float) -> float:
    """Correlation to expect between two measurements twice as long: ``2 r / (1 + r)``, 0 for r below 0.

    Args:
        correlation: r, between the two halves of one measurement.

    Source: Spearman (1910) and Brown (1910), "Some experimental results in the correlation of mental abilities".
    """
    return 0.0 if correlation < 0 else 2 * correlation / (1 + correlation)


def standard_errors(folds: Floats) -> Floats:
    """Standard error of the mean of each row: sample standard deviation over the folds / sqrt(K).

    Args:
        folds: ``[n, K]`` dots with each fold, K >= 2.

    Returns:
        ``[n]``; NaN where a fold is not finite.
    """
    n_folds = folds.shape[1]
    mean = folds.sum(axis=1) / n_folds
    with np.errstate(over="ignore", invalid="ignore"):
        variance = ((folds - mean[:, None]) ** 2).sum(axis=1) / (n_folds - 1)
    return np.asarray(np.sqrt(variance / n_folds), np.float64)


def flip_share(one: Rows, other: Rows) -> float:
    """Share of a selection that another selection does not hold: ``1 - |A and B| / n``.

    Args:
        one: distinct rows.
        other: distinct rows; where the two differ in length, n is the larger.

    Returns:
        0 (the same rows) to 1 (none in common); NaN when both are empty.
    """
    n = max(len(one), len(other))
    if n == 0:
        return float("nan")
    held = np.zeros(int(max(one.max(initial=0), other.max(initial=0))) + 1, bool)
    held[one] = True
    return 1 - int(np.count_nonzero(held[other])) / n


@dataclass(frozen=True, slots=True)
class Dots:
    """The dots of a run on a dataset, pooled over its validation sets; NaN where a sample has none.

    Attributes:
        dot: ``[n]``, one row a sample of the dataset, in the order of its positions.
        answer_tokens: ``[n]``.
        standard_error: ``[n]`` of ``dot``; None where the folds do not give one.
        halves: ``[n]`` dots with the even folds, and with the odd folds, of the validation sets; None without folds.
        half_sizes: validation samples of the two halves.
        tasks: names of the validation sets.
        closest: ``[n]`` index in ``tasks`` of the task that the sample is closest to, -1 without a dot.
        n_missing: samples that have no row in the store for some set: not scored yet.
    """

    dot: Floats
    answer_tokens: Floats
    standard_error: Floats | None
    halves: tuple[Floats, Floats] | None
    half_sizes: tuple[int, int]
    tasks: Sequence[str]
    closest: npt.NDArray[np.int16]
    n_missing: int


@dataclass(frozen=True, slots=True, repr=False)
class Meters(Summary):
    """What the dots of a run on a dataset are worth. NaN: the number cannot be had.

    Attributes:
        n_samples: samples of the dataset.
        n: samples with a finite dot for every validation set.
        n_without_dot: samples whose rows are in the store, but not with a finite dot (the store has the reasons).
        n_unscored: samples that lack a row for some validation set.
        standard_deviation: of the dots.
        standard_error: root mean square of the standard errors, unbiased at any number of folds; their median is a
            third too small with two.
        standard_error_share: that over ``standard_deviation``: how much of the spread of the dots is noise.
        length_pearson: correlation of the dot with the number of answer tokens.
        length_spearman: likewise, of their ranks.
        half_sizes: validation samples of the even and of the odd folds; None without folds.
        half_spearman: rank correlation of the dots with the two halves; NaN where a sample with a dot lacks them.
        full_spearman: rank correlation to expect between two validation sets of the full size (Spearman-Brown).
        flips: ratio to the share of the highest dots with one half that are not among the highest with the other.
        task_shares: ratio (``1``: every sample) to the share of the highest dots that each task is closest to; None
            with a single task.
    """

    n_samples: int
    n: int
    n_without_dot: int
    n_unscored: int
    standard_deviation: float
    standard_error: float
    standard_error_share: float
    length_pearson: float
    length_spearman: float
    half_sizes: tuple[int, int] | None
    half_spearman: float
    full_spearman: float
    flips: dict[str, float]
    task_shares: dict[str, dict[str, float]] | None


def measure(dots: Dots) -> Meters:
    """All meters of a run on a dataset. O(n log n) time.

    Args:
        dots: its columns.
    """
    nan = float("nan")
    ranked = order(dots.dot)
    n, n_samples = len(ranked), len(dots.dot)
    with np.errstate(over="ignore", invalid="ignore"):
        spread = float(np.std(dots.dot[ranked], ddof=1)) if n > 1 else nan
    error = nan
    if dots.standard_error is not None:
        known = dots.standard_error[np.isfinite(dots.standard_error)]
        error = float(np.sqrt(np.mean(np.square(known)))) if len(known) else nan
    half_spearman, flips = nan, dict.fromkeys(RATIOS, nan)
    if dots.halves is not None:
        both = np.flatnonzero(np.isfinite(dots.halves[0]) & np.isfinite(dots.halves[1]))
        # those that have halves may be few, and other than the rest: they do not speak for all
        if len(both) >= n:
            one, other = dots.halves[0][both], dots.halves[1][both]
            half_spearman = spearman(one, other)
            orders = order(one), order(other)
            for text, ratio in RATIOS.items():
                top = int(len(both) * ratio)
                flips[text] = flip_share(orders[0][:top], orders[1][:top])
    shares = None
    if len(dots.tasks) > 1:
        shares = {}
        for text, ratio in {**RATIOS, "1": Fraction(1)}.items():
            top = int(n * ratio)
            counts = np.bincount(dots.closest[ranked[:top]], minlength=len(dots.tasks))
            shares[text] = {
                task: int(count) / top if top else nan for task, count in zip(dots.tasks, counts, strict=True)
            }
    return Meters(
        n_samples=n_samples,
        n=n,
        n_without_dot=n_samples - n - dots.n_missing,
        n_unscored=dots.n_missing,
        standard_deviation=spread,
        standard_error=error,
        standard_error_share=error / spread if spread else nan,
        length_pearson=pearson(dots.dot, dots.answer_tokens),
        length_spearman=spearman(dots.dot, dots.answer_tokens),
        half_sizes=dots.half_sizes if dots.halves is not None else None,
        half_spearman=half_spearman,
        full_spearman=spearman_brown(half_spearman),
        flips=flips,
        task_shares=shares,
    )


def told(meters: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """The meters in words: what is measured, its value, and a sentence on what that says.

    Args:
        meters: as ``Meters.to_dict``.
    """
    error, share = _number(meters["standard_error"]), _percent(meters["standard_error_share"])
    rows: list[tuple[str, str, str]] = [
        ("samples", f"{meters['n_samples']:,}", "All of the dataset."),
        ("with a dot", f"{meters['n']:,}", "What the numbers below are of."),
        (
            "scored, but without a finite dot",
            f"{meters['n_without_dot']:,}",
            "No answer token was left, or a number was out of range: ranked nowhere.",
        ),
        ("not scored", f"{meters['n_unscored']:,}", "The store has nothing of them for some validation set."),
        ("standard deviation of the dots", _number(meters["standard_deviation"]), "How far apart the samples lie."),
        (
            "standard error of a dot (root mean square)",
            f"{error}, {share} of the standard deviation",
            "How far a dot would move with other validation samples: the larger the share, the more is noise.",
        ),
        (
            "length bias: dot with answer tokens",
            f"Pearson {_number(meters['length_pearson'])}, Spearman {_number(meters['length_spearman'])}",
            "Correlation: below 0 short answers have the larger dots, above 0 long ones, near 0 neither.",
        ),
    ]
    if not meters["half_sizes"]:
        unknown = "unknown: the validation sets were not split into folds"
        return [*rows, ("stability", unknown, "How alike two halves of the validation samples would rank.")]
    one, other = meters["half_sizes"]
    return [
        *rows,
        (
            f"stability: {amount(one, 'validation sample')} with the other {other:,}",
            _number(meters["half_spearman"]),
            "Rank correlation of the dots by two halves: 1 is the same order, 0 has nothing to do with the other.",
        ),
        (
            f"expected of two sets of {one + other:,}",
            _number(meters["full_spearman"]),
            "The same between two validation sets as large as both halves together (Spearman-Brown).",
        ),
        *(
            (
                f"flips between them, top {_percent(float(ratio))}",
                _percent(share),
                "Share of the largest dots by one half that are not among the largest by the other; chance alone gives "
                f"{_percent(1 - float(ratio))}.",
            )
            for ratio, share in meters["flips"].items()
        ),
    ]


TOLD_TASKS = (
    "A sample is closest to the validation set with which its dot is most standard deviations above the mean (of LESS, "
    "with which its cosine is largest); what the top has more of than all, the dots prefer."
)
"""What `told_tasks` shows, in a sentence."""


def told_tasks(meters: Mapping[str, Any]) -> list[list[str]]:
    """The shares of tasks as a table, its head first; empty with a single task. Argument as for `told`."""
    shares = meters["task_shares"]
    if not shares:
        return []
    tops = ["all" if ratio == "1" else f"top {_percent(float(ratio))}" for ratio in shares]
    body = [[task, *(_percent(share[task]) for share in shares.values())] for task in shares["1"]]
    return [["task", *tops], *body]


def _number(value: float) -> str:
    return f"{value:.3g}" if math.isfinite(value) else "unknown"


def _percent(share: float) -> str:
    return f"{100 * share:.3g} %" if math.isfinite(share) else "unknown"
