"""What a store holds: the stage behind ``diq status``.

It stands in this room because it says what can be selected by (coverage) and what was (selections).
"""

from __future__ import annotations

import os
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from diq.base import config
from diq.base.summary import html_table
from diq.store.store import Store


@dataclass(frozen=True, slots=True, repr=False)
class Status:
    """What a store holds; each list has one dict a row, with the names that ``diq status --json`` shows."""

    store: Path
    size_bytes: int
    datasets: list[dict[str, Any]]
    validation_sets: list[dict[str, Any]]
    models: list[dict[str, Any]]
    coverage: list[dict[str, Any]]
    selections: list[dict[str, Any]]
    runs: list[dict[str, Any]]
    """Runs that are not scores, such as trainings and guards."""
    scores: list[dict[str, Any]] | None
    """What the dots of each influence run are worth; None when it was not asked for."""

    def __repr__(self) -> str:
        counts = [f"{name}={len(getattr(self, name))}" for name in ("datasets", "models", "coverage", "selections")]
        return f"Status({str(self.store)!r}, {self.size_bytes / 1e6:,.1f} MB, {', '.join(counts)})"

    def _repr_html_(self) -> str:
        return html_table("Status", {field.name: getattr(self, field.name) for field in fields(self)})

    def to_dict(self) -> dict[str, Any]:
        """For ``--json``."""
        found = {field.name: getattr(self, field.name) for field in fields(self)} | {"store": str(self.store)}
        if self.scores is None:
            del found["scores"]
        return found


def status(*, store: str | os.PathLike[str] | None = None, scores: bool = False) -> Status:
    """Datasets, validation sets, models, coverage of each score, selections, other runs, and the size of a store.

    Args:
        store: the store file; default ``$DIQ_STORE``, else ``diq.duckdb``.
        scores: also what the dots are worth: standard errors, length bias, stability between halves of the validation
            samples, share of each task. Reads every dot.

    Raises:
        StoreError: there is no store, or another process holds it for longer than ten seconds.
    """
    path = config.store_path(store)
    measured = None
    with Store(path, read_only=True) as opened:
        if scores:
            # only who asks for the meters waits for them, and for numpy
            from diq.influence.stored import measure_runs

            measured = measure_runs(opened)
        return Status(
            store=path,
            size_bytes=sum(one.stat().st_size for one in (path, Path(f"{path}.wal")) if one.exists()),
            datasets=opened.rows("store/list_datasets"),
            validation_sets=opened.rows("store/list_validation_sets"),
            models=opened.rows("store/list_models"),
            coverage=opened.rows("selection/coverage"),
            selections=opened.rows("store/list_selections"),
            runs=opened.rows("selection/list_other_runs"),
            scores=measured,
        )
