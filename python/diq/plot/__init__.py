"""Charts of what a store holds: the plane of difficulty and influence, distributions, stability, results, costs.

Each function takes a store and names, lets DuckDB count, and returns an Altair chart: notebooks show it by itself, and
``chart.save("plane.svg")`` (or .png, .pdf, .html, .json) writes it without a browser. The data in a chart are counts, a
few thousand rows whatever the size of the dataset, and never texts.

Needs ``pip install 'diq[report]'``.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

from diq.base import config
from diq.base.config import DIFFICULTY_DIMENSIONS
from diq.base.errors import MissingScoresError
from diq.base.extras import missing_package
from diq.base.text import check_choice
from diq.plot import charts, data
from diq.plot.ground import StoreLike, grounded, opened
from diq.store.store import Store

if TYPE_CHECKING:
    import altair as alt

__all__ = [
    "cost",
    "difficulty_levels",
    "influence",
    "length_bias",
    "losses",
    "overlap",
    "quadrants",
    "ratios",
    "stability",
    "tasks",
]


def quadrants(
    store: StoreLike = None,
    dataset: str | None = None,
    model: str | None = None,
    *,
    selection: str | int | None = None,
    run: int | None = None,
    difficulty: str = "overall",
    validation_set: str | Sequence[str] = (),
    scale: Literal["symlog", "linear"] = "symlog",
) -> alt.Chart:
    """The plane of difficulty and influence: how many samples lie where, tau and the median, what a selection takes.

    Args:
        store: a store file or an open store; None takes ``$DIQ_STORE``, else ``diq.duckdb``.
        dataset: its name; None takes that of the selection, or the only one.
        model: name of a scored model; None likewise.
        selection: name or number of a selection to outline.
        run: influence run; None takes that of the selection, or the only one.
        difficulty: ``overall``, ``knowledge`` or ``reasoning``; a selection brings its own.
        validation_set: those whose dots count, as ``NAME`` or ``NAME=WEIGHT``; none: all of the run. A selection by
            dots brings its own.
        scale: of the dots; ``symlog`` is logarithmic on both sides of zero, for heavy tails.

    Raises:
        MissingScoresError: difficulty or influence is missing; the hint has the command that makes it.
        UsageError: an unknown name, or several to choose from.
    """
    check_choice("scale", scale, ("symlog", "linear"))
    check_choice("difficulty", difficulty, DIFFICULTY_DIMENSIONS)
    with grounded(
        store, dataset, model, selection=selection, run=run, dimension=difficulty, validation_set=validation_set
    ) as found:
        drawn = data.plane(found, is_linear=scale == "linear")
        return _chart(charts.quadrants(drawn, found.name, found.model, _name(found.selection)))


def difficulty_levels(
    store: StoreLike = None,
    dataset: str | Sequence[str] | None = None,
    model: str | None = None,
    *,
    run: int | None = None,
    difficulty: str = "overall",
    validation_set: str | Sequence[str] = (),
) -> alt.Chart:
    """How many samples have each level of difficulty, by dimension and quadrant (the paper's Figures 8 to 12).

    Args:
        store: as for `quadrants`.
        dataset: one name or several; None takes the only dataset.
        model: whose dots make the quadrants; None takes the only one.
        run: influence run, where there are several.
        difficulty: dimension that makes the quadrants.
        validation_set: as for `quadrants`.

    Raises:
        MissingScoresError: no dataset has difficulty scores.
        UsageError: an unknown name.
    """
    names = [dataset] if dataset is None or isinstance(dataset, str) else list(dataset)
    rows: list[dict[str, Any]] = []
    dimensions: dict[str, None] = {}
    missing: list[MissingScoresError] = []
    with opened(store) as one_store:
        for name in names:
            with grounded(
                one_store, name, model, run=run, dimension=difficulty, validation_set=validation_set
            ) as found:
                try:
                    drawn = data.levels(found)
                except MissingScoresError as error:
                    missing.append(error)
                    continue
                rows += drawn.rows
                dimensions |= dict.fromkeys(drawn.facts["dimensions"])
    if not rows:
        raise missing[0]
    return _chart(charts.difficulty_levels(data.Drawn(rows, {"dimensions": list(dimensions)})))


def influence(
    store: StoreLike = None, dataset: str | None = None, model: str | None = None, *, run: int | None = None
) -> alt.Chart:
    """The distribution of the dots with each validation set, with the median and a standard error (Figures 13 to 17).

    Args:
        store: as for `quadrants`.
        dataset: likewise.
        model: likewise.
        run: influence run, where there are several.

    Raises:
        MissingScoresError: there are no dots.
        UsageError: an unknown name, or several to choose from.
    """
    with grounded(store, dataset, model, run=run) as found:
        return _chart(charts.influence(data.dots(found), found.name, found.model))


def length_bias(
    store: StoreLike = None,
    dataset: str | None = None,
    model: str | None = None,
    *,
    selection: str | int | None = None,
    validation_set: str | Sequence[str] = (),
) -> alt.Chart:
    """The dot against the number of answer tokens, and how much of each length a selection takes.

    Arguments and errors as for `quadrants`.
    """
    with grounded(store, dataset, model, selection=selection, validation_set=validation_set) as found:
        return _chart(charts.length_bias(data.lengths(found), found.name, _name(found.selection)))


def stability(
    store: StoreLike = None,
    dataset: str | None = None,
    model: str | None = None,
    *,
    selection: str | int | None = None,
    validation_set: str | Sequence[str] = (),
) -> alt.Chart:
    """How differently two halves of the validation samples rank, and how much of a selection they disagree on.

    Arguments and errors as for `quadrants`; the dots need folds (``diq score influence --folds``, 2 by default).
    """
    with grounded(store, dataset, model, selection=selection, validation_set=validation_set) as found:
        return _chart(charts.stability(data.halves(found), found.name))


def tasks(store: StoreLike = None, selection: str | int | None = None, *, run: int | None = None) -> alt.Chart:
    """Share of each validation task in a selection against its share in the dataset.

    Args:
        store: as for `quadrants`.
        selection: name or number; None takes the latest.
        run: influence run to measure by, where the selection's strategy uses no dots.

    Raises:
        MissingScoresError: there are no dots, or those of one task alone.
        UsageError: an unknown selection, or there is none.
    """
    with opened(store) as one_store:
        if selection is None:
            known = one_store.rows("store/list_selections")
            selection = known[0]["selection_id"] if known else None
        with grounded(one_store, selection=selection, run=run) as found:
            return _chart(charts.tasks(data.tasks(found), found.name, _name(found.selection) or ""))


def overlap(store: StoreLike = None, selections: Sequence[str | int] = ()) -> alt.Chart:
    """What each two of several selections share, as a share of the smaller one.

    Args:
        store: as for `quadrants`.
        selections: names or numbers of two or more; none: the latest eight.

    Raises:
        UsageError: an unknown selection, or fewer than two.
    """
    with opened(store) as one_store:
        chosen = list(selections) or [one["selection_id"] for one in one_store.rows("store/list_selections")[:8]]
        return _chart(charts.overlap(data.overlap(one_store, chosen)))


def ratios(
    store: StoreLike = None,
    dataset: str | None = None,
    model: str | None = None,
    *,
    average: Literal["all", "standard", "challenging"] = "all",
    published: str | None = None,
) -> alt.Chart:
    """Benchmark averages against the ratio that was kept, a line a strategy (the paper's Figures 3, 5 and 6).

    Args:
        store: as for `quadrants`.
        dataset: fine-tuned on this one alone.
        model: of this base model alone.
        average: of all nine benchmarks, or of the standard or challenging ones.
        published: rows of the paper to set beside: a dataset, a model or a table (``diq results --published``).

    Raises:
        MissingScoresError: nothing was evaluated that has such an average.
        UsageError: unknown names.
    """
    from diq.evaluation.results import results

    path = store.path if isinstance(store, Store) else config.store_path(store)
    found = results(store=path, dataset=dataset, model=model, published=published)
    made = charts.ratios(found, average)
    if made is None:
        raise MissingScoresError(
            f"no model of the store has been evaluated on all benchmarks of the average `{average}`",
            "`diq evaluate --model MODEL` with every benchmark makes one",
        )
    return _chart(made)


def cost(source: str | None = None, *, model: str, **options: Any) -> alt.Chart:
    """FLOPs of scoring and training, by the paper's formulas and counted in full (the paper's Figure 4).

    Args:
        source: a dataset of the store or a file; None with ``samples`` and ``tokens``.
        model: a model folder, a hub id, or a size that `diq cost` knows.
        options: as for `diq.cost`.

    Raises:
        UsageError: as `diq.cost`.
    """
    from diq.costs.cost import cost as count

    return _chart(charts.cost(count(source, model=model, **options)))


def losses(store: StoreLike = None, runs: Sequence[int] | None = None) -> alt.Chart:
    """Loss curves of trainings, with those of validation sets.

    Args:
        store: as for `quadrants`.
        runs: numbers of the trainings; None takes all.

    Raises:
        MissingScoresError: the store has no training.
    """
    with opened(store) as one_store:
        return _chart(charts.losses(data.trainings(one_store, runs)))


def _name(selection: dict[str, Any] | None) -> str | None:
    return None if selection is None else str(selection["name"])


def _chart(spec: charts.Spec) -> alt.Chart:
    try:
        import altair
    except ModuleNotFoundError as error:
        raise missing_package("diq.plot", error) or error from error
    # white, also where a notebook or a viewer is dark: the ink is dark
    return altair.Chart.from_dict({**spec, "background": "white"})
