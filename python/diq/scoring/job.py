"""What every scoring asks and records before it begins; nothing here loads a model library."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from diq.base.config import WAIT_S
from diq.base.errors import UsageError
from diq.base.fingerprint import run_fingerprint
from diq.store.store import Store


def read_dataset(store: Path, dataset: str) -> dict[str, Any]:
    """The dataset's row.

    Raises:
        UsageError: an unknown name, or an empty dataset.
    """
    with Store(store, read_only=True) as opened:
        data = opened.dataset(dataset)
    if data["n_samples"] == 0:
        raise UsageError(f"the dataset `{dataset}` has no samples", "see `diq sql 'from rejects'`")
    return data


@dataclass(frozen=True, slots=True)
class RunModel:
    """What is recorded of the model of a run (a row of ``models``)."""

    model_id: str
    name: str
    source: str
    architecture: str | None
    n_parameters: int | None


def open_run(
    store: Path,
    data: Mapping[str, Any],
    *,
    kind: str,
    method: str,
    model: RunModel | None,
    settings: Mapping[str, Any],
    environment: Mapping[str, Any],
    set_ids: Sequence[int] = (),
) -> int:
    """Record the model, the run and its validation sets, and mark the run open on the dataset; returns its number."""
    model_id = model.model_id if model else None
    with Store(store, wait_s=WAIT_S) as opened, opened.transaction():
        if model:
            opened.add_model(**asdict(model))
        run_id = opened.open_run(
            kind=kind,
            method=method,
            model_id=model_id,
            fingerprint=run_fingerprint(kind, method, model_id, settings),
            settings=settings,
            environment=environment,
        )
        for number in set_ids:
            opened.run("store/insert_run_validation_set", run_id=run_id, validation_set_id=number)
        opened.start_scoring(run_id, data["dataset_id"])
    return run_id
