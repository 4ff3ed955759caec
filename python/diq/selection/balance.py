"""An order in which tasks or sources take turns.

Within each quadrant (or the whole order, where the strategy uses none) every group in its turn gives its best sample
that is not taken yet, and one that has none left is passed over. A task's best is by its own dots (or similarities),
equal ones as the strategy ranks them; so a sample may come in the turn of any task. A source's best is as the strategy
ranks.

Sources: round robin over target samples, RDS+ of Ivison et al. (2025), arXiv:2503.01807; why tasks need balance, and
the greedy form that we do not take (docs/method.md says why), Dai et al. (2025), arXiv:2501.12147.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from diq import _core
from diq.base.arrow import numbers
from diq.base.errors import UsageError
from diq.influence.stored import choose_weights, divided, read_influence, read_tasks
from diq.selection.scores import Floats, Request, Runs
from diq.store.store import Store

Rows = npt.NDArray[np.int64]

# what rank() takes for a number that is none: behind all others
_LAST = float(np.finfo(np.float64).min)


# strategies of text scores that have one for each task; RDS+ takes turns of its own, over single validation samples
_OWN_SCORES = ("similarity", "bm25")

Lists: TypeAlias = Callable[[Rows], list[Rows]]
"""From ``[k]`` rows of the scores in rank order: a list for each group of places 0 to k - 1, best first."""


def balanced(rows: Rows, counts: Sequence[int] | None, lists: Lists) -> Rows:
    """The rows of a ranking in another order: groups take turns within each quadrant.

    Args:
        rows: ``[k]`` in rank order.
        counts: rows of each quadrant; None: there are none.
        lists: of the groups.
    """
    order = []
    for part in np.split(rows, np.cumsum(counts)[:-1]) if counts else [rows]:
        # a quadrant is a range of the order, so its lists are made of it alone
        groups = lists(part)
        ends = np.cumsum([len(one) for one in groups], dtype=np.int64)
        order.append(part[_core.take_turns(np.concatenate(groups), ends, n=len(part))])
    return np.concatenate(order)


def task_lists(rows: Rows, scores: Sequence[Floats]) -> list[Rows]:
    """See ``Lists``: a list of all places for each task, by its own scores ``[n]``, equal ones by place."""
    found = []
    for column in scores:
        own = np.nan_to_num(column[rows], copy=False, nan=_LAST, posinf=_LAST, neginf=_LAST)
        # one difficulty for all: by score, then by place
        found.append(_core.rank(own, np.zeros(len(own), np.float32)).rows)
    return found


def source_lists(rows: Rows, source: npt.NDArray[np.integer[Any]]) -> list[Rows]:
    """See ``Lists``: the places of each source, in the order of their numbers, ``[n]`` from 0 on."""
    mine = source[rows]
    return np.split(np.argsort(mine, kind="stable"), np.cumsum(np.bincount(mine))[:-1])


def check_balance(
    store: Store, data: Mapping[str, Any], request: Request, runs: Runs, asked: Sequence[str], by: str
) -> None:
    """Refuse a balance that has nothing to balance, before anything is read.

    Raises:
        UsageError: the strategy has no scores of single tasks, or there is one task or source alone.
    """
    if by == "sources":
        n = len(store.rows("selection/count_sources", dataset_id=data["dataset_id"]))
        if n < 2:
            raise UsageError(
                f"--balance sources has nothing to balance: all of dataset `{data['name']}` comes from one source",
                "leave it out, or ingest the files of all sources into one dataset",
            )
        return
    run_id = task_run(request, runs)
    if run_id is None:
        raise UsageError(
            f"--balance tasks needs scores of each task, and the strategy `{request.strategy}` ranks by none",
            "take a strategy of dots or similarities, or --balance sources",
        )
    sets = store.rows("store/validation_sets_of_run", run_id=run_id)
    weights = choose_weights(asked, sets)
    names = [one["name"] for one in sets if weights is None or one["name"] in weights]
    if len(names) < 2:
        raise UsageError(
            f"--balance tasks has nothing to balance: the scores of run {run_id} that count are of one task, "
            f"{', '.join(f'`{name}`' for name in names)}",
            "leave it out, or score with several validation sets",
        )


def task_run(request: Request, runs: Runs) -> int | None:
    """The run that has a score of each task; None where the strategy ranks by no such scores."""
    return runs.score if request.strategy in _OWN_SCORES else runs.influence


def read_balance(
    store: Store,
    data: Mapping[str, Any],
    request: Request,
    runs: Runs,
    weights: Mapping[str, float] | None,
    positions: Rows,
    by: str,
) -> Lists:
    """Who takes turns in a ranking of the samples at some ascending positions.

    Args:
        store: an open store.
        data: the dataset.
        request: what is ranked by; with the influence ``cosine`` a task's own scores are cosines too.
        runs: whose scores.
        weights: the validation sets that count, a turn each whatever their weight; None takes all of the run.
        positions: ``[n]``, of the rows that are ranked.
        by: ``tasks`` or ``sources``.
    """
    ids = {"dataset_id": data["dataset_id"]}
    if by == "sources":
        found = store.arrow("selection/source_of_positions", **ids)
        rows = np.searchsorted(numbers(found.column("position")), positions)
        source = numbers(found.column("source_id"))[rows]
        source = source - source.min(initial=0)
        # numpy sorts 16 bits without comparisons
        small = source.max(initial=0) < 1 << 16
        return functools.partial(source_lists, source=source.astype(np.uint16) if small else source)
    run_id = task_run(request, runs)
    assert run_id is not None
    everywhere = numbers(store.arrow("store/positions_of_dataset", **ids).column("position"))
    rows = np.searchsorted(everywhere, positions)
    similarity = request.strategy in _OWN_SCORES
    scores = [
        column[rows] for _, column in read_tasks(store, **ids, run_id=run_id, weights=weights, similarity=similarity)
    ]
    if request.influence == "cosine":
        norm = read_influence(store, **ids, run_id=run_id, weights=weights, norms=True).norm
        assert norm is not None
        scores = [divided(one, norm[rows]) for one in scores]
    return functools.partial(task_lists, scores=scores)
