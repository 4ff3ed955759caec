"""Answers to typed questions about one table, none of which remembers another.

The table is in memory. What several questions in a row need (pooled dots, bins, the would-be selection) is kept for a
while, by what it was made from.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from diq import _core
from diq.explorer.axes import Axis, Kind, make_axis
from diq.explorer.columns import TASK, Choice, Floats, Table
from diq.explorer.requests import QUADRANT_NAMES, SELECTED_NAMES, Between, Look, OneOf, PageOf, Weights
from diq.influence.stored import all_weights, pool_dots
from diq.selection.quadrants import rank
from diq.selection.ranking import check_threshold

Bins = npt.NDArray[np.uint8]
Positions = npt.NDArray[np.int64]
Made = TypeVar("Made")

# columns of bins that are kept: those of three looks at ten tasks
_MOST_BINS = 40


@dataclass(frozen=True, slots=True)
class WouldBe:
    """The selection that a look describes.

    Attributes:
        ranking: of the table, at least as far as the ratio goes.
        rows: ``[k]`` of the table, best first; k = floor(N * ratio).
        selected: ``[n]`` 1 where a sample is in it.
        counts: samples of Q1 to Q4 in it.
    """

    ranking: _core.Ranking
    rows: npt.NDArray[np.int64]
    selected: Bins
    counts: list[int]


class Answers:
    """The answers about a table.

    Args:
        choice: whose scores it holds.
        table: scores.
        positions_of: reads the positions of a stored selection by its number.
        like: answers about all samples where the table holds a part of them, to be drawn on the same axes.
    """

    def __init__(
        self,
        choice: Choice,
        table: Table,
        positions_of: Callable[[int], Positions],
        *,
        like: Answers | None = None,
    ) -> None:
        self.choice = choice
        self.table = table
        self._positions_of = positions_of
        self._like = like
        self._axes: dict[tuple[str, Kind | None], Axis] = {}
        self._cache: OrderedDict[Hashable, Any] = OrderedDict()
        self._computing = threading.Lock()

    @property
    def names(self) -> dict[str, int]:
        """Columns of names, with how many values each has."""
        return {
            "source": len(self.table.sources),
            "quadrant": len(QUADRANT_NAMES),
            "selected": len(SELECTED_NAMES),
        }

    # columns ---------------------------------------------------------------------------------------------------------

    def values(self, column: str, look: Look) -> Floats:
        """``[n]`` values of a column of numbers."""
        table = self.table
        if column == "influence":
            return self._influence(look.weights)
        if column.startswith(TASK):
            return table.dots[self.choice.set_names[int(column.removeprefix(TASK))]]
        return {"difficulty": table.level, "answer_tokens": table.answer_tokens, "loss": table.loss}[column]

    def _influence(self, weights: Weights) -> Floats:
        chosen = self.choice.settled(weights)
        return self._kept(("influence", weights), lambda: pool_dots(self.table.dots, self.choice.sets, chosen), keep=3)

    def axis(self, column: str, look: Look) -> Axis:
        """The bins of a column of numbers."""
        return self._binned(column, look)[0]

    def _binned(self, column: str, look: Look) -> tuple[Axis, Bins]:
        kind: Kind | None = look.axes.get(column)
        made_from = look.weights if column == "influence" else None
        # the one that all samples were drawn on last, whatever the weights were: nothing jumps
        given = self._like._axes.get((column, kind)) if self._like else None

        def make() -> tuple[Axis, Bins]:
            values = self.values(column, look)
            axis = given or make_axis(values, kind)
            return axis, _core.bin_column(values, axis.cuts)

        # an axis is kept with its bins, so that no other one has its number
        found: tuple[Axis, Bins] = self._kept(("bins", column, kind, made_from, id(given)), make, keep=_MOST_BINS)
        self._axes[column, kind] = found[0]
        return found

    def would_be(self, look: Look) -> WouldBe:
        """The selection that a look describes: what ``diq select`` would take."""

        def make() -> WouldBe:
            table, ranking = self.table, self._ranking(look)
            n_target = look.ratio.of(ranking.n_scored)
            rows = ranking.rows[:n_target]
            selected = np.zeros(len(table), np.uint8)
            selected[rows] = 1
            counts, left = [], len(rows)
            for count in ranking.counts:
                counts.append(min(count, left))
                left -= counts[-1]
            return WouldBe(ranking, rows, selected, counts)

        return self._kept(("selection", look.weights, look.cut, look.ratio.text), make, keep=3)

    def _ranking(self, look: Look) -> _core.Ranking:
        """The order, at least as far as the ratio goes: every other ratio is a prefix of it."""
        influence, level = self._influence(look.weights), self.table.level

        def make(ratio: str | None) -> _core.Ranking:
            # a part of the samples need not reach as far as all of them do
            if look.threshold is not None and self._like is None:
                scored = np.isfinite(influence) & np.isfinite(level)
                check_threshold(look.threshold, level[scored], self.choice.difficulty)
            return rank(influence, level, percentile=look.percentile, threshold=look.threshold, ratio=ratio)

        key = ("ranking", look.weights, look.cut)
        ranking = self._kept(key, lambda: make(look.ratio.text), keep=2)
        if len(ranking.rows) < look.ratio.of(ranking.n_scored):
            # who asks for a larger part asks for more, and the whole order serves them all
            ranking = self._cache[key] = make(None)
        return ranking

    def compared(self, look: Look) -> Bins | None:
        """``[n]`` 1 where a sample is in the selection to compare with; None without one."""
        if look.compare is None:
            return None

        def make() -> Bins:
            assert look.compare is not None
            return np.isin(self.table.position, self._positions_of(look.compare)).astype(np.uint8)

        return self._kept(("compare", look.compare), make, keep=2)

    def _kept(self, key: Hashable, make: Callable[[], Made], *, keep: int) -> Made:
        """What was made from the same before; of each kind a few are kept."""
        if key in self._cache:
            self._cache.move_to_end(key)
        else:
            self._cache[key] = make()
            same = [other for other in self._cache if other[0] == key[0]]  # type: ignore[index]
            for other in same[: max(0, len(same) - keep)]:
                del self._cache[other]
        found: Made = self._cache[key]
        return found

    # answers ---------------------------------------------------------------------------------------------------------

    def filtered(self, look: Look) -> tuple[list[Bins], Bins]:
        """Columns of bins, those of numbers first, and ``[columns, 256]`` which bins each lets through."""
        columns = [self._binned(name, look)[1] for name in self.choice.numbers]
        columns += [self.table.source, self.would_be(look).ranking.quadrant, self.would_be(look).selected]
        allowed = np.ones((len(columns), 256), np.uint8)
        for i, name in enumerate([*self.choice.numbers, *self.names]):
            chosen = look.filters.get(name)
            if isinstance(chosen, Between):
                first, last = self.axis(name, look).bins_of(chosen.low, chosen.high)
                allowed[i] = 0
                allowed[i, first : last + 1] = 1
            elif isinstance(chosen, OneOf):
                allowed[i] = 0
                allowed[i, list(chosen.values)] = 1
        return columns, allowed

    def view(self, look: Look) -> tuple[dict[str, Any], npt.NDArray[np.uint32]]:
        """What all views show of a look.

        Returns:
            The facts, and the counts of all histograms (each ``[bins + 1, 4]``, the last bin of missing values; of
            columns of names ``[values, 4]``) and of the plane (``[height bins, difficulty bins, 4]``), one after the
            other. The four classes: in neither selection, in the would-be one, in the other one, in both.
        """
        with self._computing:
            table, made, other = self.table, self.would_be(look), self.compared(look)
            columns, allowed = self.filtered(look)
            classes = (
                made.selected
                if other is None
                else np.bitwise_or(made.selected, np.left_shift(other, 1, dtype=np.uint8))
            )
            height = self.choice.numbers.index(look.height)
            histograms, plane, passing = _core.crossfilter(columns, allowed, plane=(0, height), classes=classes)
            parts, described = [], []
            for i, name in enumerate(self.choice.numbers):
                axis = self.axis(name, look)
                parts.append(histograms[i, [*range(axis.n_bins), 255]].ravel())
                described.append(self._described(name, axis, look))
            for i, (name, size) in enumerate(self.names.items(), start=len(self.choice.numbers)):
                parts.append(histograms[i, :size].ravel())
                chosen = look.filters.get(name)
                values = sorted(chosen.values) if isinstance(chosen, OneOf) else None
                described.append({"key": name, "values": values})
            wide, high = self.axis("difficulty", look).n_bins, self.axis(look.height, look).n_bins
            parts.append(plane[:high, :wide].ravel())
            ranking = made.ranking
            facts = {
                "n": len(table),
                "n_scored": ranking.n_scored,
                "tau": _finite(ranking.tau),
                "median": _finite(ranking.median),
                "quadrants": list(ranking.counts),
                "n_selected": len(made.rows),
                "selected": made.counts,
                "ratio": look.ratio.text,
                "passing": list(passing),
                "columns": described,
                "height": look.height,
                "compare": None if other is None else self._overlap(made, other),
                "weights": self.choice.settled(look.weights) or all_weights(self.choice.sets),
            }
        return facts, np.concatenate(parts)

    def _described(self, name: str, axis: Axis, look: Look) -> dict[str, Any]:
        chosen = look.filters.get(name)
        brushed = None
        if isinstance(chosen, Between):
            first, last = axis.bins_of(chosen.low, chosen.high)
            low, high = axis.range_of(first, last)
            brushed = {"first": first, "last": last, "low": low, "high": high}
        return {"key": name, "kind": axis.kind, "kinds": axis.kinds, "edges": axis.edges.tolist(), "brush": brushed}

    def _overlap(self, made: WouldBe, other: Bins) -> dict[str, int]:
        both = int(np.count_nonzero(made.selected & other))
        mine, theirs = len(made.rows), int(np.count_nonzero(other))
        return {"both": both, "only_this": mine - both, "only_other": theirs - both}

    def page(self, look: Look, page: PageOf) -> list[dict[str, Any]]:
        """A page of the rows that all filters let through."""
        with self._computing:
            columns, allowed = self.filtered(look)
            keys = [*self.choice.numbers, *self.names]
            by = None if page.sort is None else keys.index(page.sort)
            is_number = page.sort is not None and page.sort in self.choice.numbers
            values = self.values(page.sort, look) if is_number and page.sort is not None else None
            rows = _core.page_rows(
                columns,
                allowed,
                column=by,
                values=values,
                descending=page.descending,
                first=page.first,
                count=page.count,
            )
            return self._rows(look, rows)

    def passing(self, look: Look) -> npt.NDArray[np.int64]:
        """All rows that the filters let through, in order."""
        with self._computing:
            columns, allowed = self.filtered(look)
            return _core.page_rows(columns, allowed, count=len(self.table))

    def described(self, look: Look, positions: list[int]) -> list[dict[str, Any]]:
        """Scores of some samples.

        Raises:
            UsageError: there is no sample at a position.
        """
        with self._computing:
            return self._rows(look, self.table.rows_of(positions))

    def _rows(self, look: Look, rows: npt.NDArray[np.int64]) -> list[dict[str, Any]]:
        table, made, other = self.table, self.would_be(look), self.compared(look)
        columns: Mapping[str, list[Any]] = {
            "position": table.position[rows].tolist(),
            **{name: [_finite(one) for one in self.values(name, look)[rows].tolist()] for name in self.choice.numbers},
            "source": table.source[rows].tolist(),
            "quadrant": made.ranking.quadrant[rows].tolist(),
            "selected": made.selected[rows].tolist(),
            "compared": [None] * len(rows) if other is None else other[rows].tolist(),
        }
        return [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]


def _finite(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None
