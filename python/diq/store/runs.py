"""Which run of several is meant."""

from __future__ import annotations

from typing import Any

from diq.base.errors import MissingScoresError
from diq.base.text import amount
from diq.store.store import Store, listed_runs


def difficulty_candidates(store: Store, dataset_id: int, asked: int | None) -> list[dict[str, Any]]:
    """Rows of ``candidate_runs`` that may be meant by the difficulty of a dataset.

    How often a model solves a question is meant when it is named, or when there is nothing else.

    Args:
        store: an open store.
        dataset_id: dataset.
        asked: number of a run that was named, or None.
    """
    found = store.rows("store/candidate_runs", kind="difficulty", dataset_id=dataset_id, model=None)
    others = [one for one in found if one["method"] != "pass_rate"]
    return others if asked is None and others else found


def one_run(
    store: Store,
    candidates: list[dict[str, Any]],
    asked: int | None,
    wanted: str,
    data: dict[str, Any],
    command: str,
    option: str,
    dimension: str | None = None,
    *,
    partial: bool = False,
) -> int:
    """The number of the one finished run, or of the one that was asked for.

    Args:
        store: an open store.
        candidates: rows of the query ``candidate_runs``.
        asked: number of a run; None takes the only one.
        wanted: what is looked for, for people.
        data: the dataset.
        command: what makes such a run.
        option: the option that names a run.
        dimension: of a difficulty; None for other scores.
        partial: whether a run will do that was scored in part; a finished one goes before it.

    Raises:
        MissingScoresError: no run, none that is finished, or several.
    """
    there = candidates
    if asked is not None:
        candidates = [one for one in there if one["run_id"] == asked]
        wanted += f" in run {asked}"
    if not candidates:
        raise MissingScoresError(
            f"no {wanted} on dataset `{data['name']}`: found 0 of {amount(data['n_samples'], 'sample')}",
            f"name another with {option}: {listed_runs(there)}" if there else f"run `{command}`",
        )
    sealed = [one for one in candidates if one["state"] == "sealed"]
    if not sealed and partial:
        sealed = [one for one in candidates if one["partial"]]
    if len(sealed) == 1:
        return int(sealed[0]["run_id"])
    listed = sealed or candidates[:1]
    counts = {
        row["run_id"]: row["n"]
        for row in store.rows(
            "store/count_scored_samples",
            dataset=data["name"],
            run_ids=[one["run_id"] for one in listed],
            dimension=dimension,
        )
    }
    if not sealed:
        raise MissingScoresError(
            f"the {wanted} on dataset `{data['name']}` are not finished: "
            f"found {counts.get(listed[0]['run_id'], 0)} of {amount(data['n_samples'], 'sample')}",
            f"run `{command}` again: it goes on where it stopped"
            + (", and scores the rest of a run that was scored in part" if candidates[0]["partial"] else ""),
        )
    text = "; ".join(
        f"{one['run_id']} ({one['label']}, {amount(counts.get(one['run_id'], 0), 'sample')}, "
        f"{one['created_at']:%Y-%m-%d %H:%M})"
        for one in listed
    )
    raise MissingScoresError(
        f"dataset `{data['name']}` has {wanted} from {amount(len(sealed), 'run')}: {text}",
        f"name one with {option} {sealed[-1]['run_id']}",
    )
