"""Difficulty of the samples that lack it, from a classifier or from columns that came with the data."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from diq.base.config import DIFFICULTY_DIMENSIONS
from diq.base.errors import UsageError
from diq.base.options import verb
from diq.base.text import amount, did_you_mean, short
from diq.difficulty.options import ScoreDifficultyOptions
from diq.scoring.job import ScoreJob, finish, open_run, read_dataset
from diq.scoring.summary import ScoreSummary
from diq.store.connection import WAIT_S
from diq.store.store import Store

# the counts of the query difficulty_ties, for expected values and for levels
_TIES = ("distinct_values", "on_the_median_value", "on_the_commonest_value")


@verb(ScoreDifficultyOptions)
def score_difficulty(options: ScoreDifficultyOptions) -> ScoreSummary:
    """Give every sample of a dataset its difficulty, from a classifier or from columns that came with the data.

    Raises:
        UsageError: neither or both of classifier and columns, or unknown names.
        ModelError: the classifier cannot be used.
    """
    if (options.model is None) == (not options.columns):
        raise UsageError(
            "difficulty comes from one of a classifier and columns", "give --model FOLDER or --columns overall=NAME"
        )
    store = options.store_file
    data = read_dataset(store, options.dataset)
    if options.columns:
        summary = _score_columns(store, data, options.columns)
        _count_ties(store, data, summary)
        return summary
    assert options.model is not None
    # columns cost nothing, so they must not wait for torch, nor need it
    from diq.difficulty.score_classifier import score_classifier

    summary, details = score_classifier(
        store,
        data,
        str(options.model),
        device=options.device,
        dtype=options.dtype,
        token_budget=options.batch_tokens,
        progress=options.progress,
    )
    _count_ties(store, data, summary)
    summary.details |= details
    return summary


def _count_ties(store: Path, data: dict[str, Any], summary: ScoreSummary) -> None:
    """Count what ties."""
    with Store(store, read_only=True, wait_s=WAIT_S) as opened:
        ties = opened.rows("difficulty/difficulty_ties", run_id=summary.run_id, dataset_id=data["dataset_id"])
    for count in _TIES:
        for scale in ("value", "level"):
            found = {row["dimension"]: row[count] for row in ties if row["scale"] == scale}
            if found:
                summary.details[count.replace("value", scale)] = found


def _check_numbers(store: Path, data: dict[str, Any], column: str) -> None:
    """Refuse a column that gives no sample a difficulty: a run of it would be finished, and empty.

    Raises:
        UsageError: none of its values is a number.
    """
    with Store(store, read_only=True, wait_s=WAIT_S) as opened:
        found = opened.row("difficulty/count_numbers", dataset_id=data["dataset_id"], column=column)
    assert found is not None
    if not found["n_numbers"]:
        raise UsageError(
            f"none of the {amount(found['n'], 'value')} of column `{column}` of dataset `{data['name']}` is a number, "
            f"first `{short(found['example'])}`",
            "name a column of numbers; a difficulty may have any scale",
        )


def _score_columns(store: Path, data: dict[str, Any], columns: Mapping[str, str]) -> ScoreSummary:
    with Store(store, read_only=True, wait_s=WAIT_S) as opened:
        attributes = [row["name"] for row in opened.rows("difficulty/list_attributes", dataset_id=data["dataset_id"])]
    for dimension, column in columns.items():
        if dimension not in DIFFICULTY_DIMENSIONS:
            raise UsageError(
                f"`{dimension}` is not a dimension of difficulty", did_you_mean(dimension, DIFFICULTY_DIMENSIONS)
            )
        if column not in attributes:
            raise UsageError(
                f"the samples of `{data['name']}` have no column `{column}`",
                did_you_mean(column, attributes) or "the dataset came without further columns",
            )
        _check_numbers(store, data, column)
    job = ScoreJob(
        store=store,
        data=data,
        kind="difficulty",
        method="columns",
        model_id=None,
        settings={"columns": dict(columns), "dataset": data["name"]},
        missing="difficulty/samples_missing_difficulty",
        reasons="store/difficulty_reasons",
        label="difficulty",
    )
    run_id = open_run(job, None, {})
    summary = ScoreSummary(run_id, data["name"], data["n_samples"])
    started = time.monotonic()
    with Store(store, wait_s=WAIT_S) as opened, opened.transaction():
        summary.n_scored = opened.execute_count(
            "difficulty/insert_difficulty_from_columns",
            run_id=run_id,
            dataset_id=data["dataset_id"],
            **{name: columns.get(name) for name in DIFFICULTY_DIMENSIONS},
        )
    summary.n_cached = summary.n_samples - summary.n_scored
    summary.seconds = time.monotonic() - started
    finish(job, summary)
    return summary
