"""``diq status``: the parts that are always there, and the meters of ``--scores``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from conftest import fill_store, stdout_of
from diq.cli.status import status


@pytest.fixture
def store(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    path = tmp_path / "s.duckdb"
    folds = {name: rng.normal(size=(300, 1)) + rng.normal(size=(300, 2)) for name in ("medqa", "medmcqa")}
    dots = {name: one.mean(axis=1) for name, one in folds.items()}
    fill_store(path, dots=dots, difficulty=np.ones(300), folds=folds, answer_tokens=rng.integers(1, 500, 300))
    fill_store(path, dots={"medqa": rng.normal(size=50)}, difficulty=np.ones(50), dataset="old", method="external")
    return path


def test_meters_are_one_block_a_run_and_dataset(store: Path) -> None:
    text = stdout_of(status, "--scores", "--store", str(store))
    assert "dots of run 1 on pool: model, exact, sealed" in text
    assert "dots of run 3 on old: model, external, sealed" in text
    for part in ("standard error of a dot", "length bias", "stability: 20 validation samples with the other 20"):
        assert part in text
    assert "the validation sets were not split into folds" in text
    assert "task that the samples are closest to" in text
    assert "nan" not in text


def test_the_same_numbers_come_as_json(store: Path) -> None:
    found: dict[str, Any] = json.loads(stdout_of(status, "--scores", "--json", "--store", str(store)))
    old, pool = found["scores"]
    assert (pool["run_id"], pool["dataset"], pool["n"], pool["n_samples"]) == (1, "pool", 300, 300)
    assert pool["validation_sets"][0] == {"name": "medqa", "n_samples": 10, "fold_sizes": [10, 10]}
    assert pool["half_sizes"] == [20, 20]
    assert 0 < pool["half_spearman"] < pool["full_spearman"] < 1
    assert set(pool["flips"]) == {"0.01", "0.1", "0.5"}
    assert 0 < pool["standard_error_share"] < 1
    assert sum(pool["task_shares"]["0.1"].values()) == pytest.approx(1)
    # what cannot be known is null, not 0
    assert [old[name] for name in ("half_sizes", "half_spearman", "standard_error", "task_shares")] == [None] * 4
    assert old["flips"] == {"0.01": None, "0.1": None, "0.5": None}


def test_without_the_option_nothing_is_measured(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("diq.influence.stored.measure_runs", None)
    assert "scores" not in json.loads(stdout_of(status, "--json", "--store", str(store)))
    assert "standard error" not in stdout_of(status, "--store", str(store))
