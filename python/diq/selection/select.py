"""Select: the first floor(N * ratio) samples of a ranking, written and recorded."""

from __future__ import annotations

import contextlib
import logging
import math
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from diq.base.command import quoted
from diq.base.errors import MissingScoresError, UsageError
from diq.base.files import check_file, restored_on_error
from diq.base.options import verb
from diq.base.summary import Summary
from diq.base.text import Ratio, amount
from diq.selection.balance import check_balance
from diq.selection.options import TEXT_STRATEGIES, SelectOptions, default_name, norm_quantile
from diq.selection.output import check_ending, written
from diq.selection.quadrants import QUADRANTS
from diq.selection.ranking import Ranking, find_ranking, read_part
from diq.selection.scores import Request, Runs, choose_runs, settled_weights
from diq.store.outputs import check_output
from diq.store.store import Store, now

if TYPE_CHECKING:
    from diq.selection.exclusions import Guard

log = logging.getLogger(__name__)

# above this share of flips between two halves of the validation samples, more of a selection is chance than not
_MOST_FLIPS = 0.5


@dataclass(frozen=True, slots=True, repr=False)
class Selection(Summary):
    """A selection that was made and recorded.

    Attributes:
        selection_id: number in the store.
        name: name in the store.
        dataset: dataset.
        strategy: strategy.
        n: samples selected.
        n_target: floor(N * ratio).
        ratio: as typed.
        thresholds: ``tau`` of difficulty and ``median`` of the dots; None where the strategy uses none.
        counts: samples in each quadrant of the dataset and of the selection; empty where the strategy uses none.
        n_scored: N, the samples with the scores that the strategy needs.
        n_unscored: samples without them, or outside what the strategy takes (an IFD above 1, the band of a pass rate).
        n_excluded: samples that guards left out, which are in neither.
        guards: what each guard left out and why.
        flip_share: share of the selection that differs between two halves of the validation samples; None where the
            strategy uses no dots or their folds are missing.
        ranking_id: number of the ranking that it is a part of.
        ranking: ``stored`` (read from the store), ``new``, or ``renewed``: scores changed since the last selection.
        output: file that was written, or None.
        took_over: number of another selection that the name meant before, or None.
        recall: of a run that was scored by a cascade, the estimated share of what all dots would select that it has
            found: ``value``, and ``low`` and ``high`` of its 95 % interval; else None.
    """

    selection_id: int
    name: str
    dataset: str
    strategy: str
    n: int
    n_target: int
    ratio: float
    thresholds: dict[str, float | None]
    counts: dict[str, dict[str, int]]
    n_scored: int
    n_unscored: int
    n_excluded: int
    guards: list[dict[str, Any]]
    flip_share: float | None
    ranking_id: int
    ranking: str
    output: str | None
    took_over: int | None = None
    recall: dict[str, float] | None = None


@verb(SelectOptions)
def select(options: SelectOptions) -> Selection:
    """Select floor(N * ratio) samples of a dataset, write them in rank order and record the selection.

    The ranking is stored on the first call, and read on every later one with the same settings and scores.

    Raises:
        UsageError: an unknown name, a ratio outside (0, 1], a ratio that selects nothing, a bad place for the file.
        MissingScoresError: scores that the strategy needs are missing, unfinished or ambiguous.
        RunFailedError: the file could not be written; nothing was recorded, and what was there is there still.
    """
    parsed = Ratio.parse(options.ratio)
    output = None if options.output is None else Path(options.output)
    if output is not None:
        check_ending(output)
        check_file(output, store=options.store_file)
    request = Request.of(
        options.strategy,
        model=options.model,
        encoder=options.encoder,
        difficulty=options.difficulty,
        percentile=options.difficulty_percentile,
        threshold=options.difficulty_threshold,
        influence=options.influence,
        seed=options.seed,
        band=options.band,
    )

    def look_up(opened: Store) -> tuple[dict[str, Any], Runs, dict[str, float] | None]:
        if output is not None:
            check_output(opened, output)
        data = opened.dataset(options.dataset)
        if data["n_samples"] == 0:
            raise UsageError(f"the dataset `{options.dataset}` has no samples", "see `diq sql 'from rejects'`")
        runs = choose_runs(opened, data, request, options.run, options.difficulty_run, options.validation_set)
        weights = settled_weights(opened, request, runs, options.validation_set)
        if options.balance:
            check_balance(opened, data, request, runs, options.validation_set, options.balance)
        return data, runs, weights

    guards: list[Guard] = []
    outliers = None
    if options.dedupe or options.decontaminate or options.drop_outliers:
        # only who asks for guards waits for what they load
        from diq.selection.exclusions import find_exclusions
        from diq.selection.outliers import Outliers, choose_norms_run

        with Store(options.store_file, read_only=True) as opened:
            # a wrong name is told at once, not after the minutes that guards may take
            data, runs, _ = look_up(opened)
            if options.drop_outliers:
                norms_run = choose_norms_run(opened, data, options.norms_run, runs.influence)
                outliers = Outliers(norm_quantile(options.drop_outliers), norms_run)
        guards = find_exclusions(
            options.store_file,
            options.dataset,
            dedupe=options.dedupe,
            near_threshold=options.dedupe_threshold,
            decontaminate=options.decontaminate,
            min_share=options.decontaminate_share,
            outliers=outliers,
            progress=options.progress,
        )
    guard_runs = [guard.run_id for guard in guards]
    with Store(options.store_file) as opened:
        data, runs, weights = look_up(opened)
        ranking = find_ranking(opened, data, request, runs, weights, guard_runs, options.balance)
        n_target = parsed.of(ranking.n_scored)
        if n_target == 0:
            raise UsageError(
                f"a ratio of {parsed.text} of {amount(ranking.n_scored, 'scored sample')} selects none",
                f"give at least {1 / ranking.n_scored:.3g}",
            )
        if ranking.n_ranked is not None:
            _check_part(ranking, options, parsed, n_target)
        n_outside = _count_outside(opened, data, request, runs)
        part = None if ranking.n_ranked is None else read_part(opened, data, runs, weights)
        recall = None if part is None or part.recall is None else asdict(part.recall)
        if options.diverse is None:
            return _taken(opened, options, parsed, data, ranking, guards, n_outside, recall)
    # the store is not held while vectors are made and compared
    from diq.selection.walk import Diverse, walked

    asked = Diverse(options.diverse, os.fspath(options.diverse_by or ""), options.diverse_text)
    report = options.progress or (lambda *_: None)
    ranking, guard = walked(options.store_file, data, ranking, options.strategy, n_target, asked, report)
    with Store(options.store_file) as opened:
        return _taken(opened, options, parsed, data, ranking, [*guards, guard], n_outside)


def _taken(
    opened: Store,
    options: SelectOptions,
    ratio: Ratio,
    data: dict[str, Any],
    ranking: Ranking,
    guards: Sequence[Guard],
    n_outside: tuple[int, str],
    recall: dict[str, float] | None = None,
) -> Selection:
    """The best part of a ranking, written and recorded."""
    output = None if options.output is None else Path(options.output)
    n_target = ratio.of(ranking.n_scored)
    first, n = ranking.part(options.strategy, n_target)
    flips = ranking.flip_share(opened, options.strategy, n_target)
    _warn(data, ranking, flips, ratio, n, n_outside)
    label = options.name or default_name(options)
    before = opened.find_selection(label)
    place = {"dataset_id": data["dataset_id"], "ranking_id": ranking.ranking_id, "first": first, "n": n}
    score = options.strategy if options.strategy in TEXT_STRATEGIES else None
    shape: dict[str, Any] = {
        "file_order": None if options.order == "ranked" else options.order,
        "weighted": options.weights,
    }
    with contextlib.ExitStack() as stack:
        # they end in this order: the file takes its place, the store commits, the file of before is let go. so
        # whatever fails leaves neither file nor record. a kill can still fall between the first two, and leaves a
        # file that the store does not speak of; a record that speaks of a file which is not there would be worse
        if output:
            stack.enter_context(restored_on_error(output))
        stack.enter_context(opened.transaction())
        if output:
            stack.enter_context(written(opened, output, score=score, **shape, **place))
        selection_id = _record(opened, ranking, options.strategy, ratio, n_target, first, n, label, output, **shape)
    return Selection(
        selection_id=selection_id,
        name=label,
        dataset=options.dataset,
        strategy=options.strategy,
        n=n,
        n_target=n_target,
        ratio=float(ratio.text),
        thresholds={"tau": ranking.tau, "median": ranking.median},
        counts=_counts(opened, ranking, first, n),
        n_scored=ranking.n_scored,
        n_unscored=ranking.n_unscored,
        n_excluded=ranking.n_excluded,
        guards=[asdict(guard) for guard in guards],
        flip_share=flips,
        ranking_id=ranking.ranking_id,
        ranking=ranking.state,
        output=str(output) if output else None,
        recall=recall,
        took_over=before["selection_id"] if before and before["selection_id"] != selection_id else None,
    )


def _check_part(ranking: Ranking, options: SelectOptions, ratio: Ratio, n_target: int) -> None:
    """Refuse what a run that was scored in part does not decide."""
    assert ranking.n_ranked is not None
    command = f"diq score influence {quoted(options.dataset)} --model {quoted(str(options.model))}"
    if options.strategy not in ("diq", "q1"):
        raise MissingScoresError(
            f"the run was scored in part, for the beginning of Q1: it tells nothing of {options.strategy.upper()}",
            f"run `{command}`: it scores the rest",
        )
    if options.diverse is not None:
        raise MissingScoresError(
            "the run was scored in part, for a selection of so many samples: --diverse may go through more",
            f"run `{command}`: it scores the rest",
        )
    if n_target > ranking.n_ranked:
        largest = ranking.n_ranked / ranking.n_scored
        raise MissingScoresError(
            f"the run was scored in part: it decides {ranking.n_ranked:,} of {amount(ranking.n_scored, 'sample')}, a "
            f"ratio of {math.floor(1e4 * largest) / 1e4:g}, not the {n_target:,} of {ratio.text}",
            f"run `{command} --for-ratio {ratio.text}`, with the difficulty options of this selection: it goes on",
        )


def _count_outside(store: Store, data: dict[str, Any], request: Request, runs: Runs) -> tuple[int, str]:
    """How many samples a strategy does not take for their score, and in words which."""
    if request.taken is None:
        return 0, ""
    least, most = request.taken
    (found,) = store.rows(
        "store/count_outside", run_id=runs.score, dataset_id=data["dataset_id"], least=least, most=most
    )
    name = {"ifd": "an IFD"}.get(request.strategy, f"a {request.strategy.replace('_', ' ')}")
    return int(found["n"]), f"{name} above {most:g}" if least is None else f"{name} outside {least:g} to {most:g}"


def _warn(
    data: dict[str, Any], ranking: Ranking, flips: float | None, ratio: Ratio, n: int, outside: tuple[int, str]
) -> None:
    """Say what a user must know of a selection before training on it."""
    n_outside, which = outside
    if n_outside:
        log.warning(
            "%s of %s of dataset `%s` have %s and are not selected",
            f"{n_outside:,}",
            amount(data["n_samples"], "sample"),
            data["name"],
            which,
        )
    # guards may have left out some of both
    if ranking.n_unscored > n_outside:
        log.warning(
            "%s of %s of dataset `%s` lack a finite score and are left out: "
            "`diq status` shows which, and the same `diq score` command computes what is missing",
            f"{ranking.n_unscored - n_outside:,}",
            amount(ranking.n_unscored + ranking.n_scored, "sample"),
            data["name"],
        )
    if flips is not None and flips > _MOST_FLIPS and ranking.half_sizes is not None:
        log.warning(
            "the validation samples are too few for a ratio of %s: halves of them (%s and %s) select %s each "
            "and disagree on %.0f %%; take more validation samples or a larger ratio",
            ratio.text,
            *(f"{size:,}" for size in ranking.half_sizes),
            amount(n, "sample"),
            100 * flips,
        )


def _counts(store: Store, ranking: Ranking, first: int, n: int) -> dict[str, dict[str, int]]:
    """Samples of each quadrant, of a dataset and of a part of its ranking."""
    if ranking.counts is None:
        return {}
    taken, start = {}, 0
    for quadrant, count in zip(QUADRANTS, ranking.counts, strict=True):
        taken[quadrant] = max(0, min(first + n, start + count) - max(first, start))
        start += count
    if ranking.n_taken is not None:
        # a walk holds only what it took of each
        found = store.rows("selection/count_quadrants", ranking_id=ranking.ranking_id, n=n)
        taken = dict.fromkeys(QUADRANTS, 0) | {one["quadrant"]: one["n"] for one in found}
    return {"dataset": dict(zip(QUADRANTS, ranking.counts, strict=True)), "selection": taken}


def _record(
    store: Store,
    ranking: Ranking,
    strategy: str,
    ratio: Ratio,
    n_target: int,
    first: int,
    n: int,
    name: str,
    output: Path | None,
    **shape: Any,
) -> int:
    key = {"ranking_id": ranking.ranking_id, "name": name, "strategy": strategy, "ratio": ratio.text, **shape}
    text = str(output) if output else None
    same = store.row("selection/get_selection", **key)
    if same is not None:
        store.run(
            "selection/update_selection_output",
            selection_id=same["selection_id"],
            output=text,
            created_at=now(),
        )
        return int(same["selection_id"])
    store.run("selection/insert_selection", **key, n_target=n_target, first=first, n=n, output=text, created_at=now())
    made = store.row("selection/get_selection", **key)
    assert made is not None
    store.run("selection/update_selection_digest", selection_id=made["selection_id"])
    return int(made["selection_id"])
