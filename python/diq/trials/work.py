"""What a validation tries: the scores and entrants that the store has, and the trainings that they need."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from diq.base.arrow import by_position, numbers
from diq.base.command import quoted
from diq.base.draws import numbers_of_positions
from diq.base.errors import MissingScoresError, UsageError
from diq.base.text import Ratio, amount
from diq.influence.stored import divided, read_certificate, read_influence, read_similarity
from diq.scoring.job import bytes_of_ids
from diq.selection.options import DOT_STRATEGIES
from diq.selection.ranking import order, part_of, ranked_scores
from diq.selection.scores import Request, Runs, Scores, choose_runs, settled_weights
from diq.store.connection import WAIT_S
from diq.store.store import Store
from diq.trials.options import BLIND, ValidateOptions

Floats = npt.NDArray[np.float64]
Rows = npt.NDArray[np.int64]

# seeds of the draws, apart from each other
_SUBSETS, _RANDOM = 1 << 32, 1 << 33
# draws of one seed are further from those of another than there are numbers
_APART = 1_000_003
_LARGEST_SUBSET = 256


class Key(NamedTuple):
    """Which training.

    Attributes:
        kind: what for.
        number: of its kind, or of its heat.
        half: of the validation samples that chose.
        heat: label of what it is compared within.
        entrant: name of the entrant; None for the random selection of the heat.
    """

    kind: Literal["before", "subset", "race"]
    number: int = 0
    half: int = 0
    heat: str = ""
    entrant: str | None = None


BEFORE = Key("before")
"""No training at all."""


@dataclass(frozen=True, slots=True)
class Column:
    """A score of every sample, higher for what should help.

    Attributes:
        label: what it is.
        run_id: run of it; None for a random one.
        by_set: ``[n]`` with each validation set; under the name "" where it has nothing to do with them.
    """

    label: str
    run_id: int | None
    by_set: dict[str, Floats]


@dataclass(frozen=True, slots=True)
class Entrant:
    """What is raced.

    Attributes:
        name: of a strategy or a stored selection.
        orders: rows, best first, by either half of the validation samples; twice the same where no half has a part.
        counts: likewise, samples of Q1 to Q4 in it, or None.
        fixed: samples of a stored selection, which has one size; None for a strategy.
    """

    name: str
    orders: tuple[Rows, Rows]
    counts: tuple[tuple[int, ...] | None, tuple[int, ...] | None] = (None, None)
    fixed: int | None = None

    def chosen(self, half: int, n: int) -> Rows:
        """The best ``n`` rows, or fewer where its quadrant holds fewer by either half."""
        parts = [part_of(*one, self.name, n) for one in zip(self.counts, map(len, self.orders), strict=True)]
        return self.orders[half][parts[half][0] :][: min(count for _, count in parts)]


class Heat(NamedTuple):
    """What is compared with the same random selections.

    Attributes:
        label: in words.
        ratio: that was asked for, as text; None for stored selections.
        asked: samples that the ratio makes.
        size: samples of every entrant, and of the random selections.
        entrants: of this size.
    """

    label: str
    ratio: str | None
    asked: int
    size: int
    entrants: list[Entrant]


@dataclass(slots=True)
class Work:
    """Scores and entrants of a validation.

    Attributes:
        data: row of the dataset.
        position: ``[n]`` of its samples, ascending.
        ids: ``[n, 16]`` theirs.
        seed: of all draws and trainings.
        ratios: that strategies are raced at.
        seeds: trainings of each entrant.
        subsets: random subsets.
        subset_size: samples of each.
        held_out: validation sets that no score has seen; none: one half of each set chooses, the other measures.
        measured: validation sets whose losses are taken.
        columns: scores that are tried on the subsets.
        entrants: what is raced.
        n_scored: samples that a ratio is of.
        n_folds: folds of each validation set, where halves are by folds.
        left_out: what could not be raced, and why.
    """

    data: dict[str, Any]
    position: Rows
    ids: npt.NDArray[np.uint8]
    seed: int
    ratios: list[Ratio]
    seeds: int
    subsets: int
    subset_size: int
    held_out: list[str]
    measured: list[str] = field(default_factory=list)
    columns: list[Column] = field(default_factory=list)
    entrants: list[Entrant] = field(default_factory=list)
    n_scored: int = 0
    n_folds: dict[str, int] = field(default_factory=dict)
    left_out: list[str] = field(default_factory=list)

    def plan(self) -> Iterator[tuple[Key, Rows, int]]:
        """Key, rows and seed of every training, in an order in which any beginning says something of everything."""
        yield BEFORE, np.zeros(0, np.int64), 0
        rounds = max(self.seeds if self.entrants else 0, 1)
        share = -(-self.subsets // rounds)
        for number in range(rounds):
            if self.entrants:
                yield from self._round(number)
            for subset in range(number * share, min((number + 1) * share, self.subsets)):
                yield Key("subset", subset), self.subset(subset), self.training_seed(subset)

    def beyond(self) -> Iterator[Iterator[tuple[Key, Rows, int]]]:
        """What larger calls would train after what this one asks for: seeds of the race, and subsets, without end."""
        if self.entrants:
            yield itertools.chain.from_iterable(map(self._round, itertools.count(self.seeds)))
        if self.subsets:
            numbers = itertools.count(self.subsets)
            yield ((Key("subset", one), self.subset(one), self.training_seed(one)) for one in numbers)

    def _round(self, number: int) -> Iterator[tuple[Key, Rows, int]]:
        """The trainings of one seed of the race; the halves take turns in choosing."""
        half = 0 if self.held_out else number % 2
        seed = self.training_seed(number)
        for heat in self.heats():
            yield Key("race", number, half, heat.label), self._drawn(heat.size, _RANDOM + number), seed
            for one in heat.entrants:
                yield Key("race", number, half, heat.label, one.name), one.chosen(half, heat.asked), seed

    def heats(self) -> Iterator[Heat]:
        """What is compared with the same random selections: entrants of one ratio and size, or of one size."""
        strategies = [one for one in self.entrants if one.fixed is None]
        for ratio in self.ratios if strategies else ():
            asked = ratio.of(self.n_scored)
            sizes = [len(one.chosen(0, asked)) for one in strategies]
            for size in sorted({one for one in sizes if one}, reverse=True):
                label = ratio.text if size == asked else f"{ratio.text}: {amount(size, 'sample')}"
                mine = [one for one, n in zip(strategies, sizes, strict=True) if n == size]
                yield Heat(label, ratio.text, asked, size, mine)
        for size in sorted({one.fixed for one in self.entrants if one.fixed is not None}):
            mine = [one for one in self.entrants if one.fixed == size]
            yield Heat(amount(size, "sample"), None, size, size, mine)

    def subset(self, number: int) -> Rows:
        """Rows of a random subset."""
        return self._drawn(self.subset_size, _SUBSETS + number)

    def training_seed(self, number: int) -> int:
        """Of a training: another for each number and seed, so that another seed repeats no training."""
        return (self.seed * _APART + number) % 2**32

    def _drawn(self, n: int, draw: int) -> Rows:
        key = numbers_of_positions(self.position, (self.seed * _APART**2 + draw) % 2**64)
        return np.argsort(key, kind="stable")[:n]

    def tested(self, half: int, name: str, n: int) -> npt.NDArray[np.bool_]:
        """``[n]`` which samples of a validation set measure where one half of them chose."""
        if self.held_out:
            return np.full(n, name in self.held_out)
        fold = np.arange(n) % self.n_folds.get(name, 2)
        return np.asarray(fold % 2 != half)


def read_work(options: ValidateOptions, data: dict[str, Any], model: str) -> Work:
    """What the store has for a validation.

    Args:
        options: what was asked for.
        data: row of the dataset.
        model: name of the model whose scores are tried.

    Raises:
        UsageError: unknown names, a ratio that selects nothing, or no validation set that is left to choose by.
        MissingScoresError: no finished influence of the model, or scores that a strategy needs.
    """
    with Store(options.store_file, read_only=True, wait_s=WAIT_S) as opened:
        found = opened.arrow("trials/samples_of_dataset", dataset_id=data["dataset_id"])
        n = len(found)
        work = Work(
            data=data,
            position=numbers(found.column("position")),
            ids=bytes_of_ids(found.column("sample_id").combine_chunks()),
            seed=options.seed,
            # twice the same is once
            ratios=list(dict.fromkeys(Ratio.parse(one) for one in options.ratio or ("0.1",))),
            seeds=options.seeds,
            subsets=options.subsets,
            subset_size=min(options.subset_size or min(max(n // 10, 1), _LARGEST_SUBSET), n),
            held_out=list(options.held_out),
            n_scored=n,
        )
        _Reader(opened, options, model, work).read()
    for ratio in work.ratios if work.entrants else ():
        if ratio.of(work.n_scored) == 0:
            raise UsageError(
                f"a ratio of {ratio.text} of {amount(work.n_scored, 'scored sample')} selects none",
                f"give at least {1 / max(work.n_scored, 1):.3g}",
            )
    return work


@dataclass(frozen=True, slots=True)
class _Reader:
    """Fills a ``Work`` from the store."""

    opened: Store
    options: ValidateOptions
    model: str
    work: Work

    def read(self) -> None:
        work = self.work
        for run in self.opened.rows("trials/runs_with_scores", dataset_id=work.data["dataset_id"]):
            work.columns += self._columns(run)
        names = {name for one in work.columns for name in one.by_set if name}
        if not any(one.by_set.keys() - {""} for one in work.columns):
            raise MissingScoresError(
                f"dataset `{work.data['name']}` has no finished influence of model `{self.model}`",
                f"run `diq score influence {quoted(work.data['name'])} --model {quoted(str(self.options.model))}`",
            )
        chance = numbers_of_positions(work.position, work.seed).astype(np.float64) / 2**64
        work.columns.append(Column("random", None, {"": chance}))
        work.measured = [*sorted(names), *(one for one in work.held_out if one not in names)]
        if work.seeds:
            has_levels = any(one.label == "difficulty" for one in work.columns)
            usual = ("diq", "influence") if has_levels else ("influence",)
            for strategy in dict.fromkeys(self.options.strategy or usual):
                self._add_strategy(strategy)
            for name in dict.fromkeys(self.options.selection):
                self._add_selection(name)

    # scores ------------------------------------------------------------------------------------------------------

    def _columns(self, run: Mapping[str, Any]) -> Iterator[Column]:
        """The scores of a run, one column a validation set where it has some."""
        run_id, kind, label = run["run_id"], run["kind"], run["label"]
        ids = {"dataset_id": self.work.data["dataset_id"], "run_id": run_id}
        sets = [one["name"] for one in self.opened.rows("store/validation_sets_of_run", run_id=run_id)]
        if kind == "influence" and run["model"] == self.model:
            dots, cosines = {}, {}
            for name in sets:
                read = read_influence(self.opened, **ids, weights={name: 1.0}, norms=True)
                assert read.norm is not None
                dots[name] = read.dot
                cosines[name] = divided(read.dot, read.norm)
            yield Column(label, run_id, dots)
            if all(np.isfinite(one).any() for one in cosines.values()):
                yield Column(f"{label}, cosine", run_id, cosines)
        elif kind in ("similarity", "bm25"):
            close = {name: read_similarity(self.opened, **ids, weights={name: 1.0}) for name in sets}
            yield Column(f"{kind}, {run['model'] or run['method']}", run_id, close)
        elif kind == "length" or (kind in ("perplexity", "ifd") and run["model"] == self.model):
            found = self.opened.arrow("store/text_score_of_dataset", **ids)
            score = by_position(self.work.position, found, "score")
            yield Column("perplexity, lowest" if kind == "perplexity" else kind, run_id,
                         {"": -score if kind == "perplexity" else score})  # fmt: skip
        elif kind == "difficulty":
            found = self.opened.arrow(
                "store/levels_of_dataset",
                dataset_id=ids["dataset_id"],
                difficulty=self.options.difficulty,
                difficulty_run=run_id,
            )
            yield Column("difficulty", run_id, {"": by_position(self.work.position, found, "level")})

    # entrants ----------------------------------------------------------------------------------------------------

    def _add_selection(self, name: str) -> None:
        selection_id = self.opened.selection(name)["selection_id"]
        row = self.opened.row("store/ranking_of_selection", selection_id=selection_id)
        assert row is not None
        if row["dataset"] != self.work.data["name"]:
            raise UsageError(
                f"the selection `{name}` is of dataset `{row['dataset']}`, not of `{self.work.data['name']}`",
                "name one of the dataset",
            )
        chosen_by = json.loads(row["config"]).get("validation_weights")
        sets = self.opened.rows("store/validation_sets_of_run", run_id=row["influence_run"] or row["score_run"])
        seen = [one for one in self.work.held_out if one in (chosen_by or [each["name"] for each in sets])]
        if seen:
            raise UsageError(
                f"the selection `{name}` was chosen by the held-out validation set `{seen[0]}`",
                "select by other sets, with --validation-set, or hold out another",
            )
        kept = self.opened.rows("trials/positions_of_selection", selection_id=selection_id)
        rows = np.searchsorted(self.work.position, np.asarray([one["position"] for one in kept], np.int64))
        self.work.entrants.append(Entrant(name, (rows, rows), fixed=len(rows)))

    def _add_strategy(self, strategy: str) -> None:
        """Add the orders of a strategy by either half of the validation samples, or a word why it has none."""
        work, options = self.work, self.options
        request = Request.of(
            strategy,
            model=self.model,
            encoder=None,
            difficulty=options.difficulty,
            percentile=options.difficulty_percentile,
            threshold=None,
            influence=options.influence,
            seed=work.seed,
        )
        by_dots = strategy in DOT_STRATEGIES
        runs = choose_runs(self.opened, work.data, request, options.run if by_dots else None, options.difficulty_run)
        if not by_dots and strategy not in BLIND and not work.held_out:
            work.left_out.append(f"{strategy}: every validation sample has a part in it; give --held-out")
            return
        if by_dots and read_certificate(self.opened, int(runs.influence or 0), work.data["dataset_id"]) is not None:
            work.left_out.append(f"{strategy}: run {runs.influence} was scored in part; score the rest first")
            return
        weights = settled_weights(self.opened, request, runs, self._choosing(runs))
        scores = ranked_scores(self.opened, work.data, request, runs, weights)
        if by_dots and not work.held_out:
            if scores.halves is None:
                work.left_out.append(
                    f"{strategy}: the dots of run {runs.influence} have no folds to hold one half out by; score with "
                    "--folds 2, or give --held-out"
                )
                return
            sets = self.opened.rows("store/validation_sets_of_run", run_id=runs.influence)
            work.n_folds |= {one["name"]: len(one["fold_sizes"]) for one in sets}
            halves = [Scores(scores.position, scores.level, half, scores.score) for half in scores.halves]
        else:
            halves = [scores, scores]
        one, other = (order(half, request) for half in halves)
        work.n_scored = min(work.n_scored, len(one.rows), len(other.rows))
        work.entrants.append(Entrant(strategy, (one.rows, other.rows), (one.counts, other.counts)))

    def _choosing(self, runs: Runs) -> Sequence[str]:
        """Names of the validation sets that may choose, where some are held out."""
        run_id = runs.score if runs.influence is None else runs.influence
        sets = [one["name"] for one in self.opened.rows("store/validation_sets_of_run", run_id=run_id)]
        if not sets or not self.work.held_out:
            return ()
        left = [name for name in sets if name not in self.work.held_out]
        if not left:
            raise UsageError(
                f"every validation set of run {run_id} is held out: none is left to choose by",
                "hold out fewer, or score with others",
            )
        return left if len(left) < len(sets) else ()
