"""Samples whose gradient is far longer than the others': a sign of a wrong label or a cut answer.

The squared norm of a sample's own gradient is its self-influence at a checkpoint (Pruthi et al. 2020, arXiv:2002.08484,
section 4.1: mislabelled samples are found among those with the largest).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from diq import _core
from diq.base.arrow import numbers
from diq.base.command import quoted
from diq.base.errors import MissingScoresError
from diq.influence.stored import read_influence
from diq.selection.guards import Exclusion
from diq.selection.scores import check_norms
from diq.store.store import Store, listed_runs


@dataclass(frozen=True, slots=True)
class Outliers:
    """What ``--drop-outliers`` asks for, settled.

    Attributes:
        quantile: of the dataset's norms, in (0, 1).
        run_id: influence run of the norms.
    """

    quantile: float
    run_id: int


def choose_norms_run(store: Store, data: Mapping[str, Any], asked: int | None, own: int | None) -> int:
    """The run whose gradient norms count.

    Args:
        store: an open store.
        data: the dataset.
        asked: number that was given; None takes ``own``, or the only run with norms.
        own: run of the dots that the selection ranks by; None where it ranks by something else.

    Raises:
        MissingScoresError: that run has no norms, none has, or several have.
    """
    there = store.rows("selection/runs_with_norms", dataset_id=data["dataset_id"])
    wanted = own if asked is None else asked
    found = [one for one in there if wanted is None or one["run_id"] == wanted]
    if len(found) == 1:
        return int(found[0]["run_id"])
    if found:
        raise MissingScoresError(
            f"dataset `{data['name']}` has gradient norms from several runs: {listed_runs(found)}",
            f"name one with --norms-run {found[-1]['run_id']}",
        )
    if wanted is not None and any(
        one["run_id"] == wanted and one["partial"]
        for one in store.rows("store/candidate_runs", kind="influence", dataset_id=data["dataset_id"], model=None)
    ):
        raise MissingScoresError(
            f"--drop-outliers needs the gradient norms of all samples, and run {wanted} was scored in part",
            f"run `diq score influence {quoted(data['name'])} --norms` with its --model: it scores the rest",
        )
    where = f"of dataset `{data['name']}`"
    raise MissingScoresError(
        f"--drop-outliers needs gradient norms, and no influence run {where} has any"
        if wanted is None
        else f"--drop-outliers needs gradient norms, and run {wanted} {where} has none",
        f"name another with --norms-run: {listed_runs(there)}"
        if there
        else f"run `diq score influence {quoted(data['name'])} --norms` with a --model",
    )


def find_outliers(store: Store, data: Mapping[str, Any], asked: Outliers) -> tuple[list[Exclusion], dict[str, Any]]:
    """Samples with a norm above the quantile (linear between order statistics), by position, and what was counted.

    Raises:
        MissingScoresError: a sample with a dot lacks its norm.
    """
    read = read_influence(store, dataset_id=data["dataset_id"], run_id=asked.run_id, norms=True)
    assert read.norm is not None
    check_norms("--drop-outliers", "--drop-outliers", dict(data), asked.run_id, read.dot, read.norm)
    found = store.arrow("store/positions_of_dataset", dataset_id=data["dataset_id"])
    positions = numbers(found.column("position"))
    finite = np.isfinite(read.norm)
    cut = _core.quantile(read.norm[finite], asked.quantile)
    return above(positions[finite], read.norm[finite], cut, asked.quantile), {
        "norm": cut,
        "n_without_norm": int(np.count_nonzero(~finite)),
    }


def above(
    positions: npt.NDArray[np.int64], norms: npt.NDArray[np.float64], cut: float, quantile: float
) -> list[Exclusion]:
    """The samples whose norm is above the cut."""
    rows = np.flatnonzero(norms > cut)
    return [
        Exclusion(
            position, f"gradient norm {norm:.6g}: above {cut:.6g}, the {quantile:g} quantile of the dataset's norms"
        )
        for position, norm in zip(positions[rows].tolist(), norms[rows].tolist(), strict=True)
    ]
