"""The beginning of the ranking of Algorithm 1 from a run that was scored in part (``influence/partial.py``)."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from diq import _core
from diq.base.arrow import numbers
from diq.base.command import quoted
from diq.base.errors import MissingScoresError
from diq.base.text import amount
from diq.influence.certificate import Certificate, Columns, parts
from diq.selection.quadrants import rank
from diq.selection.scores import Request, Runs, Scores
from diq.store.store import Store


def order_of_part(
    store: Store, scores: Scores, data: dict[str, Any], request: Request, runs: Runs, certificate: Certificate
) -> tuple[npt.NDArray[np.int64], float, int]:
    """The places that are certain, all of them in Q1.

    Args:
        store: an open store.
        scores: of the dataset, without what guards left out.
        data: the dataset.
        request: what is ranked by.
        runs: whose scores.
        certificate: how the scored part was chosen.

    Returns:
        ``[k]`` rows, best first; tau; and N, the samples with both scores.

    Raises:
        MissingScoresError: the part was chosen for other selections.
    """
    again = f"run `diq score influence {quoted(data['name'])} --model {quoted(str(request.model))} --for-ratio RATIO"
    sets = [one["validation_set_id"] for one in store.rows("store/validation_sets_of_run", run_id=runs.influence)]
    found = store.arrow(
        "store/samples_missing_influence",
        dataset_id=data["dataset_id"],
        run_id=runs.influence,
        validation_set_ids=sets,
    )
    missing = numbers(found.column("position"))[numbers(found.column("missing"))]
    columns = Columns(scores.position, scores.level, scores.dot, np.isin(scores.position, missing))
    level = scores.level[columns.counted]
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
        option = f"threshold {tau:g}" if request.threshold is not None else f"percentile {request.percentile:g}"
        raise MissingScoresError(
            f"run {runs.influence} was scored in part: the dots of samples of difficulty {tau:g} to "
            f"{certificate.tau:g} are missing",
            f"{again} --difficulty-{option}`",
        )
    known, drawn, hard = parts(columns, certificate, tau)
    n_missing = int(np.count_nonzero(columns.missing & (known | drawn)))
    if n_missing:
        raise MissingScoresError(
            f"run {runs.influence} was scored in part and stopped: {amount(n_missing, 'dot')} of its part missing",
            f"{again}` again: it goes on where it stopped",
        )
    evidence = columns.evidence(hard, known, drawn, certificate.looks)
    rows = np.flatnonzero(hard)
    # Q1 and then Q3 of hard samples alone: by dot, difficulty and position throughout
    ordered = rank(scores.dot[rows], scores.level[rows], threshold=float(tau)).rows
    return rows[ordered[: evidence.largest()]], float(tau), evidence.n
