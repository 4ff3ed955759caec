"""What the trainings of a validation say of its scores and entrants."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
import numpy.typing as npt

from diq.trials.measures import datamodelling_score, mean_difference, verdict
from diq.trials.trial import Outcome
from diq.trials.work import BEFORE, Column, Entrant, Heat, Key, Work

Floats = npt.NDArray[np.float64]
Rows = npt.NDArray[np.int64]


def datamodelling(work: Work, found: Mapping[Key, Outcome]) -> list[dict[str, Any]]:
    """How well each score tells the losses after training on the random subsets, the best first."""
    keys = [key for key in found if key.kind == "subset"]
    if not keys:
        return []
    rows = [work.subset(key.number) for key in keys]
    sizes = {name: len(one) for name, one in found[keys[0]].losses.items()}
    losses = {name: np.asarray([found[key].losses[name].mean() for key in keys]) for name in sizes}
    lines = [_scored(column, rows, losses, sizes) for column in work.columns]
    return sorted(lines, key=lambda one: -one["value"] if np.isfinite(one["value"]) else np.inf)


def _scored(
    column: Column, rows: Sequence[Rows], losses: Mapping[str, Floats], sizes: Mapping[str, int]
) -> dict[str, Any]:
    # what has nothing to do with validation sets says the same of each
    of_set = {name: column.by_set.get(name, column.by_set.get("")) for name in losses}
    sums = {name: _summed(one, rows) for name, one in of_set.items() if one is not None}
    by_set = {name: asdict(datamodelling_score(one, losses[name])) for name, one in sums.items()}
    # Eq. 3: sets count by their samples
    weights = [sizes[name] for name in sums]
    pooled = np.average(np.stack([*sums.values()]), axis=0, weights=weights)
    target = np.average(np.stack([losses[name] for name in sums]), axis=0, weights=weights)
    return {
        "score": column.label,
        "run": column.run_id,
        **asdict(datamodelling_score(pooled, target)),
        "by_set": by_set,
    }


def _summed(column: Floats, rows: Sequence[Rows]) -> Floats:
    """Sum of a score over each subset; a sample without one counts as the mean of all."""
    finite = np.isfinite(column)
    filled = np.where(finite, column, column[finite].mean() if finite.any() else 0.0)
    return np.asarray([filled[one].sum() for one in rows])


def race(work: Work, found: Mapping[Key, Outcome]) -> list[dict[str, Any]]:
    """Each entrant against random selections of its size, on samples that have not chosen."""
    return [
        _run_of(work, one, heat, pairs, found[BEFORE])
        for heat in work.heats()
        for one in heat.entrants
        if (pairs := _pairs(one, heat, found))
    ]


def _pairs(entrant: Entrant, heat: Heat, found: Mapping[Key, Outcome]) -> list[tuple[Outcome, Outcome, int]]:
    """Outcomes of the entrant and of random selections with the same seed, and the half that chose."""
    return [
        (one, found[key._replace(entrant=None)], key.half)
        for key, one in found.items()
        if (key.heat, key.entrant) == (heat.label, entrant.name) and key._replace(entrant=None) in found
    ]


def _run_of(
    work: Work, entrant: Entrant, heat: Heat, pairs: Sequence[tuple[Outcome, Outcome, int]], before: Outcome
) -> dict[str, Any]:
    def losses_of(outcome: Outcome, half: int, names: Sequence[str]) -> Floats:
        parts = {name: outcome.losses[name] for name in names}
        return np.concatenate([one[work.tested(half, name, len(one))] for name, one in parts.items()])

    def measured(names: Sequence[str]) -> dict[str, Any]:
        own = [losses_of(mine, half, names) for mine, _, half in pairs]
        other = [losses_of(theirs, half, names) for _, theirs, half in pairs]
        difference = mean_difference([a - b for a, b in zip(own, other, strict=True)])
        return {
            "loss": float(np.mean([a.mean() for a in own])),
            "random": float(np.mean([b.mean() for b in other])),
            "before": float(np.mean([losses_of(before, half, names).mean() for _, _, half in pairs])),
            "difference": difference.value,
            "low": difference.low,
            "high": difference.high,
            "verdict": verdict(difference),
        }

    names = work.held_out or work.measured
    return {
        "entrant": entrant.name,
        "ratio": heat.ratio,
        "n": heat.size,
        "trainings": len(pairs),
        **measured(names),
        "by_set": {name: measured([name]) for name in names} if len(names) > 1 else {},
    }
