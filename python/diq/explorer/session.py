"""What the page is told: answers to typed questions about one table, none of which remembers another.

The table is in memory, so an answer opens the store only for texts, other selections and saving. What several questions
in a row need (pooled dots, bins, the would-be selection) is kept for a while, by what it was made from.
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
from diq.base.command import quoted, shell
from diq.base.errors import DiqError, UsageError
from diq.explorer.axes import Axis, Kind, make_axis
from diq.explorer.columns import Choice, Floats, Table, positions_of, read_table, selections_of
from diq.explorer.requests import QUADRANT_NAMES, SELECTED_NAMES, Between, Look, OneOf, PageOf
from diq.influence.stored import all_weights, pool_dots, takes_largest
from diq.selection.quadrants import rank

Bins = npt.NDArray[np.uint8]
Made = TypeVar("Made")

# samples that are looked at while the others are being read, where there are many times as many
_FIRST_LOOK = 1 << 18
_MANY_TIMES = 8
# columns of bins that are kept: those of three looks at ten tasks
_MOST_BINS = 40
_TASK = "task:"


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


class Session:
    """A table, and the answers about it.

    Args:
        choice: whose scores.
    """

    def __init__(self, choice: Choice) -> None:
        self.choice = choice
        self._table: Table | None = None
        self._failure: DiqError | None = None
        self._progress: tuple[str, int, int] | None = ("opening the store", 0, 0)
        self._cache: OrderedDict[Hashable, Any] = OrderedDict()
        self._computing = threading.Lock()
        # this process opens the store one way at a time: DuckDB takes no readers beside a writer of its own. Loading needs
        # no lock, since nothing is saved before it is done
        self.storing = threading.Lock()

    # loading ---------------------------------------------------------------------------------------------------------

    def load(self) -> None:
        """Read the table; for a thread of its own, since the page is up meanwhile."""
        try:
            part = _FIRST_LOOK / max(1, self.choice.data["n_samples"])
            if part * _MANY_TIMES < 1:
                self._table = read_table(self.choice, part=part)
            whole = read_table(self.choice, self._tell)
            with self._computing:
                self._table, self._progress = whole, None
                self._cache.clear()
        except DiqError as error:
            self._failure = error
        except Exception as error:
            self._failure = DiqError(f"the scores could not be read: {type(error).__name__}: {error}")
            raise

    def _tell(self, what: str, done: int, total: int) -> None:
        self._progress = (what, done, total)

    @property
    def table(self) -> Table:
        """The table.

        Raises:
            DiqError: it is not read yet, or could not be.
        """
        if self._failure is not None:
            raise self._failure
        if self._table is None:
            raise UsageError("the scores are still being read", "wait a moment")
        return self._table

    # what there is ---------------------------------------------------------------------------------------------------

    def check_whole(self) -> None:
        """Refuse what is made of all samples.

        Raises:
            UsageError: they are not all read yet.
        """
        if self._progress is not None:
            raise UsageError(
                f"{len(self.table):,} of {self.choice.data['n_samples']:,} samples are read: this needs all of them",
                "wait a moment",
            )

    def facts(self) -> dict[str, Any]:
        """What the page needs before it can ask: columns, validation sets, sources; or how far the reading is."""
        choice = self.choice
        shown = {
            "store": str(choice.store),
            "dataset": choice.data["name"],
            "model": choice.model,
            "dimension": choice.difficulty,
            "influence_run": choice.influence_run,
            "difficulty_run": choice.difficulty_run,
        }
        if self._failure is not None:
            return shown | {"state": "failed", "error": self._failure.message, "hint": self._failure.hint}
        # in this order: once there is no progress, the table is the whole one
        progress, table = self._progress, self._table
        reading = None if progress is None else dict(zip(("what", "done", "total"), progress, strict=True))
        if table is None:
            return shown | {"state": "reading", "reading": reading}
        weights = all_weights(choice.sets)
        mean = sum(weights.values()) / len(weights) or 1.0
        return shown | {
            "state": "ready",
            # some samples are there before all are
            "reading": reading,
            "n": len(table),
            "n_samples": choice.data["n_samples"],
            "largest": takes_largest(choice.sets),
            # of the mean weight, so that sliders start about 1
            "sets": [
                {"name": one["name"], "n_samples": one["n_samples"], "share": weights[one["name"]] / mean}
                for one in choice.sets
            ],
            "names": {
                "source": table.sources,
                "quadrant": list(QUADRANT_NAMES),
                "selected": list(SELECTED_NAMES),
            },
            "notes": [] if reading else self._notes(table),
        }

    def _notes(self, table: Table) -> list[str]:
        """What is missing, with the command that makes it."""
        choice, n = self.choice, len(table)
        name, notes = choice.data["name"], []
        influence_words = ["diq", "score", "influence", name, "--model", choice.model]
        influence = f"`{shell(influence_words)}`"
        without = np.isnan(table.level)
        if without.any():
            notes.append(
                f"{np.count_nonzero(without):,} of {n:,} samples have no difficulty and are in no quadrant: "
                f"`diq score difficulty {quoted(name)} --model CLASSIFIER` makes it"
            )
        for one, dots in table.dots.items():
            missing = int(np.count_nonzero(np.isnan(dots)))
            if missing:
                notes.append(
                    f"{missing:,} of {n:,} samples have no finite dot with the validation set `{one}` and are in no "
                    f"quadrant as long as it counts: {influence} computes what is missing, `diq status` says why"
                )
            elif n > 1 and np.all(dots == dots[0]):
                notes.append(f"all dots with the validation set `{one}` are {dots[0]:g}: they put nothing in order")
        notes += [
            f"the validation set `{other}` has no dots in run {choice.influence_run}: `"
            f"{shell([*influence_words, '--validation-set', other])}` makes them"
            for other in choice.other_sets
        ]
        return notes

    def selections(self) -> list[dict[str, Any]]:
        """Stored selections of the dataset, latest first."""
        with self.storing:
            return selections_of(self.choice)

    @property
    def numbers(self) -> list[str]:
        """Columns of numbers, in the order of the page."""
        return [
            "difficulty",
            "influence",
            *(f"{_TASK}{i}" for i in range(len(self.choice.sets))),
            "answer_tokens",
            "loss",
        ]

    @property
    def names(self) -> dict[str, int]:
        """Columns of names, with how many values each has."""
        return {
            "source": len(self.table.sources),
            "quadrant": len(QUADRANT_NAMES),
            "selected": len(SELECTED_NAMES),
        }

    @property
    def sets(self) -> list[str]:
        """Validation sets of the run, in its order."""
        return [one["name"] for one in self.choice.sets]

    # columns ---------------------------------------------------------------------------------------------------------

    def values(self, column: str, look: Look) -> Floats:
        """``[n]`` values of a column of numbers."""
        table = self.table
        if column == "influence":
            return self._influence(look.weights)
        if column.startswith(_TASK):
            return table.dots[self.sets[int(column.removeprefix(_TASK))]]
        return {"difficulty": table.level, "answer_tokens": table.answer_tokens, "loss": table.loss}[column]

    def _influence(self, weights: tuple[tuple[str, float], ...] | None) -> Floats:
        chosen = self.settled(weights)
        return self._kept(("influence", weights), lambda: pool_dots(self.table.dots, self.choice.sets, chosen), keep=3)

    def settled(self, weights: tuple[tuple[str, float], ...] | None) -> dict[str, float] | None:
        """Weights as the ranking takes them: of a run that takes the largest, they only choose."""
        if weights is None:
            return None
        return dict.fromkeys((name for name, _ in weights), 1.0) if takes_largest(self.choice.sets) else dict(weights)

    def axis(self, column: str, look: Look) -> Axis:
        """The bins of a column of numbers."""
        return self._binned(column, look)[0]

    def _binned(self, column: str, look: Look) -> tuple[Axis, Bins]:
        kind: Kind | None = look.axes.get(column)
        made_from = look.weights if column == "influence" else None

        def make() -> tuple[Axis, Bins]:
            values = self.values(column, look)
            axis = make_axis(values, kind)
            return axis, _core.bin_column(values, axis.cuts)

        found: tuple[Axis, Bins] = self._kept(("bins", column, kind, made_from), make, keep=_MOST_BINS)
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

        return self._kept(("selection", look.weights, look.percentile, look.ratio.text), make, keep=3)

    def _ranking(self, look: Look) -> _core.Ranking:
        """The order, at least as far as the ratio goes: every other ratio is a prefix of it."""
        influence, level = self._influence(look.weights), self.table.level
        key = ("ranking", look.weights, look.percentile)
        ranking = self._kept(
            key, lambda: rank(influence, level, percentile=look.percentile, ratio=look.ratio.text), keep=2
        )
        if len(ranking.rows) < look.ratio.of(ranking.n_scored):
            # who asks for a larger part asks for more, and the whole order serves them all
            ranking = self._cache[key] = rank(influence, level, percentile=look.percentile)
        return ranking

    def compared(self, look: Look) -> Bins | None:
        """``[n]`` 1 where a sample is in the selection to compare with; None without one."""
        if look.compare is None:
            return None

        def make() -> Bins:
            assert look.compare is not None
            with self.storing:
                positions = positions_of(self.choice.store, look.compare)
            return np.isin(self.table.position, positions).astype(np.uint8)

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
        columns = [self._binned(name, look)[1] for name in self.numbers]
        columns += [self.table.source, self.would_be(look).ranking.quadrant, self.would_be(look).selected]
        allowed = np.ones((len(columns), 256), np.uint8)
        for i, name in enumerate([*self.numbers, *self.names]):
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
            height = self.numbers.index(look.height)
            histograms, plane, passing = _core.crossfilter(columns, allowed, plane=(0, height), classes=classes)
            parts, described = [], []
            for i, name in enumerate(self.numbers):
                axis = self.axis(name, look)
                parts.append(histograms[i, [*range(axis.n_bins), 255]].ravel())
                described.append(self._described(name, axis, look))
            for i, (name, size) in enumerate(self.names.items(), start=len(self.numbers)):
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
                "weights": self.settled(look.weights) or all_weights(self.choice.sets),
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
            keys = [*self.numbers, *self.names]
            by = None if page.sort is None else keys.index(page.sort)
            values = self.values(page.sort, look) if page.sort in self.numbers and page.sort is not None else None
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
            **{name: [_finite(one) for one in self.values(name, look)[rows].tolist()] for name in self.numbers},
            "source": table.source[rows].tolist(),
            "quadrant": made.ranking.quadrant[rows].tolist(),
            "selected": made.selected[rows].tolist(),
            "compared": [None] * len(rows) if other is None else other[rows].tolist(),
        }
        return [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]


def _finite(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None


def weight_texts(weights: tuple[tuple[str, float], ...] | None, largest: bool) -> tuple[str, ...]:
    """Weights as ``--validation-set`` takes them."""
    if weights is None:
        return ()
    return tuple(name if largest else f"{name}={weight!r}" for name, weight in weights)
