"""Selection against a slow, obvious form; Rust against SQL; the file, the record, and bad input."""

from __future__ import annotations

import errno
import json
import math
import os
import shutil
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pyarrow.parquet as pq
import pytest

from conftest import fill_store, refused, stdout_of
from diq.base.errors import MissingScoresError, RunFailedError, StoreError, UsageError
from diq.base.text import Ratio
from diq.cli.select import select as command
from diq.cli.status import status
from diq.selection.options import SelectOptions
from diq.selection.select import select
from diq.store.store import Store


def slow_ranking(
    dot: np.ndarray, level: np.ndarray, *, p: float = 0.5, threshold: float | None = None
) -> list[tuple[str, int]]:
    """(quadrant, position) in the order of Algorithm 1, by the book."""
    rows = [i for i in range(len(dot)) if math.isfinite(dot[i]) and math.isfinite(level[i])]
    tau = threshold if threshold is not None else np.quantile(level[rows], p)
    median = np.quantile(dot[rows], 0.5)

    def quadrant(i: int) -> int:
        return 1 + (level[i] < tau) if dot[i] >= median else 3 + (level[i] < tau)

    order = sorted(rows, key=lambda i: (quadrant(i), -dot[i], -level[i], i))
    return [(f"Q{quadrant(i)}", i) for i in order]


def tied(seed: int, n: int = 300) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    dot = rng.integers(-4, 5, n) * rng.choice([1.0, -0.0, 0.5], n)
    level = rng.integers(1, 6, n).astype(np.float64) + rng.choice([0.0, 0.1, 1 / 3], n)
    dot[rng.integers(0, n, 3)] = np.nan
    level[rng.integers(0, n, 2)] = np.nan
    return dot, level


def written(path: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


@pytest.mark.parametrize("seed", [0, 1, *(pytest.param(seed, marks=pytest.mark.exhaustive) for seed in range(2, 6))])
@pytest.mark.parametrize(("percentile", "threshold"), [(0.5, None), (0.0, None), (1.0, None), (0.37, None), (0.5, 3.0)])
def test_rust_sql_and_the_slow_form_agree_row_by_row(
    tmp_path: Path, seed: int, percentile: float, threshold: float | None
) -> None:
    dot, level = tied(seed)
    # few norms, so that cosines tie too; a gradient of zero has no cosine
    norm = np.random.default_rng(seed + 50).choice([0.5, 1.0, 3.0], 300)
    norm[[7, 11]] = 0
    path = tmp_path / "s.duckdb"
    fill_store(path, dots={"a": dot}, difficulty=level, norms=norm)
    with np.errstate(divide="ignore", invalid="ignore"):
        values = {"dot": dot, "cosine": dot / norm}
    for influence, value in values.items():
        expected = slow_ranking(value, level, p=percentile, threshold=threshold)
        made = select(
            "pool",
            ratio=1,
            store=path,
            model="model",
            influence=influence,
            **({"difficulty_percentile": percentile} if threshold is None else {"difficulty_threshold": threshold}),
            output=tmp_path / "o.jsonl",
        )
        rows = written(tmp_path / "o.jsonl")
        assert [(row["quadrant"], row["position"]) for row in rows] == expected
        assert [row["dot"] for row in rows] == [value[i] for _, i in expected]
        assert [row["rank"] for row in rows] == list(range(len(expected)))
        assert made.n_scored == len(expected)
        assert made.n_unscored == 300 - len(expected)
        with duckdb.connect(str(path), read_only=True) as connection:
            bound = "NULL" if threshold is None else threshold
            sql = connection.execute(
                "SELECT quadrant, position, dot FROM diq_ranking("
                f"'pool', 'model', percentile := {percentile}, threshold := {bound}, influence := '{influence}')"
            ).fetchall()
        assert sql == [(quadrant, i, value[i]) for quadrant, i in expected]


@pytest.mark.parametrize("ratio", ["0.01", "0.1", "0.57", "57%", "1", "1e-2", "0.999"])
def test_a_selection_is_a_prefix_and_sql_takes_the_same(tmp_path: Path, ratio: str) -> None:
    dot, level = tied(7)
    path = tmp_path / "s.duckdb"
    fill_store(path, dots={"a": dot}, difficulty=level)
    expected = slow_ranking(dot, level)
    made = select("pool", ratio=ratio, store=path, model="model", output=tmp_path / "o.jsonl")
    decimal = Decimal(ratio.rstrip("%")) / (100 if "%" in ratio else 1)
    assert made.n == made.n_target == math.floor(len(expected) * decimal)
    assert [row["position"] for row in written(tmp_path / "o.jsonl")] == [i for _, i in expected[: made.n]]
    with duckdb.connect(str(path), read_only=True) as connection:
        sql = connection.execute(f"SELECT position FROM diq_select('pool', 'model', {decimal})").fetchall()
        as_double = connection.execute(
            "SELECT position FROM diq_select('pool', 'model', ?)", [float(decimal)]
        ).fetchall()
        assert sql == as_double == [(i,) for _, i in expected[: made.n]]
        stored = connection.execute(
            "SELECT position, quadrant FROM selection_samples WHERE selection_id = ? ORDER BY rank", [made.selection_id]
        ).fetchall()
    assert stored == [(i, q) for q, i in expected[: made.n]]


def test_ratio_counts_as_the_decimal_that_was_typed() -> None:
    assert Ratio.parse("0.57").of(100) == 57
    assert Ratio.parse(0.29).of(100) == 29
    assert Ratio.parse("1e-7").of(10**8) == 10
    for bad in ("0", "-0.1", "1.5", "nan", "ten", "", "101%"):
        with pytest.raises(UsageError, match="ratio"):
            Ratio.parse(bad)


def test_several_validation_sets_pool_by_their_samples_or_by_weights(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    a, b, level = rng.normal(size=90), rng.normal(size=90), rng.integers(1, 6, 90).astype(float)
    path = tmp_path / "s.duckdb"
    fill_store(path, dots={"a": a, "b": b}, difficulty=level, sizes={"a": 30, "b": 10})

    def dots(*sets: str) -> np.ndarray:
        select("pool", ratio=1, store=path, model="model", validation_set=sets, output=tmp_path / "o.jsonl")
        found = {row["position"]: row["dot"] for row in written(tmp_path / "o.jsonl")}
        return np.asarray([found[i] for i in range(90)])

    np.testing.assert_allclose(dots(), (30 * a + 10 * b) / 40, rtol=1e-12)
    np.testing.assert_allclose(dots("a", "b"), (30 * a + 10 * b) / 40, rtol=1e-12)
    np.testing.assert_allclose(dots("b"), b, rtol=1e-12)
    np.testing.assert_allclose(dots("a=2", "b=1"), (2 * a + b) / 3, rtol=1e-12)
    np.testing.assert_allclose(dots("a=0.5", "b"), (a / 2 + b) / 1.5, rtol=1e-12)
    for bad, message in (
        ("c", "no validation set named `c`"),
        ("a=0", "not a number from 1e-9 to 1e9"),
        ("a=nan", "not a number from"),
        ("a=1e308", "not a number from"),
        ("a=5e-324", "not a number from"),
        ("a=x", "not a number from"),
    ):
        with pytest.raises(UsageError, match=message):
            dots(bad)


def test_sets_of_unknown_size_count_alike(tmp_path: Path) -> None:
    a, b = np.asarray([1.0, 2.0, 3.0]), np.asarray([3.0, 3.0, 9.0])
    path = tmp_path / "s.duckdb"
    fill_store(path, dots={"a": a, "b": b}, difficulty=[1, 2, 3], sizes={"a": None, "b": 10})
    for sets in ((), ("a", "b")):
        select("pool", ratio=1, store=path, model="model", validation_set=sets, output=tmp_path / "o.jsonl")
        assert {row["position"]: row["dot"] for row in written(tmp_path / "o.jsonl")} == {0: 2.0, 1: 2.5, 2: 6.0}


def test_a_sample_that_lacks_a_dot_of_one_set_is_unscored(tmp_path: Path) -> None:
    path = tmp_path / "s.duckdb"
    dots = {"a": [1.0, 2.0, 3.0, 4.0], "b": [1.0, np.nan, 3.0, np.inf]}
    fill_store(path, dots=dots, difficulty=[1, 2, 3, 4])
    made = select("pool", ratio=1, store=path, model="model")
    assert (made.n, made.n_scored, made.n_unscored) == (2, 2, 2)
    assert select("pool", ratio=1, store=path, model="model", validation_set=["a"]).n == 4


@pytest.mark.parametrize("dimension", ["knowledge", "reasoning", "overall"])
def test_the_chosen_dimension_decides(tmp_path: Path, dimension: str) -> None:
    dot, level = tied(3)
    path = tmp_path / "s.duckdb"
    fill_store(path, dots={"a": dot}, difficulty=level)
    column = {"knowledge": 2 * level, "reasoning": -level, "overall": level}[dimension]
    select("pool", ratio=1, store=path, model="model", difficulty=dimension, output=tmp_path / "o.jsonl")
    assert [(row["quadrant"], row["position"]) for row in written(tmp_path / "o.jsonl")] == slow_ranking(dot, column)


def test_strategies_of_one_score(tmp_path: Path) -> None:
    dot, level = tied(4)
    path = tmp_path / "s.duckdb"
    fill_store(path, dots={"a": dot}, difficulty=level)

    def positions(strategy: Any, ratio: str = "1", seed: int | None = None) -> list[object]:
        output = tmp_path / "o.jsonl"
        needed: dict[str, Any] = {} if strategy in ("random", "overall", "reasoning") else {"model": "model"}
        needed |= {} if seed is None else {"seed": seed}
        select("pool", ratio=ratio, store=path, strategy=strategy, output=output, **needed)
        return [row["position"] for row in written(output)]

    def descending(values: np.ndarray) -> list[int]:
        return sorted((i for i in range(len(values)) if math.isfinite(values[i])), key=lambda i: (-values[i], i))

    assert positions("influence") == descending(dot)
    assert positions("overall") == descending(level)
    assert positions("reasoning") == descending(-level)
    ranking = slow_ranking(dot, level)
    for quadrant in ("Q1", "Q2", "Q3", "Q4"):
        assert positions(quadrant.lower()) == [i for q, i in ranking if q == quadrant]
    chance = positions("random")
    assert sorted(chance) == list(range(300))  # type: ignore[type-var]
    assert positions("random", ratio="0.1") == chance[:30]
    assert positions("random", seed=1) != chance


def test_a_quadrant_gives_no_more_than_it_holds(tmp_path: Path) -> None:
    dot, level = tied(5)
    path = tmp_path / "s.duckdb"
    fill_store(path, dots={"a": dot}, difficulty=level)
    made = select("pool", ratio="0.9", store=path, model="model", strategy="q1")
    assert made.n == made.counts["dataset"]["Q1"] < made.n_target


def test_parquet_and_jsonl_hold_the_same(tmp_path: Path) -> None:
    dot, level = tied(6)
    path = tmp_path / "s.duckdb"
    ids = fill_store(path, dots={"a": dot}, difficulty=level)
    select("pool", ratio="0.2", store=path, model="model", output=tmp_path / "o.jsonl")
    select("pool", ratio="0.2", store=path, model="model", output=tmp_path / "o.parquet")
    rows = written(tmp_path / "o.jsonl")
    assert pq.read_table(tmp_path / "o.parquet").to_pylist() == rows
    assert set(rows[0]) == {"messages", "sample_id", "position", "quadrant", "rank", "difficulty", "dot", "order"}
    for row in rows:
        assert row["sample_id"] == ids[row["position"]]  # type: ignore[index]
        assert row["messages"][0] == {"role": "user", "content": f"q {row['position']} of pool"}  # type: ignore[index]
    assert sorted(one.name for one in tmp_path.iterdir()) == ["o.jsonl", "o.parquet", "s.duckdb"]


def test_the_same_selection_is_recorded_once(tmp_path: Path) -> None:
    dot, level = tied(8)
    path = tmp_path / "s.duckdb"
    fill_store(path, dots={"a": dot}, difficulty=level)
    first = select("pool", ratio="0.1", store=path, model="model")
    again = select("pool", ratio="10%", store=path, model="model", output=tmp_path / "o.jsonl")
    other = select("pool", ratio="0.2", store=path, model="model")
    assert first.selection_id == again.selection_id != other.selection_id
    with Store(path, read_only=True) as store:
        assert len(store.rows("store/list_selections")) == 2
        assert store.connection.execute("SELECT count(*) FROM rankings").fetchone() == (1,)
        assert store.connection.execute("SELECT count(*) FROM selection_samples").fetchone() == (first.n + other.n,)


def test_bad_requests_are_one_line_with_a_hint(tmp_path: Path) -> None:
    path = tmp_path / "s.duckdb"
    fill_store(path, dots={"a": [1.0, 2.0, 3.0]}, difficulty=[1, 2, 3])
    good = {"ratio": "0.5", "store": path, "model": "model"}
    cases = [
        ({"ratio": "0"}, "outside"),
        ({"ratio": "1.5"}, "outside"),
        ({"ratio": "0.1"}, "selects none"),
        ({"model": None}, "needs a model"),
        ({"model": "modle"}, "no model named `modle`"),
        ({"strategy": "best"}, "strategy `best` is not known"),
        ({"difficulty": "hard"}, "difficulty `hard` is not known"),
        ({"difficulty_percentile": 1.5}, "percentile"),
        ({"difficulty_threshold": math.nan}, "threshold"),
        ({"output": tmp_path / "o.txt"}, "neither"),
        ({"output": tmp_path / "none" / "o.jsonl"}, "no folder"),
        ({"run": 99}, "in run 99"),
        ({"influence": "cosin"}, "influence `cosin` is not known"),
        ({"name": "2"}, "name `2` reads as a number"),
        ({"name": " "}, "name is blank"),
    ]
    for change, message in cases:
        with pytest.raises(UsageError, match=message) as caught:
            select("pool", **{**good, **change})  # type: ignore[arg-type]
        assert "\n" not in caught.value.message
        assert caught.value.hint
    with pytest.raises(UsageError, match="no dataset named `pol`"):
        select("pol", **good)  # type: ignore[arg-type]
    # what there is, and not how to compute it again
    for change, hint in (
        ({"run": 99}, "name another with --run: 1 (exact)"),
        ({"difficulty_run": 1}, "name another with --difficulty-run: 2 (columns)"),
    ):
        with pytest.raises(MissingScoresError, match="found 0 of 3") as caught:
            select("pool", **good, **change)  # type: ignore[arg-type]
        assert caught.value.hint == hint


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"dedupe_threshold": 0.8}, "--dedupe-threshold has no effect without --dedupe near"),
        ({"dedupe_threshold": 0.9, "dedupe": "exact"}, "--dedupe-threshold has no effect with --dedupe exact"),
        ({"decontaminate_share": 0.5}, "--decontaminate-share has no effect without --decontaminate"),
        ({"strategy": "random", "model": "model"}, "--model has no effect with --strategy random"),
        ({"strategy": "overall", "difficulty": "overall"}, "--difficulty has no effect with --strategy overall"),
        ({"strategy": "less", "influence": "cosine"}, "--influence has no effect with --strategy less"),
        ({"strategy": "random", "run": 1}, "--run has no effect with --strategy random"),
        ({"strategy": "influence", "difficulty_run": 1}, "--difficulty-run has no effect with --strategy influence"),
        ({"encoder": "e"}, "--encoder has no effect with --strategy diq"),
        (
            {"strategy": "perplexity", "validation_set": "a"},
            "--validation-set has no effect with --strategy perplexity",
        ),
        ({"seed": 0}, "--seed has no effect with --strategy diq"),
        (
            {"difficulty_percentile": 0.5, "difficulty_threshold": 3},
            "--difficulty-percentile has no effect with --difficulty-threshold 3.0",
        ),
    ],
)
def test_an_option_without_effect_is_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError) as caught:
        SelectOptions("pool", ratio=0.5, **options)
    assert caught.value.message == message
    assert caught.value.hint.startswith("leave ")
    words = [word for key, one in options.items() for word in (f"--{key.replace('_', '-')}", one)]
    assert refused(command, "pool", "--ratio", "0.5", *words).message == message


def test_status_and_messages_count_a_sample_alike(tmp_path: Path) -> None:
    """A row without a number, or with an infinite one, is no score, whoever counts."""
    path = tmp_path / "s.duckdb"
    dots = {"a": [1.0, math.nan, math.inf, 4.0, 5.0, 6.0], "b": [1.0, 2.0, 3.0, 4.0, math.nan, 6.0]}
    fill_store(path, dots=dots, difficulty=[1, 2, math.inf, math.nan, 5, 6])
    with Store(path) as store:
        store.connection.execute("UPDATE difficulty_scores SET knowledge = NULL WHERE overall > 1")
        # a sample that set b has not come to yet, in a run that is not finished
        store.connection.execute(
            "DELETE FROM influence_scores WHERE validation_set_id = 2 AND sample_id = "
            "(SELECT sample_id FROM dataset_samples WHERE position = 5)"
        )
        store.connection.execute("UPDATE run_datasets SET state = 'open'")
    coverage = {
        (row["score"], row["validation_set"], row["dimension"]): (row["n_scored"], row["n_samples"])
        for row in json.loads(stdout_of(status, "--json", "--store", path))["coverage"]
    }
    assert coverage == {
        ("influence", "a", None): (4, 6),
        ("influence", "b", None): (4, 6),
        ("difficulty", None, "knowledge"): (1, 6),
        ("difficulty", None, "reasoning"): (4, 6),
        ("difficulty", None, "overall"): (4, 6),
    }
    with pytest.raises(MissingScoresError, match=r"influence scores .* not finished: found 4 of 6 samples"):
        select("pool", ratio=1, store=path, model="model")
    for dimension, n in (("knowledge", 1), ("overall", 4)):
        with pytest.raises(MissingScoresError, match=rf"difficulty scores .* not finished: found {n} of 6 samples"):
            select("pool", ratio=1, store=path, strategy=dimension)


def test_missing_unfinished_and_ambiguous_scores_are_told_apart(tmp_path: Path) -> None:
    path = tmp_path / "s.duckdb"
    fill_store(path, dots={"a": [1.0, 2.0, 3.0]}, difficulty=[1, 2, 3])
    with Store(path) as store:
        store.connection.execute("UPDATE run_datasets SET state = 'open' WHERE run_id = 1")
    with pytest.raises(MissingScoresError, match="not finished: found 3 of 3") as caught:
        select("pool", ratio=1, store=path, model="model")
    assert "again" in caught.value.hint
    with Store(path) as store:
        store.connection.execute("UPDATE run_datasets SET state = 'sealed'")
        other = store.open_run(
            kind="influence", method="projected", model_id="id-model", fingerprint="x", settings={}, environment={}
        )
        store.start_scoring(other, 1)
        store.seal(other, 1)
    with pytest.raises(MissingScoresError, match=r"2 runs: 1 \(exact, 3 samples.*3 \(projected") as caught:
        select("pool", ratio=1, store=path, model="model")
    assert "--run 3" in caught.value.hint
    assert select("pool", ratio=1, store=path, model="model", run=1).n == 3
    with Store(path) as store:
        store.connection.execute("DELETE FROM run_datasets WHERE run_id = 2")
    with pytest.raises(MissingScoresError, match="no difficulty scores on dataset `pool`: found 0 of 3"):
        select("pool", ratio=1, store=path, model="model", run=1)


def test_cosine_orders_by_the_dot_over_the_norm_and_is_recorded(tmp_path: Path) -> None:
    path = tmp_path / "s.duckdb"
    dots = {"a": [4.0, 3.0, 2.0, 1.0], "b": [0.0, 1.0, 2.0, 3.0]}
    norms = [8.0, 1.0, 2.0, 0.5]
    fill_store(path, dots=dots, difficulty=[1, 1, 1, 1], sizes={"a": 30, "b": 10}, norms=norms)
    made = {}
    for influence in ("dot", "cosine"):
        made[influence] = select(
            "pool",
            ratio=1,
            store=path,
            model="model",
            strategy="influence",
            influence=influence,
            output=tmp_path / "o.jsonl",
        )
        found = {row["position"]: row["dot"] for row in written(tmp_path / "o.jsonl")}
        pooled = (30 * np.asarray(dots["a"]) + 10 * np.asarray(dots["b"])) / 40
        expected = pooled if influence == "dot" else pooled / norms
        assert found == dict(enumerate(expected.tolist()))
        assert list(found) == sorted(found, key=lambda i: -expected[i])
    assert made["dot"].selection_id != made["cosine"].selection_id
    with Store(path, read_only=True) as store:
        kept = store.connection.execute("SELECT config ->> 'influence' FROM rankings ORDER BY ranking_id").fetchall()
    assert kept == [("dot",), ("cosine",)]


def test_cosine_without_norms_is_refused_by_rust_and_sql(tmp_path: Path) -> None:
    for name, norms, missing in (("none", None, 2), ("one", [1.0, np.nan, np.nan], 1)):
        path = tmp_path / f"{name}.duckdb"
        # the sample without a dot needs no norm
        fill_store(path, dots={"a": [1.0, 2.0, np.nan]}, difficulty=[1, 2, 3], norms=norms)
        with pytest.raises(MissingScoresError, match=f"{missing} of the 2 samples of dataset `pool`") as caught:
            select("pool", ratio=1, store=path, model="model", influence="cosine")
        assert "--norms" in caught.value.hint
        assert "\n" not in caught.value.message
        with duckdb.connect(str(path), read_only=True) as connection:
            with pytest.raises(duckdb.Error, match="needs the gradient norm of every sample"):
                connection.execute("FROM diq_select('pool', 'model', 1, influence := 'cosine')").fetchall()
            with pytest.raises(duckdb.Error, match="influence is dot or cosine"):
                connection.execute("FROM diq_ranking('pool', 'model', influence := 'cos')").fetchall()


def test_a_less_run_takes_the_largest_of_its_tasks(tmp_path: Path) -> None:
    rng = np.random.default_rng(12)
    dots = {name: rng.uniform(-1, 1, 40) for name in ("a", "b", "c")}
    dots["b"][5] = np.nan
    path = tmp_path / "s.duckdb"
    fill_store(path, dots=dots, difficulty=np.ones(40), sizes={"a": 30, "b": 1, "c": 5}, method="less")
    for sets, names in (((), "abc"), (("a", "c"), "ac"), (("a=1", "b"), "ab"), (("b=2", "c=2"), "bc")):
        made = select(
            "pool",
            ratio=1,
            store=path,
            model="model",
            validation_set=sets,
            strategy="influence",
            output=tmp_path / "o.jsonl",
        )
        largest = np.stack([dots[name] for name in names]).max(axis=0)
        found = {row["position"]: row["dot"] for row in written(tmp_path / "o.jsonl")}
        assert found == {i: value for i, value in enumerate(largest.tolist()) if math.isfinite(value)}
        assert made.n_unscored == int("b" in names)
    with pytest.raises(UsageError, match="takes the largest of its tasks") as caught:
        select("pool", ratio=1, store=path, model="model", validation_set=["a=2", "b"])
    assert caught.value.hint
    with pytest.raises(UsageError, match="holds cosines already"):
        select("pool", ratio=1, store=path, model="model", influence="cosine")
    with (
        duckdb.connect(str(path), read_only=True) as connection,
        pytest.raises(duckdb.Error, match="takes the largest of its tasks"),
    ):
        connection.execute(
            "FROM diq_scores('pool', 'model', validation_weights := MAP {'a': 2.0, 'b': 1.0})"
        ).fetchall()


def halved(seed: int, n: int, noise: float) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray], np.ndarray]:
    """Dots and fold dots of two validation sets, and a difficulty."""
    rng = np.random.default_rng(seed)
    common = rng.normal(size=(n, 1))
    folds = {name: common + noise * rng.normal(size=(n, 4)) for name in ("a", "b")}
    return {name: one.mean(axis=1) for name, one in folds.items()}, folds, rng.integers(1, 6, n).astype(float)


ALIKE = [pytest.param(one, marks=pytest.mark.exhaustive) for one in ("q2", "q3")]


@pytest.mark.parametrize("strategy", ["diq", "influence", "q1", "q4", *ALIKE])
@pytest.mark.parametrize("influence", ["dot", "cosine"])
def test_flips_are_the_selections_of_two_halves_by_the_book(tmp_path: Path, strategy: str, influence: str) -> None:
    n = 200
    dots, folds, level = halved(1, n, 1.0)
    norm = np.random.default_rng(2).uniform(0.5, 2, n)
    path = tmp_path / "s.duckdb"
    fill_store(path, dots=dots, difficulty=level, sizes={"a": 30, "b": 10}, folds=folds, norms=norm)
    divisor = norm if influence == "cosine" else np.ones(n)
    for ratio, weights in (("0.1", (30, 10)), ("0.5", (1, 3))):
        chosen = []
        for first in (0, 1):
            parts = [folds[name][:, first::2].mean(axis=1) for name in ("a", "b")]
            half = np.average(parts, axis=0, weights=weights) / divisor
            if strategy == "influence":
                order = sorted(range(n), key=lambda i: (-half[i], i))
            else:
                order = [i for q, i in slow_ranking(half, level) if strategy in ("diq", q.lower())]
            chosen.append(set(order[: math.floor(n * float(ratio))]))
        expected = 1 - len(chosen[0] & chosen[1]) / max(map(len, chosen))
        made = select(
            "pool",
            ratio=ratio,
            store=path,
            model="model",
            strategy=strategy,
            influence=influence,
            validation_set=() if weights == (30, 10) else ("a=1", "b=3"),
        )
        assert made.flip_share == pytest.approx(expected, abs=1e-12)
        assert made.to_dict()["flip_share"] == made.flip_share


def test_a_selection_that_is_mostly_chance_is_warned_of(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "s.duckdb"
    dots, folds, level = halved(3, 400, 4.0)
    fill_store(path, dots=dots, difficulty=level, sizes={"a": 20, "b": 20}, folds=folds, fold_sizes={"a": [5] * 4})
    made = select("pool", ratio="0.05", store=path, model="model")
    (line,) = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert made.flip_share is not None
    assert made.flip_share > 0.5
    for part in ("ratio of 0.05", "20 samples each", f"{100 * made.flip_share:.0f} %", "more validation samples"):
        assert part in line
    assert "\n" not in line
    caplog.clear()
    # everything is selected whatever the dots are
    assert select("pool", ratio=1, store=path, model="model").flip_share == 0
    # dots that all validation samples agree on
    agreed = tmp_path / "agreed.duckdb"
    same = {name: np.repeat(one[:, None], 4, axis=1) for name, one in dots.items()}
    fill_store(agreed, dots=dots, difficulty=level, folds=same)
    assert select("pool", ratio="0.05", store=agreed, model="model").flip_share == 0
    assert not [record for record in caplog.records if record.levelname == "WARNING"]


def test_without_folds_or_dots_nothing_is_known_of_flips(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    dots, folds, level = halved(4, 100, 4.0)
    some: dict[str, object] = {"a": [None, *folds["a"][1:].tolist()], "b": folds["b"].tolist()}
    for name, parts in (("none", None), ("one", {"a": dots["a"][:, None], "b": dots["b"][:, None]}), ("some", some)):
        path = tmp_path / f"{name}.duckdb"
        fill_store(path, dots=dots, difficulty=level, folds=parts)
        assert select("pool", ratio="0.1", store=path, model="model").flip_share is None
    path = tmp_path / "all.duckdb"
    fill_store(path, dots=dots, difficulty=level, folds=folds)
    for strategy in ("random", "overall"):
        assert select("pool", ratio="0.1", store=path, strategy=strategy).flip_share is None
    assert not caplog.records


@pytest.mark.parametrize("ending", [".jsonl", ".parquet"])
def test_a_full_disk_leaves_no_file_and_no_record(
    tmp_path: Path, small_disk: Callable[[int], Path], ending: str
) -> None:
    dot, level = tied(9, n=3000)
    path = tmp_path / "s.duckdb"
    fill_store(path, dots={"a": dot}, difficulty=level)
    disk = small_disk(16)
    with pytest.raises(RunFailedError, match=r"is full: `o\..* was not written") as caught:
        select("pool", ratio=1, store=path, model="model", output=disk / f"o{ending}")
    assert "free some space" in caught.value.hint
    assert list(disk.iterdir()) == []
    with Store(path, read_only=True) as store:
        assert store.rows("store/list_selections") == []


@pytest.fixture
def ranked(tmp_path: Path) -> Path:
    """A store whose ranking is in it, so that only the selection is left to be written."""
    dot, level = tied(9, n=300)
    fill_store(tmp_path / "s.duckdb", dots={"a": dot}, difficulty=level)
    select("pool", ratio="0.5", store=tmp_path / "s.duckdb", model="model", name="first")
    return tmp_path / "s.duckdb"


def selections(store: Path) -> list[str]:
    with Store(store, read_only=True) as opened:
        return [one["name"] for one in opened.rows("store/list_selections")]


@pytest.mark.parametrize("had", [True, False])
def test_a_failed_rename_leaves_no_record(ranked: Path, monkeypatch: pytest.MonkeyPatch, had: bool) -> None:
    output = ranked.with_name("o.jsonl")
    if had:
        output.write_text("old")
    replace = Path.replace

    def fail(part: Path, place: Path) -> Path:
        if place == output and part.name.endswith(".part"):
            raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))
        return replace(part, place)

    monkeypatch.setattr(Path, "replace", fail)
    with pytest.raises(RunFailedError, match="cannot be written: Operation not permitted"):
        select("pool", ratio="0.1", store=ranked, model="model", output=output)
    assert selections(ranked) == ["first"]
    assert sorted(one.name for one in ranked.parent.iterdir()) == [*["o.jsonl"] * had, "s.duckdb"]
    assert not had or output.read_text() == "old"


@pytest.mark.parametrize("had", [True, False])
def test_a_failed_commit_leaves_the_file_of_before(
    ranked: Path, tmp_path: Path, small_disk: Callable[[int], Path], had: bool
) -> None:
    disk = small_disk(8192)
    store, output = Path(shutil.copy(ranked, disk)), tmp_path / "out" / "o.jsonl"
    output.parent.mkdir()
    if had:
        output.write_text("old")
    ballast = disk / "ballast"
    with pytest.raises(OSError, match="No space"), ballast.open("wb") as file:
        while True:
            file.write(bytes(4096))
    with pytest.raises(StoreError, match="is full"):
        select("pool", ratio="0.1", store=store, model="model", output=output)
    assert [one.name for one in output.parent.iterdir()] == ["o.jsonl"] * had
    assert not had or output.read_text() == "old"
    ballast.unlink()
    assert selections(store) == ["first"]


@pytest.mark.parametrize("step", ["before the rename", "after the rename"])
def test_a_kill_leaves_no_record_without_its_file(ranked: Path, step: str) -> None:
    output = ranked.with_name("o.jsonl")
    output.write_text("old")
    code = f"""
        import os, signal
        from pathlib import Path
        from diq.selection.select import select

        replace = Path.replace
        def killed(part, place):
            if {step!r} == "after the rename":
                replace(part, place)
            os.kill(os.getpid(), signal.SIGKILL)
        Path.replace = killed
        select("pool", ratio="0.1", store=Path({str(ranked)!r}), model="model", output=Path({str(output)!r}))
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(code)], capture_output=True, check=False)
    assert done.returncode == -signal.SIGKILL, done.stderr.decode()
    assert (output.read_text() == "old") == (step == "before the rename")
    assert selections(ranked) == ["first"]
    # the same again leaves both, and nothing of the killed one
    made = select("pool", ratio="0.1", store=ranked, model="model", output=output)
    assert len(output.read_text().splitlines()) == made.n
    assert sorted(selections(ranked)) == ["first", made.name]
    assert sorted(one.name for one in ranked.parent.iterdir()) == ["o.jsonl", "s.duckdb"]


def test_another_selection_starts_in_a_blink(ranked: Path) -> None:
    """Neither torch nor pandas is loaded, which pyarrow loads for any conversion to numpy of its own."""
    code = f"""
        import sys
        from pathlib import Path
        from diq.selection.select import select

        store = Path({str(ranked)!r})
        made = select("pool", ratio="0.2", store=store, model="model", output=store.with_name("o.jsonl"))
        assert made.ranking == "stored", made.ranking
        sys.exit(" ".join({{"torch", "pandas", "transformers"}} & set(sys.modules)) or 0)
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_the_file_of_a_selection_is_on_the_disk(ranked: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced, fsync = [], os.fsync

    def note(handle: int) -> None:
        synced.append(os.fstat(handle).st_ino)
        fsync(handle)

    monkeypatch.setattr(os, "fsync", note)
    for ending in (".jsonl", ".jsonl.gz", ".parquet"):
        output = ranked.with_name(f"o{ending}")
        select("pool", ratio="0.1", store=ranked, model="model", output=output)
        assert synced == [output.stat().st_ino, ranked.parent.stat().st_ino]
        synced.clear()


def test_an_output_that_cannot_be_is_refused_before_the_work(tmp_path: Path) -> None:
    store = tmp_path / "pool.jsonl"
    for output, message in (
        (tmp_path, "is neither .jsonl nor .parquet"),
        (store, "is the store"),
        (tmp_path / "no" / "o.jsonl", "there is no folder"),
        (Path("/proc/o.jsonl"), "cannot be written"),
    ):
        # the store is not even looked for
        with pytest.raises(UsageError, match=message):
            select("pool", ratio=1, store=store, model="model", output=output)


def test_a_packed_file_is_the_same_at_another_time(ranked: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    output = ranked.with_name("o.jsonl.gz")
    found = set()
    for moment in (1e9, 2e9):
        monkeypatch.setattr(time, "time", lambda moment=moment: moment)
        select("pool", ratio="0.1", store=ranked, model="model", output=output)
        found.add(output.read_bytes())
    assert len(found) == 1
