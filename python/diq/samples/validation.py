"""Drawing a validation set, and finding one that was drawn before."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from diq.base.errors import InputError, UsageError
from diq.base.text import amount
from diq.samples.sources import Entry, IngestSummary
from diq.store.store import Store, now


@dataclass(frozen=True, slots=True)
class Draw:
    """How a validation set is drawn; the seed means nothing when every sample is taken."""

    n: int | None
    seed: int


def existing_validation_set(
    store: Store, name: str, draw: Draw, entries: Sequence[Entry], recorded: Sequence[dict[str, Any]]
) -> dict[str, Any] | None:
    """The validation set when this very one was made before; None when there is none of that name.

    Raises:
        UsageError: there is another one of that name: scores refer to it, so it cannot change.
    """
    row = store.row("store/get_validation_set", name=name)
    if row is None:
        return None
    hint = "choose another --dataset name; scores refer to the one that is there"
    if row["dataset_id"] is None:
        raise UsageError(f"the validation set `{name}` belongs to scores that were computed elsewhere", hint)
    fresh = [entry.source.path for entry in entries if entry.known is None]
    if fresh or len(entries) != len(recorded):
        what = (
            f"`{fresh[0]}` is new or changed"
            if fresh
            else f"it has {amount(len(recorded), 'source')}, now {len(entries)} are given"
        )
        raise UsageError(f"the validation set `{name}` was made from other data: {what}", hint)
    was = f"{amount(row['n_samples'], 'sample')} with seed {row['seed']}" if row["seed"] is not None else "all samples"
    same = row["seed"] is None if draw.n is None else (row["n_samples"], row["seed"]) == (draw.n, draw.seed)
    if not same:
        raise UsageError(f"the validation set `{name}` was drawn otherwise: {was}", hint)
    return {"name": name, "n_samples": row["n_samples"], "seed": row["seed"]}


def draw_validation_set(store: Store, dataset_id: int, name: str, draw: Draw, summary: IngestSummary) -> dict[str, Any]:
    available = summary.n_samples
    if not available:
        raise InputError(
            f"no row of the sources can be used: {amount(summary.n_rejects, 'reject')}", "check --format or --map"
        )
    if draw.n is not None and draw.n > available:
        raise UsageError(
            f"{amount(draw.n, 'sample')} were asked for, the sources have {available:,}", "give a smaller --sample"
        )
    n, seed = (available, None) if draw.n is None else (draw.n, draw.seed)
    row = store.row(
        "store/insert_validation_set", name=name, dataset_id=dataset_id, n_samples=n, seed=seed, created_at=now()
    )
    assert row is not None
    ids = {"validation_set_id": row["validation_set_id"], "dataset_id": dataset_id}
    store.run("samples/draw_validation_samples", **ids, seed=draw.seed, n=n)
    store.run("samples/mark_validation_samples", **ids)
    return {"name": name, "n_samples": n, "seed": seed}
