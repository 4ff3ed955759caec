"""The beginning of the ranking of Algorithm 1 from a run that was scored in part (``influence/partial.py``)."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from diq import _core
from diq.base.command import quoted
from diq.base.errors import MissingScoresError
from diq.base.text import amount
from diq.influence.certificate import Certificate, Columns, Mask, parts
from diq.selection.quadrants import rank
from diq.selection.scores import Request, Runs, Scores, lacking
from diq.store.store import Store

log = logging.getLogger(__name__)


def order_of_part(
    store: Store,
    scores: Scores,
    data: dict[str, Any],
    request: Request,
    runs: Runs,
    weights: Mapping[str, float] | None,
    certificate: Certificate,
    excluded: npt.NDArray[np.int64],
) -> tuple[npt.NDArray[np.int64], float, int]:
    """The places that are certain, all of them in Q1.

    Args:
        store: an open store.
        scores: of the whole dataset.
        data: the dataset.
        request: what is ranked by.
        runs: whose scores.
        weights: weight of each validation set; None takes all of the run.
        certificate: how the scored part was chosen.
        excluded: positions that guards leave out. The random sample is drawn of all; what is left of it is a random
            sample of what is left.

    Returns:
        ``[k]`` rows, best first; tau; and N, the samples with both scores.

    Raises:
        MissingScoresError: the part was chosen for other selections.
    """
    again = f"run `diq score influence {quoted(data['name'])} --model {quoted(str(request.model))} --for-ratio RATIO"
    assert runs.influence is not None
    missing = lacking(store, data, runs.influence, set_ids(store, runs.influence, weights))
    whole = Columns(scores.position, scores.level, scores.dot, np.isin(scores.position, missing))
    kept = ~np.isin(scores.position, excluded)
    columns = whole.of(kept)
    level = columns.level[columns.counted]
    mine = (data["n_samples"], runs.difficulty, request.difficulty)
    if mine != (certificate.n_samples, certificate.difficulty_run, certificate.difficulty) or not len(level):
        raise MissingScoresError(
            f"run {runs.influence} was scored in part, for selections by {certificate.difficulty} of difficulty run "
            f"{certificate.difficulty_run} from the {amount(certificate.n_samples, 'sample')} that there were",
            f"{again} --difficulty {request.difficulty} --difficulty-run {runs.difficulty}`",
        )
    tau = request.threshold
    if tau is None:
        tau = _core.quantile(level, 0.5 if request.percentile is None else request.percentile)
    if tau < certificate.tau:
        raise MissingScoresError(
            f"run {runs.influence} was scored in part: the dots of samples of difficulty {tau:g} to "
            f"{certificate.tau:g} are missing",
            # as a threshold, since guards move the percentile
            f"{again} --difficulty-threshold {float(tau)!r}`",
        )
    if certificate.recall is not None:
        if tau != certificate.tau or request.influence != "dot" or weights is not None or not certificate.supports:
            raise MissingScoresError(
                f"run {runs.influence} was scored by a cascade, for the dots with all its validation sets and the "
                f"difficulty threshold {certificate.tau:g}",
                f"{again}` without --cascade",
            )
        return _of_cascade(columns, np.flatnonzero(kept), runs, certificate, tau)
    known, drawn, hard = (one[kept] for one in parts(whole, certificate, tau))
    n_missing = int(np.count_nonzero(columns.missing & (known | drawn)))
    if n_missing:
        raise MissingScoresError(
            f"run {runs.influence} was scored in part and stopped: {amount(n_missing, 'dot')} of its part missing",
            f"{again}` again: it goes on where it stopped",
        )
    evidence = columns.evidence(hard, known, drawn, certificate.looks)
    rows = np.flatnonzero(kept)
    return rows[_ordered(columns, hard, tau)[: evidence.largest()]], float(tau), evidence.n


def set_ids(store: Store, run_id: int, weights: Mapping[str, float] | None) -> list[int]:
    """Numbers of the validation sets that count; without weights all of the run."""
    sets = store.rows("store/validation_sets_of_run", run_id=run_id)
    return [one["validation_set_id"] for one in sets if weights is None or one["name"] in weights]


def _of_cascade(
    columns: Columns, rows: npt.NDArray[np.int64], runs: Runs, certificate: Certificate, tau: float
) -> tuple[npt.NDArray[np.int64], float, int]:
    """The best of what a cascade scored: as many as the selection that it was scored for, or fewer."""
    assert certificate.recall is not None
    log.warning(
        "run %s was scored by a cascade: of the %s that all dots would select, it has found an estimated %.1f %% "
        "(%.1f to %.1f)",
        runs.influence, amount(certificate.supports, "sample"),
        *(100 * one for one in (certificate.recall.value, certificate.recall.low, certificate.recall.high)),
    )  # fmt: skip
    hard = (columns.level >= tau) & np.isfinite(columns.dot)
    best = rows[_ordered(columns, hard, tau)[: certificate.supports]]
    return best, float(tau), int(np.count_nonzero(columns.counted))


def _ordered(columns: Columns, hard: Mask, tau: float) -> npt.NDArray[np.int64]:
    """Rows of hard samples by dot, difficulty and position: Q1, and then Q3, of them alone."""
    rows = np.flatnonzero(hard)
    return rows[rank(columns.dot[rows], columns.level[rows], threshold=float(tau)).rows]
