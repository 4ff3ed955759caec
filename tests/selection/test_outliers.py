"""Samples with the longest gradients are left out, with the reason in the store."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pytest

from conftest import fill_store, refused
from diq.base.errors import MissingScoresError, UsageError
from diq.cli.select import select as command
from diq.selection.options import norm_quantile
from diq.selection.select import Selection, select
from diq.store.store import Store


def filled(path: Path, n: int = 200, **options: Any) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    dot, norm = rng.normal(size=n), np.round(rng.lognormal(size=n), 1)
    dot[4] = norm[4] = np.nan
    fill_store(path, **({"dots": {"a": dot}, "difficulty": rng.integers(1, 6, n), "norms": norm} | options))
    return dot, norm


def take(path: Path, ratio: Any = 1, *, drop: str = "norm=0.9", **options: Any) -> Selection:
    return select("pool", ratio=ratio, store=path, drop_outliers=drop, **({"model": "model"} | options))


def positions(path: Path, made: Selection) -> list[int]:
    with duckdb.connect(str(path), read_only=True) as connection:
        query = "SELECT position FROM selection_samples WHERE selection_id = ? ORDER BY rank"
        return [p for (p,) in connection.execute(query, [made.selection_id]).fetchall()]


@pytest.mark.parametrize("quantile", [0.9, 0.99, 0.005])
def test_norms_above_the_quantile_are_left_out(tmp_path: Path, quantile: float) -> None:
    path = tmp_path / "s.duckdb"
    dot, norm = filled(path)
    cut = np.quantile(norm[np.isfinite(norm)], quantile)
    out = [i for i in range(len(norm)) if norm[i] > cut]
    made = take(path, drop=f"norm={quantile}", strategy="influence")
    kept = [i for i in np.argsort(-dot, kind="stable").tolist() if np.isfinite(dot[i]) and norm[i] <= cut]
    assert positions(path, made) == kept
    assert (made.n_excluded, made.n_scored, made.n_unscored) == (len(out), len(kept), 1)
    (guard,) = made.guards
    assert (guard["method"], guard["n_excluded"]) == ("outliers", len(out))
    assert guard["details"]["n_without_norm"] == 1
    with duckdb.connect(str(path), read_only=True) as connection:
        told = connection.execute(
            "SELECT d.position, e.reason, e.matched, e.similarity FROM exclusions AS e JOIN dataset_samples AS d "
            "USING (sample_id) WHERE e.run_id = ? ORDER BY d.position",
            [guard["run_id"]],
        ).fetchall()
    assert [one[0] for one in told] == out
    assert told[0][1:] == (
        f"gradient norm {norm[out[0]]:.6g}: above {cut:.6g}, the {quantile:g} quantile of the dataset's norms",
        None,
        None,
    )
    # found again, and the same for another strategy
    again = take(path, drop=f"norm={quantile}", strategy="influence")
    assert (again.ranking, again.guards) == ("stored", made.guards)
    assert (
        select("pool", ratio=1, store=path, strategy="random", drop_outliers=f"norm={quantile}").guards == made.guards
    )


def test_thresholds_are_of_what_is_left(tmp_path: Path) -> None:
    path = tmp_path / "s.duckdb"
    dot, norm = filled(path)
    made = take(path, drop="norm=0.5")
    left = dot[(norm <= np.quantile(norm[np.isfinite(norm)], 0.5)) & np.isfinite(dot)]
    assert made.thresholds["median"] == pytest.approx(np.median(left))
    assert made.name == "pool-diq-1-norm0.5"


def test_other_norms_are_another_guard(tmp_path: Path) -> None:
    path = tmp_path / "s.duckdb"
    filled(path)
    first = take(path)
    with Store(path) as store:
        store.connection.execute("UPDATE influence_scores SET gradient_norm = 1 / gradient_norm")
    second = take(path)
    assert first.guards[0]["run_id"] != second.guards[0]["run_id"]
    assert positions(path, first) != positions(path, second)


def test_the_run_is_chosen(tmp_path: Path) -> None:
    path = tmp_path / "s.duckdb"
    _, norm = filled(path)
    with Store(path) as store:
        # a second run on the same samples
        run_id = store.open_run(
            kind="influence", method="exact", model_id="id-model", fingerprint="2", settings={}, environment={}
        )
        store.start_scoring(run_id, store.dataset("pool")["dataset_id"])
        store.connection.execute(
            "INSERT INTO influence_scores BY NAME SELECT * REPLACE (? AS run_id, gradient_norm + 1 AS gradient_norm) "
            "FROM influence_scores",
            [run_id],
        )
        store.connection.execute(
            "INSERT INTO run_validation_sets BY NAME SELECT * REPLACE (? AS run_id) FROM run_validation_sets", [run_id]
        )
        store.seal(run_id, store.dataset("pool")["dataset_id"])
    with pytest.raises(MissingScoresError, match="norms from several runs: 1 \\(exact\\), 3 \\(exact\\)"):
        select("pool", ratio=1, store=path, strategy="random", drop_outliers="norm=0.9")
    cut = np.quantile(norm[np.isfinite(norm)], 0.9)
    made = select("pool", ratio=1, store=path, strategy="random", drop_outliers="norm=0.9", norms_run=3)
    assert made.guards[0]["details"]["norm"] == pytest.approx(cut + 1)
    # that of the dots, where there are some
    assert take(path, run=1).guards[0]["details"]["norm"] == pytest.approx(cut)
    with pytest.raises(MissingScoresError, match="run 2 of dataset `pool` has none"):
        take(path, run=1, norms_run=2)


def test_missing_norms_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "s.duckdb"
    filled(path, norms=None)
    with pytest.raises(MissingScoresError, match="run 1 of dataset `pool` has none"):
        take(path)
    with pytest.raises(MissingScoresError, match="no influence run of dataset `pool` has any") as caught:
        select("pool", ratio=1, store=path, strategy="random", drop_outliers="norm=0.9")
    assert "--norms" in caught.value.hint
    other = tmp_path / "o.duckdb"
    _, norm = filled(other)
    norm[7] = np.nan
    with Store(other) as store:
        store.connection.execute(
            "UPDATE influence_scores SET gradient_norm = NULL "
            "WHERE sample_id IN (SELECT sample_id FROM dataset_samples WHERE position = 7)"
        )
    with pytest.raises(
        MissingScoresError, match="in run 1 1 of the 199 samples of dataset `pool` with a dot have none"
    ):
        take(other)
    for one in (path, other):
        with duckdb.connect(str(one), read_only=True) as connection:
            assert connection.execute("SELECT count(*) FROM exclusions").fetchall() == [(0,)]


@pytest.mark.parametrize("text", ["norm", "norm=", "norm=1", "norm=0", "norm=nan", "loss=0.9", "0.9", "norm=0.9x"])
def test_bad_texts_are_refused(text: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="is not norm=QUANTILE"):
        norm_quantile(text)
    done = refused(command, "pool", "--ratio", 1, "--drop-outliers", text, "--store", tmp_path / "none.duckdb")
    assert "norm=0.99" in done.told


def test_the_run_alone_asks_for_nothing() -> None:
    with pytest.raises(UsageError, match="norms_run has no effect without drop_outliers"):
        select("pool", ratio=1, strategy="random", norms_run=1)
