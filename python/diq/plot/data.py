"""The numbers that charts show: aggregates that DuckDB makes, a few thousand rows whatever the dataset's size."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from diq.base import symlog
from diq.base.arrow import numbers
from diq.base.command import quoted
from diq.base.config import DIFFICULTY_DIMENSIONS
from diq.base.errors import MissingScoresError, UsageError
from diq.base.text import Ratio
from diq.influence.meters import RATIOS
from diq.influence.stored import Closest, scoring_command, takes_largest
from diq.plot.ground import Ground
from diq.selection.quadrants import QUADRANTS
from diq.store.rows import SampleRows
from diq.store.store import Store

LEVEL_BINS, DOT_BINS = 48, 64
"""Cells of the plane; both together stay below the 5,000 rows that Altair takes."""
HISTOGRAM_BINS = 96
HALF_BINS = 32
_FEW_TICKS = 5


@dataclass(frozen=True, slots=True)
class Drawn:
    """What one chart shows.

    Attributes:
        rows: one dict a mark.
        facts: numbers that are said or drawn once.
    """

    rows: list[dict[str, Any]]
    facts: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Axis:
    """Equal bins of a linear or symmetric logarithmic axis.

    Attributes:
        low: left edge, in units of the scaled value.
        step: width of a bin, likewise.
        bins: how many.
        scale: value from which on the axis is logarithmic; None: linear.
    """

    low: float
    step: float
    bins: int
    scale: float | None

    @classmethod
    def over(cls, low: float, high: float, bins: int, scale: float | None = None) -> Axis:
        """Bins from the lowest to the highest value; one value alone lies in the middle."""
        one = cls(0.0, 1.0, bins, symlog.reaching(scale, max(abs(low), abs(high))) if scale else None)
        first, last = one.scaled(low), one.scaled(high)
        if first == last:
            margin = abs(first) / 2 or 1.0
            first, last = first - margin, last + margin
        return cls(first, (last - first) / bins, bins, one.scale)

    def scaled(self, value: float) -> float:
        """A value on the axis."""
        if self.scale is None:
            return value
        return float(symlog.places(value, self.scale))

    def edge(self, bin: int) -> float:
        """Value at the left edge of a bin."""
        place = self.low + bin * self.step
        if self.scale is None:
            return place
        return float(symlog.values_at(place, self.scale))

    def ticks(self) -> list[float]:
        """Round values to be named, of a linear axis none (any will do).

        Zero and powers of ten on both sides of it; where these are few, twice and five times as much too; and where a
        range far from zero has none of them, even steps.
        """
        if self.scale is None:
            return []
        low, high = self.edge(0), self.edge(self.bins)
        found: list[float] = []
        for firsts in ((1,), (1, 2, 5)):
            largest = max(abs(low), abs(high), self.scale)
            first_power, last_power = math.floor(math.log10(self.scale)), math.floor(math.log10(largest))
            # read, not multiplied: powers that are multiplied up are no round numbers any more
            sizes = [float(f"{first}e{power}") for power in range(first_power, last_power + 1) for first in firsts]
            found = [0.0, *sizes, *(-one for one in sizes)]
            found = sorted(one for one in found if low <= one <= high)
            if len(found) >= _FEW_TICKS:
                return found
        step = 10.0 ** math.floor(math.log10((high - low) / 2))
        even = [round(i * step, 12) for i in range(math.ceil(low / step), math.floor(high / step) + 1)]
        return even if len(found) < 2 and len(even) <= 4 * _FEW_TICKS else found


# the plane -----------------------------------------------------------------------------------------------------------


def plane(ground: Ground, *, is_linear: bool = False) -> Drawn:
    """Samples in each cell of the plane of difficulty and influence, and those of them that the selection took.

    Rows: ``level``, ``level_end``, ``dot``, ``dot_end`` (edges of the cell), ``n``, ``taken``. Facts: ``tau``,
    ``median``, ``counts`` (of the dataset), ``taken`` (of the selection; None without one), ``n``, ``dimension``,
    ``scale`` and ``ticks`` of the dots' axis, ``is_whole`` (each level is a strip), ``outline`` (segments round the
    cells of which the selection took more than half).
    """
    ranked = ground.needs_ranking()
    (bounds,) = ground.store.rows("plot/plane_bounds")
    levels, dots = _level_axis(bounds), _dot_axis(bounds, is_linear)
    cells = ground.store.rows(
        "plot/plane_cells",
        level_low=levels.low, level_step=levels.step, level_bins=levels.bins,
        dot_low=dots.low, dot_step=dots.step, dot_bins=dots.bins, scale=dots.scale,
    )  # fmt: skip
    rows, inside = [], set()
    for one in cells:
        x, y = divmod(one["cell"], dots.bins)
        if 2 * one["taken"] > one["n"]:
            inside.add((x, y))
        edges = {"level": levels.edge(x), "level_end": levels.edge(x + 1)}
        edges |= {"dot": dots.edge(y), "dot_end": dots.edge(y + 1)}
        rows.append(edges | {"n": one["n"], "taken": one["taken"]})
    taken = [0, 0, 0, 0]
    if ground.selection is not None:
        for row in ground.store.rows("plot/quadrants_of_chosen"):
            taken[QUADRANTS.index(row["quadrant"])] = row["n"]
    facts = {
        "tau": ranked.tau,
        "median": ranked.median,
        "counts": dict(zip(QUADRANTS, ranked.counts, strict=True)),
        "taken": dict(zip(QUADRANTS, taken, strict=True)) if ground.selection is not None else None,
        "n": ranked.n,
        "n_unscored": ranked.n_unscored,
        "dimension": ground.dimension,
        "influence": ranked.influence,
        "scale": dots.scale,
        "ticks": dots.ticks(),
        "is_whole": bounds["is_whole"],
        "levels": (levels.edge(0), levels.edge(levels.bins)),
        "dots": (dots.edge(0), dots.edge(dots.bins)),
        "outline": _outline(inside, levels, dots),
    }
    return Drawn(rows, facts)


def _level_axis(bounds: dict[str, Any]) -> Axis:
    low, high = bounds["level_low"], bounds["level_high"]
    if bounds["is_whole"] and high - low < LEVEL_BINS:
        # a strip a level
        return Axis(low - 0.5, 1.0, int(high - low) + 1, None)
    return Axis.over(low, high, LEVEL_BINS)


def _dot_axis(bounds: dict[str, Any], is_linear: bool) -> Axis:
    return Axis.over(bounds["dot_low"], bounds["dot_high"], DOT_BINS, None if is_linear else bounds["dot_scale"])


def _outline(inside: set[tuple[int, int]], levels: Axis, dots: Axis) -> list[dict[str, float]]:
    """Segments between cells that are inside and cells that are not."""
    found = []
    for x, y in sorted(inside):
        left, right, low, high = levels.edge(x), levels.edge(x + 1), dots.edge(y), dots.edge(y + 1)
        sides = [
            ((x - 1, y), (left, low, left, high)),
            ((x + 1, y), (right, low, right, high)),
            ((x, y - 1), (left, low, right, low)),
            ((x, y + 1), (left, high, right, high)),
        ]
        for neighbour, place in sides:
            if neighbour not in inside:
                found.append(dict(zip(("level", "dot", "level_end", "dot_end"), place, strict=True)))
    return found


def levels(ground: Ground) -> Drawn:
    """Samples at each whole level of each dimension, by quadrant.

    Rows: ``dataset``, ``dimension``, ``level``, ``quadrant`` (None where there is no ranking), ``n``, ``share`` (of the
    samples that have the dimension). Facts: ``dimensions`` in order.

    Raises:
        MissingScoresError: there are no difficulty scores.
    """
    hint = "; ".join(ground.notes)
    if ground.difficulty_run is None:
        raise MissingScoresError(f"dataset `{ground.name}` has no difficulty to draw", hint)
    samples = _samples(ground)
    quadrant, _ = _placed(ground)
    counts: dict[str, Counter[tuple[int, int]]] = {name: Counter() for name in DIFFICULTY_DIMENSIONS}
    found = samples.batches(
        ground.store, DIFFICULTY_DIMENSIONS, "store/levels_of_run", difficulty_run=ground.difficulty_run
    )
    for rows, levels in found:
        for name, level in levels.items():
            kept = np.isfinite(level) & (rows >= 0)
            # halves up, so that a level of 2.5 is 3
            whole = np.floor(level[kept] + 0.5).astype(np.int64)
            for (place, value), n in _counted(quadrant[rows[kept]], whole):
                counts[name][place, value] += n
    drawn = []
    for name in DIFFICULTY_DIMENSIONS:
        total = counts[name].total()
        for (place, value), n in sorted(counts[name].items(), key=lambda one: (one[0][1], one[0][0])):
            facts = {"level": value, "quadrant": QUADRANTS[place - 1] if place else None, "n": n, "share": n / total}
            drawn.append({"dataset": ground.name, "dimension": name, **facts})
    if not drawn:
        raise MissingScoresError(f"dataset `{ground.name}` has no finite difficulty to draw", hint)
    return Drawn(drawn, {"dimensions": [name for name in DIFFICULTY_DIMENSIONS if counts[name]]})


def _counted(one: Any, other: Any) -> list[tuple[tuple[int, int], int]]:
    """How often each pair of two columns of whole numbers comes; the first is small."""
    if not len(other):
        return []
    low, high = int(other.min()), int(other.max())
    if high - low < 100_000:
        width = high - low + 1
        n = np.bincount(one.astype(np.int64) * width + (other - low))
        return [((int(k // width), int(k % width) + low), int(n[k])) for k in np.flatnonzero(n)]
    pairs, n = np.unique(np.stack([one.astype(np.int64), other]), axis=1, return_counts=True)
    return [((int(a), int(b)), int(k)) for a, b, k in zip(*pairs, n, strict=True)]


def _samples(ground: Ground) -> SampleRows:
    """The samples of the dataset, read once."""
    if ground.samples is None:
        ground.samples = SampleRows(ground.store, ground.data["dataset_id"])
    return ground.samples


def _placed(ground: Ground) -> tuple[Any, Any]:
    """Quadrant (1 to 4; 0: not ranked) and dot (NaN likewise) of each row, read once."""
    if ground.placed is None:
        samples = _samples(ground)
        quadrant, dot = np.zeros(len(samples), np.uint8), np.full(len(samples), np.nan)
        if ground.ranked is not None:
            ends = np.cumsum(ground.ranked.counts)
            with ground.store.batches("plot/ranked_rows", rows=1 << 20) as batches:
                for batch in batches:
                    rows = samples.of_positions(numbers(batch.column("position")))
                    dot[rows] = numbers(batch.column("dot"))
                    quadrant[rows] = 1 + np.searchsorted(ends, numbers(batch.column("rank")), side="right")
        ground.placed = quadrant, dot
    return ground.placed


def _taken(ground: Ground, samples: SampleRows) -> Any:
    """Whether each row is in the selection."""
    return np.isin(samples.position, numbers(ground.store.arrow("plot/chosen_positions").column("position")))


# dots ----------------------------------------------------------------------------------------------------------------


def dots(ground: Ground) -> Drawn:
    """Histogram of the dots with each validation set, on a symmetric logarithmic axis.

    Rows: ``validation_set``, ``dot``, ``dot_end``, ``n``. Facts: ``sets``, for each its ``n``, ``n_without`` (no finite
    dot), ``quartiles``, ``median``, ``standard_error`` (root mean square over its samples, None without folds),
    ``n_samples`` (of the set), ``scale`` and ``ticks``.
    """
    run_id = ground.needs_dots()
    (found,) = ground.store.rows("plot/count_datasets_of_run", run_id=run_id)
    if found["n"] == 1:
        ground.store.run("plot/set_run", run_id=run_id)
        ground.store.run("plot/view_dots")
    else:
        ground.store.run("plot/copy_scored", dataset_id=ground.data["dataset_id"], run_id=run_id)
        ground.store.run("plot/view_scored_dots")
    rows: list[dict[str, Any]] = []
    sets: dict[str, dict[str, Any]] = {}
    for one in ground.store.rows("store/validation_sets_of_run", run_id=run_id):
        set_id = {"validation_set_id": one["validation_set_id"]}
        (found,) = ground.store.rows("plot/dot_bounds", **set_id)
        if not found["n"]:
            # one that does not count is not missed
            if ground.weights is None or one["name"] in ground.weights:
                command = scoring_command(ground.name, str(ground.model), one["method"], one["name"])
                ground.notes.append(f"no dots with validation set `{one['name']}`: run `{command}`")
            continue
        axis = Axis.over(found["low"], found["high"], HISTOGRAM_BINS, found["scale"])
        shown = {"median": found["quartiles"][1], "scale": axis.scale, "ticks": axis.ticks()}
        sets[one["name"]] = found | shown | {"n_samples": one["n_samples"]}
        place = {"low": axis.low, "step": axis.step, "bins": axis.bins, "scale": axis.scale}
        rows += [
            {"validation_set": one["name"], "dot": axis.edge(b["bin"]), "dot_end": axis.edge(b["bin"] + 1), "n": b["n"]}
            for b in ground.store.rows("plot/dot_bins", **set_id, **place)
        ]
    if not rows:
        raise MissingScoresError(f"dataset `{ground.name}` has no finite dot to draw", "; ".join(ground.notes))
    return Drawn(rows, {"sets": sets})


def lengths(ground: Ground) -> Drawn:
    """Dots and selected shares by the number of answer tokens.

    Rows: ``low``, ``high`` (answer tokens), ``n``, ``taken``, ``taken_share`` (None without a selection), ``p10``,
    ``p25``, ``median``, ``p75``, ``p90`` of the dots. Facts: ``taken_share`` of all, ``scale`` and ``ticks``.
    """
    ranked = ground.needs_ranking()
    run_id = ground.needs_dots()
    samples = _samples(ground)
    _, dot = _placed(ground)
    taken, tokens = _taken(ground, samples), np.full(len(samples), np.nan)
    for one in ground.store.rows("store/validation_sets_of_run", run_id=run_id):
        # all of a run count the same tokens, but not every set has the same samples
        if np.isnan(tokens[np.isfinite(dot)]).any():
            read = {"run_id": run_id, "validation_set_id": one["validation_set_id"]}
            samples.scatter(ground.store, {"answer_tokens": tokens}, "store/dots_of_set", **read)
    kept = np.flatnonzero((tokens > 0) & np.isfinite(dot))
    if not len(kept):
        raise MissingScoresError(
            f"the dots of dataset `{ground.name}` came without numbers of answer tokens",
            "`diq score influence` counts them",
        )
    # a bin is a third of an octave
    bins = np.floor(3 * np.log2(tokens[kept])).astype(np.uint8)
    ordered = kept[np.argsort(bins, kind="stable")]
    names = ("p10", "p25", "median", "p75", "p90")
    has = ground.selection is not None
    rows: list[dict[str, Any]] = []
    for part in np.split(ordered, np.cumsum(np.bincount(bins))[:-1]):
        if not len(part):
            continue
        n_taken = int(np.count_nonzero(taken[part]))
        quantiles = np.quantile(dot[part], [0.1, 0.25, 0.5, 0.75, 0.9]).tolist()
        rows.append(
            {"low": int(tokens[part].min()), "high": int(tokens[part].max()), "n": len(part), "taken": n_taken}
            | {"taken_share": n_taken / len(part) if has else None}
            | dict(zip(names, quantiles, strict=True))
        )
    n, n_taken = (sum(one[name] for one in rows) for name in ("n", "taken"))
    low, high = min(one["p10"] for one in rows), max(one["p90"] for one in rows)
    axis = Axis.over(low, high, 1, symlog.scale_of(dot[kept]))
    return Drawn(
        rows,
        {
            "taken_share": n_taken / n if has else None,
            "scale": axis.scale,
            "ticks": axis.ticks(),
            "influence": ranked.influence,
        },
    )


def halves(ground: Ground) -> Drawn:
    """Samples by their places in the rankings of the two halves of the validation samples.

    Rows: ``one``, ``one_end``, ``other``, ``other_end`` (shares of the ranking, 0 is best), ``n``. Facts: ``flips``
    (ratio to the share of a selection that differs between the halves), ``half_sizes``, ``ends`` (where Q1 to Q3
    end in each ranking).

    Raises:
        MissingScoresError: the dots have no folds.
    """
    ranked = ground.needs_ranking()
    if ranked.half_sizes is None or ranked.half_counts is None:
        raise MissingScoresError(
            f"the dots of dataset `{ground.name}` have no folds, so nothing is known of their stability",
            f"`diq score influence {quoted(ground.name)} --model {quoted(str(ground.model))} --folds 2` gives them",
        )
    found = ground.store.rows("plot/half_cells", n=ranked.n, bins=HALF_BINS)
    step = 1 / HALF_BINS
    rows = [
        {
            "one": one["x"] * step,
            "one_end": (one["x"] + 1) * step,
            "other": one["y"] * step,
            "other_end": (one["y"] + 1) * step,
            "n": one["n"],
        }
        for one in found
    ]
    flips = {}
    for text in RATIOS:
        if n := Ratio.parse(text).of(ranked.n):
            (row,) = ground.store.rows("plot/half_flips", n=n)
            flips[text] = 1 - row["common"] / max(row["one"], row["other"])
    ends = [[sum(counts[: k + 1]) / ranked.n for k in range(3)] for counts in ranked.half_counts]
    return Drawn(rows, {"flips": flips, "half_sizes": ranked.half_sizes, "ends": ends, "influence": ranked.influence})


def tasks(ground: Ground) -> Drawn:
    """Share of each validation task in the selection against its share in the dataset.

    The task of a sample is the one that it is closest to, by the rule of the macro ``diq_closest``; shares are of the
    samples that have one. Rows: ``task``, ``n``, ``share``, ``n_dataset``, ``dataset_share``, ``lift``.

    Raises:
        UsageError: there is no selection.
        MissingScoresError: the run has one task alone.
    """
    if ground.selection is None:
        raise UsageError(
            "the tasks of a selection were asked for, and no selection", "name one: `diq status` lists them"
        )
    run_id = ground.needs_dots()
    sets = ground.store.rows("store/validation_sets_of_run", run_id=run_id)
    samples = _samples(ground)
    tasks_of, is_known = Closest(len(samples), largest=takes_largest(sets)), np.ones(len(samples), bool)
    names: list[str] = []
    for one in sets:
        dot = np.full(len(samples), np.nan)
        read = {"run_id": run_id, "validation_set_id": one["validation_set_id"]}
        samples.scatter(ground.store, {"dot": dot}, "store/dots_of_set", **read)
        if not np.isfinite(dot).any():
            if ground.weights is not None and one["name"] not in ground.weights:
                continue
            raise MissingScoresError(
                f"the validation set `{one['name']}` of run {run_id} has no dots on dataset `{ground.name}`, so no "
                "sample is known to be closest to any",
                "score the dataset with it, too",
            )
        is_known &= np.isfinite(dot)
        tasks_of.add(dot)
        names.append(one["name"])
    if len(names) < 2:
        raise MissingScoresError(
            f"the dots of dataset `{ground.name}` are of one validation set, so there are no shares of tasks",
            "score with several: --validation-set A --validation-set B",
        )
    closest = tasks_of.where(is_known)
    counts = np.bincount(closest[is_known], minlength=len(names))
    counts_taken = np.bincount(closest[is_known & _taken(ground, samples)], minlength=len(names))
    drawn = []
    for name, n_dataset, n_taken in zip(names, counts.tolist(), counts_taken.tolist(), strict=True):
        share = n_taken / max(int(counts_taken.sum()), 1)
        dataset_share = n_dataset / max(int(counts.sum()), 1)
        lift = share / dataset_share if dataset_share else None
        facts = {"share": share, "n_dataset": n_dataset, "dataset_share": dataset_share, "lift": lift}
        drawn.append({"task": name, "n": n_taken, **facts})
    return Drawn(drawn)


# selections, trainings ---------------------------------------------------------------------------------------------


def overlap(store: Store, selections: Sequence[str | int]) -> Drawn:
    """What each two of several selections share.

    Rows: ``a``, ``b`` (names), ``shared``, ``n_a``, ``n_b``, ``share`` (of the smaller one).

    Raises:
        UsageError: fewer than two, or an unknown one.
    """
    if len(selections) < 2:
        raise UsageError(f"an overlap needs two selections, found {len(selections)}", "name two or more")
    chosen = [store.selection(str(one)) for one in selections]
    names = {one["selection_id"]: one["name"] for one in chosen}
    if len(set(names.values())) < len(names):
        # an earlier selection of a name
        names = {number: f"{name} ({number})" for number, name in names.items()}
    sizes = {one["selection_id"]: one["n"] for one in chosen}
    ids = list(names)
    shared = {
        (one["a"], one["b"]): one["shared"] for one in store.rows("store/overlap_of_selections", selection_ids=ids)
    }
    rows = []
    for a in ids:
        for b in ids:
            n = sizes[a] if a == b else shared.get((min(a, b), max(a, b)), 0)
            smaller = min(sizes[a], sizes[b])
            rows.append(
                {
                    "a": names[a],
                    "b": names[b],
                    "shared": n,
                    "n_a": sizes[a],
                    "n_b": sizes[b],
                    "share": n / smaller if smaller else 0.0,
                }
            )
    return Drawn(rows, {"names": list(names.values())})


def trainings(store: Store, runs: Sequence[int] | None = None) -> Drawn:
    """Loss curves of trainings.

    Rows: ``training``, ``curve`` (``training`` or the name of a validation set), ``step``, ``loss``.

    Raises:
        MissingScoresError: no training is in the store.
    """
    found = store.rows("store/trainings", run_ids=list(runs) if runs is not None else None)
    rows: list[dict[str, Any]] = []
    for one in found:
        name = f"{one['run_id']}: {one['selection'] or one['trained_model'] or one['model']}"
        rows += [
            {"training": name, "curve": "training", "step": point["step"], "loss": point["loss"]}
            for point in json.loads(one["curve"] or "[]")
        ]
        for point in json.loads(one["validation_curve"] or "[]"):
            rows += [
                {"training": name, "curve": key, "step": point["step"], "loss": loss}
                for key, loss in point.items()
                if key != "step"
            ]
    if not rows:
        raise MissingScoresError(
            f"no finished training is recorded in `{store.path}`", "`diq train --store` records one"
        )
    return Drawn([one for one in rows if one["loss"] is not None and math.isfinite(one["loss"])])
