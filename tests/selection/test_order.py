"""The order and the weights of a selection's file, and whom they concern."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pyarrow.parquet as pq
import pytest

from conftest import fill_store
from diq.base.errors import UsageError
from diq.reporting.contents import select_command
from diq.selection.select import Selection, select
from diq.store.store import Store
from diq.training.data import Texts, read_samples


@pytest.fixture
def filled(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    path = tmp_path / "s.duckdb"
    fill_store(path, dots={"a": np.round(rng.normal(size=80), 1)}, difficulty=rng.integers(1, 6, 80).astype(float))
    return path


def take(path: Path, output: str = "o.jsonl", **options: Any) -> tuple[Selection, list[dict[str, Any]]]:
    file = path.parent / output
    made = select("pool", store=path, output=file, **({"ratio": "0.5", "model": "model"} | options))
    rows = (
        pq.read_table(file).to_pylist()
        if output.endswith(".parquet")
        else [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
    )
    return made, rows


@pytest.mark.parametrize("output", ["o.jsonl", "o.parquet"])
@pytest.mark.parametrize("order", ["ranked", "easy", "hard"])
def test_the_file_has_the_order(filled: Path, order: str, output: str) -> None:
    _, ranked = take(filled)
    made, rows = take(filled, output, order=order)
    sign = {"ranked": 0, "easy": 1, "hard": -1}[order]
    expected = sorted(ranked, key=lambda row: (sign * row["difficulty"], row["rank"]))
    assert [row["position"] for row in rows] == [row["position"] for row in expected]
    assert [row["rank"] for row in rows] == [row["rank"] for row in expected]
    assert [row["order"] for row in rows] == list(range(len(rows)))
    assert "weight" not in rows[0]
    # the ranking is the same, the name and the record are not
    assert made.ranking_id == 1
    assert made.name == "pool-diq-0.5" + ("" if order == "ranked" else f"-{order}")


def test_a_training_reads_the_order_from_the_store_and_knows_the_file(filled: Path) -> None:
    for order in ("hard", "ranked", "easy"):
        made, rows = take(filled, f"{order}.jsonl", order=order)
        with Texts() as texts:
            origin = read_samples(made.name, filled, texts)
            by_name = texts.fingerprint()
        with Texts() as texts:
            of_file = read_samples(str(filled.parent / f"{order}.jsonl"), filled, texts)
            assert texts.fingerprint() == by_name
        assert origin.selection_id == of_file.selection_id == made.selection_id
        assert len(rows) == 40


@pytest.mark.parametrize("strategy", ["diq", "influence"])
def test_weights_are_positive_dots_over_their_mean(filled: Path, strategy: str) -> None:
    _, rows = take(filled, strategy=strategy, weights=True, ratio="0.9")
    dots = np.asarray([row["dot"] for row in rows])
    assert dots.min() < 0
    expected = np.maximum(dots, 0) / np.maximum(dots, 0).mean()
    weights = np.asarray([row["weight"] for row in rows])
    assert weights == pytest.approx(expected)
    assert weights.mean() == pytest.approx(1)


def test_where_no_dot_is_positive_all_weigh_the_same(filled: Path) -> None:
    with Store(filled) as store:
        store.connection.execute("UPDATE influence_scores SET dot = -abs(dot) - 1")
    _, rows = take(filled, "o.parquet", weights=True)
    assert {row["weight"] for row in rows} == {1.0}


def test_the_record_tells_both(filled: Path) -> None:
    made, _ = take(filled, order="easy", weights=True, name="mine")
    with duckdb.connect(str(filled), read_only=True) as connection:
        assert connection.execute("SELECT file_order, weighted FROM selections").fetchall() == [("easy", True)]
    with Store(filled, read_only=True) as store:
        row = store.row("store/ranking_of_selection", selection_id=made.selection_id)
        assert row is not None
        assert "--order easy --weights" in select_command(store, row)
    # the name means the new order from now on; the record of the file before stays
    other, _ = take(filled, name="mine")
    assert other.took_over == made.selection_id
    again, _ = take(filled, name="mine")
    assert (again.selection_id, again.took_over) == (other.selection_id, None)
    with duckdb.connect(str(filled), read_only=True) as connection:
        query = "SELECT file_order, weighted FROM selections ORDER BY selection_id"
        assert connection.execute(query).fetchall() == [("easy", True), (None, False)]


def test_what_has_no_difficulty_or_dot_is_refused(filled: Path) -> None:
    for options in ({"order": "easy"}, {"weights": True}):
        with pytest.raises(UsageError, match="has no effect with strategy random"):
            select("pool", ratio="0.5", store=filled, strategy="random", **options)
