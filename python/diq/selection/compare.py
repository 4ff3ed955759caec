"""Stage: what selections share, and how they differ from each other and from their whole dataset. Reads only."""

from __future__ import annotations

import itertools
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from diq.base.errors import UsageError
from diq.base.options import verb
from diq.base.summary import Summary
from diq.base.text import amount
from diq.selection.options import CompareOptions
from diq.selection.quadrants import QUADRANTS
from diq.store.store import Store

log = logging.getLogger(__name__)

LENGTHS = ("prompt", "reasoning", "answer")
"""The parts of a sample whose characters are counted."""


@dataclass(frozen=True, slots=True)
class Profile:
    """What the samples of a selection, or of a whole dataset, look like.

    Shares are of the samples that have what is counted: a dot for the tasks, a quadrant for the quadrants.

    Attributes:
        selection_id: number of the selection; None for a whole dataset.
        name: of the selection or dataset.
        dataset: name of the dataset.
        strategy: strategy of the selection; None for a whole dataset.
        ratio: ratio of the selection as typed; None for a whole dataset.
        n: samples that the store finds.
        n_missing: samples that were selected and are no longer in the dataset.
        replaced: whether scores changed and another ranking took the place of the selection's.
        scores: ``difficulty``, ``dot``, ``loss`` and ``answer_tokens``, each with ``n`` finite values, ``min``,
            ``p10``, ``median``, ``p90``, ``max`` and ``mean``; what nothing is known of is left out.
        measured_by: numbers of the rankings that ``difficulty``, ``dot`` and ``quadrant`` are read from (the
            selection's own where it has them), and of the runs of loss and answer tokens (``run``) and of the tasks
            (``tasks_run``); None where nothing has them.
        lengths: ``prompt``, ``reasoning`` and ``answer``, each with ``mean`` and ``median`` in characters.
        sources: samples and share of each source.
        tasks: samples and share of each validation task, the one that a sample is closest to; empty without dots.
        quadrants: samples and share of Q1 to Q4; empty without quadrants.
    """

    selection_id: int | None
    name: str
    dataset: str
    strategy: str | None
    ratio: str | None
    n: int
    n_missing: int
    replaced: bool
    scores: dict[str, dict[str, float]]
    measured_by: dict[str, int | None]
    lengths: dict[str, dict[str, float]]
    sources: list[dict[str, Any]] = field(default_factory=list)
    tasks: list[dict[str, Any]] = field(default_factory=list)
    quadrants: list[dict[str, Any]] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Overlap:
    """What two selections share, counted by sample id, so that their datasets may differ.

    Attributes:
        a: number of the one selection.
        b: number of the other.
        shared: samples that are in both.
        jaccard: shared over the samples that are in either; None when both are empty.
        share_of_smaller: share of the smaller selection that is in the larger; None when it is empty.
    """

    a: int
    b: int
    shared: int
    jaccard: float | None
    share_of_smaller: float | None


@dataclass(frozen=True, slots=True, repr=False)
class Comparison(Summary):
    """Selections side by side.

    Attributes:
        selections: one profile each, in the order that was asked.
        datasets: one profile of each dataset that they come from, in the order of their first selection.
        overlap: one entry a pair of selections.
    """

    selections: list[Profile]
    datasets: list[Profile]
    overlap: list[Overlap]


@dataclass(frozen=True, slots=True)
class _Yardstick:
    """The rankings that hold difficulty, dot and quadrant of every scored sample of a dataset; None: none does."""

    difficulty: int | None
    dot: int | None
    quadrant: int | None
    run: int | None
    validation_sets: list[str] | None

    @classmethod
    def of(cls, store: Store, dataset_id: int, ranking_ids: Sequence[int]) -> _Yardstick:
        rankings = store.rows("selection/compare_rankings", dataset_id=dataset_id, ranking_ids=list(ranking_ids))
        difficulty = next((one for one in rankings if one["difficulty_run"] is not None), None)
        dot = next((one for one in rankings if one["influence_run"] is not None), None)
        quadrant = next((one for one in rankings if one["has_quadrants"]), None)
        if dot is not None and dot["n_ranked"] is not None:
            log.warning(
                "ranking %d comes from a run that was scored in part: what is shown of difficulty and dots is of the "
                "%s at its beginning, of %s",
                dot["ranking_id"], amount(dot["n_ranked"], "sample"), f"{dot['n_scored']:,}",
            )  # fmt: skip
        return cls(
            difficulty=difficulty["ranking_id"] if difficulty else None,
            dot=dot["ranking_id"] if dot else None,
            quadrant=quadrant["ranking_id"] if quadrant else None,
            run=dot["influence_run"] if dot else None,
            validation_sets=dot["validation_sets"] if dot else None,
        )


@verb(CompareOptions)
def compare(options: CompareOptions) -> Comparison:
    """Compare selections with each other and with the datasets that they come from.

    Difficulty, dot and quadrant of a selection are those that its ranking was made from. Where its strategy uses none
    (random, for one), they are read from another ranking of the dataset that has them: that of a selection beside it,
    or else the latest. The reference of a whole dataset comes from there too, and so do the tasks of all.

    Raises:
        UsageError: fewer than two selections, an unknown one, or one that is given twice.
    """
    asked = [str(one) for one in options.selections]
    if len(asked) < 2:
        raise UsageError(
            f"a comparison needs two selections, found {len(asked)}",
            "name two or more by number or name; `diq status` lists them",
        )
    report = options.progress or (lambda *_: None)
    with Store(options.store_file, read_only=True) as opened:
        ids = _look_up(opened, asked)
        rows = {row["selection_id"]: row for row in opened.rows("store/compare_selections", selection_ids=ids)}
        chosen = [rows[one] for one in ids]
        _warn(chosen)
        by_dataset: dict[int, list[dict[str, Any]]] = {}
        for row in chosen:
            by_dataset.setdefault(row["dataset_id"], []).append(row)
        made: dict[int, Profile] = {}
        datasets: list[Profile] = []
        total = len(chosen) + len(by_dataset)
        for dataset_id, members in by_dataset.items():
            yardstick = _Yardstick.of(opened, dataset_id, [row["ranking_id"] for row in members])
            tasks = _tasks(opened, dataset_id, yardstick, [row["selection_id"] for row in members])
            for row in members:
                made[row["selection_id"]] = _profile(opened, row, yardstick, tasks)
                report("compare", len(made) + len(datasets), total)
            datasets.append(_profile(opened, _whole(opened, members[0]), yardstick, tasks))
            report("compare", len(made) + len(datasets), total)
        return Comparison([made[one] for one in ids], datasets, _overlap(opened, chosen))


def _look_up(store: Store, asked: Sequence[str]) -> list[int]:
    """Numbers of the selections, in the order that they were asked for."""
    found: dict[int, str] = {}
    for text in asked:
        row = store.selection(text)
        if row["selection_id"] in found:
            first = found[row["selection_id"]]
            same = f"`{text}` is" if first == text else f"`{first}` and `{text}` are"
            raise UsageError(
                f"{same} the same selection, given twice: {row['selection_id']} ({row['name']})",
                "name each once; an earlier selection of a name goes by its number",
            )
        found[row["selection_id"]] = text
    return list(found)


def _warn(chosen: Sequence[Mapping[str, Any]]) -> None:
    for row in chosen:
        if row["n_found"] < row["n"]:
            log.warning(
                "%s of the %s of selection %s (`%s`) are no longer in dataset `%s`: they count nowhere",
                f"{row['n'] - row['n_found']:,}",
                amount(row["n"], "sample"),
                row["selection_id"],
                row["name"],
                row["dataset"],
            )


def _whole(store: Store, row: Mapping[str, Any]) -> dict[str, Any]:
    """The dataset of a selection in the shape of a selection."""
    data = store.dataset(row["dataset"])
    empty = dict.fromkeys(("ratio", "strategy", "ranking_id", "first", "influence_run", "difficulty_run"))
    return {
        **empty,
        "selection_id": None,
        "of_selection": row["selection_id"],
        "name": row["dataset"],
        "dataset": row["dataset"],
        "dataset_id": row["dataset_id"],
        "n": data["n_samples"],
        "n_found": data["n_samples"],
        "replaced": False,
        "has_quadrants": False,
    }


def _profile(
    store: Store, row: Mapping[str, Any], yardstick: _Yardstick, tasks: Mapping[int | None, dict[str, int]]
) -> Profile:
    own = row["ranking_id"]
    difficulty = own if row["difficulty_run"] is not None else yardstick.difficulty
    dot = own if row["influence_run"] is not None else yardstick.dot
    quadrant = own if row["has_quadrants"] else yardstick.quadrant
    influence_run = row["influence_run"] if row["influence_run"] is not None else yardstick.run
    place = {"dataset_id": row["dataset_id"], "ranking_id": own, "first": row["first"], "n": row["n"]}
    scores = store.rows(
        "selection/compare_scores", **place, difficulty_ranking=difficulty, dot_ranking=dot, influence_run=influence_run
    )
    (lengths,) = store.rows("selection/compare_lengths", **place)
    found = {
        one["quadrant"]: one["n"]
        for one in store.rows("selection/compare_quadrants", **place, quadrant_ranking=quadrant)
    }
    whole = row["selection_id"] is None
    sources = store.rows(
        "selection/compare_sources", selection_id=row["of_selection"] if whole else row["selection_id"]
    )
    counts = [one["n_dataset"] if whole else one["n"] for one in sources]
    return Profile(
        selection_id=row["selection_id"],
        name=row["name"],
        dataset=row["dataset"],
        strategy=row["strategy"],
        ratio=row["ratio"],
        n=row["n_found"],
        n_missing=row["n"] - row["n_found"],
        replaced=row["replaced"],
        scores={one.pop("score"): one for one in scores},
        measured_by={
            "difficulty": difficulty,
            "dot": dot,
            "quadrant": quadrant,
            "run": influence_run,
            "tasks_run": yardstick.run,
        },
        lengths={
            part: {name: lengths[f"{part}_{name}"] for name in ("mean", "median")} if lengths["n"] else {}
            for part in LENGTHS
        },
        sources=[
            {"source_id": one["source_id"], "source": one["source"], **share}
            for one, share in zip(sources, _shares(counts), strict=True)
        ],
        tasks=_named("task", tasks.get(row["selection_id"], {}), list(tasks.get(None, {}))),
        quadrants=_named("quadrant", found, QUADRANTS if quadrant is not None else ()),
    )


def _tasks(
    store: Store, dataset_id: int, yardstick: _Yardstick, selection_ids: Sequence[int]
) -> dict[int | None, dict[str, int]]:
    """Samples that are closest to each task, by selection; None: in the dataset, with every task of the run."""
    if yardstick.run is None:
        return {}
    sets = [one["name"] for one in store.rows("store/validation_sets_of_run", run_id=yardstick.run)]
    chosen = [name for name in sets if yardstick.validation_sets is None or name in yardstick.validation_sets]
    counts: dict[int | None, dict[str, int]] = {None: dict.fromkeys(chosen, 0)}
    rows = store.rows(
        "selection/compare_tasks",
        dataset_id=dataset_id,
        run_id=yardstick.run,
        validation_sets=yardstick.validation_sets,
        selection_ids=list(selection_ids),
    )
    for row in rows:
        counts.setdefault(row["selection_id"], {})[row["validation_set"]] = row["n"]
    return counts


def _named(noun: str, counts: Mapping[str, int], names: Sequence[str]) -> list[dict[str, Any]]:
    shares = _shares([counts.get(name, 0) for name in names])
    return [{noun: name, **share} for name, share in zip(names, shares, strict=True)]


def _shares(counts: Sequence[int]) -> list[dict[str, Any]]:
    total = sum(counts)
    return [{"n": n, "share": n / total if total else None} for n in counts]


def _overlap(store: Store, chosen: Sequence[Mapping[str, Any]]) -> list[Overlap]:
    ids = [row["selection_id"] for row in chosen]
    shared = {
        (row["a"], row["b"]): row["shared"] for row in store.rows("store/overlap_of_selections", selection_ids=ids)
    }
    pairs = []
    for a, b in itertools.combinations(chosen, 2):
        numbers = a["selection_id"], b["selection_id"]
        n = shared.get((min(numbers), max(numbers)), 0)
        either, smaller = a["n_found"] + b["n_found"] - n, min(a["n_found"], b["n_found"])
        pairs.append(Overlap(*numbers, n, n / either if either else None, n / smaller if smaller else None))
    return pairs
