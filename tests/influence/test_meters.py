"""Meters by the book, their laws, and the columns that feed them against the SQL face."""

from __future__ import annotations

import json
import math
import os
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pytest

from conftest import fill_store
from diq.influence.meters import (
    Dots,
    average_ranks,
    flip_share,
    measure,
    order,
    pearson,
    spearman,
    spearman_brown,
    standard_errors,
)
from diq.influence.stored import measure_runs, read_dots, read_influence
from diq.store.store import Store

PREVIOUS_DUCKDB = Path(sys.prefix) / "duckdb-previous"


def slow_ranks(values: np.ndarray) -> list[float]:
    """1 + how many are smaller + half of how many others are equal."""
    return [1 + sum(w < v for w in values) + (sum(w == v for w in values) - 1) / 2 for v in values]


def tied(seed: int, n: int = 60) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return rng.integers(-4, 5, n) * rng.choice([1.0, -0.0, 0.5], n)


def columns(
    dot: Any, *, halves: Any = None, tokens: Any = None, tasks: tuple[str, ...] = ("a",), closest: Any = None
) -> Dots:
    dot = np.asarray(dot, np.float64)
    return Dots(
        dot=dot,
        answer_tokens=np.full(len(dot), 7.0) if tokens is None else np.asarray(tokens, np.float64),
        standard_error=None,
        halves=None if halves is None else (np.asarray(halves[0], np.float64), np.asarray(halves[1], np.float64)),
        half_sizes=(8, 8),
        tasks=tasks,
        closest=np.zeros(len(dot), np.int16) if closest is None else np.asarray(closest, np.int16),
        n_missing=0,
    )


def dots_of(path: Path, weights: dict[str, float] | None = None) -> Dots:
    with Store(path, read_only=True) as store:
        return read_dots(store, dataset_id=1, run_id=1, weights=weights)


def scores_of(path: Path, weights: str = "NULL", threads: int | None = None) -> dict[str, np.ndarray]:
    """Dot and standard error from the macro; null is NaN."""
    with duckdb.connect(str(path), read_only=True) as connection:
        if threads:
            connection.execute(f"SET threads = {threads}")
        rows = connection.execute(
            "SELECT dot, standard_error, gradient_norm "
            f"FROM diq_scores('pool', 'model', validation_weights := {weights}) ORDER BY position"
        ).fetchall()
    found = np.asarray([[math.nan if one is None else one for one in row] for row in rows])
    return dict(zip(("dot", "standard_error", "gradient_norm"), found.T, strict=True))


def folded(rng: np.random.Generator, n: int, k: int) -> tuple[np.ndarray, np.ndarray]:
    """Fold dots with a common part, and their mean."""
    parts = rng.normal(size=(n, 1)) + rng.normal(size=(n, k))
    return parts, parts.mean(axis=1)


# the statistics ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(4))
def test_statistics_by_the_book(seed: int) -> None:
    x, y = tied(seed), tied(seed + 10) + tied(seed)
    assert average_ranks(x).tolist() == slow_ranks(x)
    assert pearson(x, y) == pytest.approx(statistics.correlation(x.tolist(), y.tolist()), abs=1e-14)
    slow = statistics.correlation(slow_ranks(x), slow_ranks(y))
    assert spearman(x, y) == pytest.approx(slow, abs=1e-14)
    assert order(x).tolist() == sorted(range(len(x)), key=lambda i: (-x[i], i))
    folds = np.random.default_rng(seed).normal(size=(20, 2 + seed))
    book = [statistics.stdev(row) / math.sqrt(len(row)) for row in folds.tolist()]
    np.testing.assert_allclose(standard_errors(folds), book, rtol=1e-12)


def test_hand_computed_cases() -> None:
    # two folds: the standard error is half of their distance
    assert standard_errors(np.asarray([[1.0, 4.0], [2.0, 2.0]])).tolist() == [1.5, 0.0]
    # (0 - 2)^2 + (2 - 2)^2 + (4 - 2)^2 = 8; 8 / 2 = 4; sqrt(4 / 3)
    assert standard_errors(np.asarray([[0.0, 2.0, 4.0]])).tolist() == [math.sqrt(4 / 3)]
    assert math.isnan(standard_errors(np.asarray([[0.0, math.nan]]))[0])
    assert average_ranks(np.asarray([5.0, 1.0, 5.0, 9.0])).tolist() == [2.5, 1.0, 2.5, 4.0]
    assert spearman_brown(0.5) == pytest.approx(2 / 3)
    assert spearman_brown(1.0) == 1
    assert spearman_brown(-0.2) == 0
    assert math.isnan(spearman_brown(math.nan))
    assert flip_share(np.asarray([0, 1, 2, 3]), np.asarray([3, 4, 5, 2])) == 0.5
    assert flip_share(np.asarray([0, 1]), np.asarray([0, 1, 2, 3])) == 0.5
    assert flip_share(np.asarray([7]), np.asarray([7])) == 0
    assert math.isnan(flip_share(np.zeros(0, np.int64), np.zeros(0, np.int64)))


def test_only_finite_rows_count_and_nothing_is_nan_not_zero() -> None:
    nan, inf = math.nan, math.inf
    assert order(np.asarray([nan, 1.0, inf, 3.0, 1.0, -inf])).tolist() == [3, 1, 4]
    assert order(np.asarray([-0.0, 0.0])).tolist() == [0, 1]
    x, y = np.asarray([1.0, 2.0, 3.0, nan, 9.0]), np.asarray([1.0, 2.0, 4.0, 0.0, inf])
    assert spearman(x, y) == 1
    assert pearson(x, y) == pytest.approx(statistics.correlation([1, 2, 3], [1, 2, 4]))
    for a, b in (([], []), ([1.0], [2.0]), ([1.0, 1.0], [1.0, 2.0]), ([nan, 1.0], [1.0, nan])):
        assert math.isnan(spearman(np.asarray(a), np.asarray(b)))
        assert math.isnan(pearson(np.asarray(a), np.asarray(b)))
    # dots of any size: their squares would overflow, or vanish
    for scale in (1e300, 1e-300):
        assert pearson(scale * np.asarray([1.0, 2.0, 4.0]), np.asarray([1.0, 2.0, 4.0])) == pytest.approx(1)


@pytest.mark.parametrize("n", [0, 1])
def test_meters_of_next_to_nothing(n: int) -> None:
    meters = measure(columns(np.ones(n), halves=(np.ones(n), np.ones(n)), tasks=("a", "b")))
    assert meters.n == n
    unknown = [meters.standard_deviation, meters.standard_error, meters.length_pearson, meters.half_spearman]
    assert all(math.isnan(one) for one in [*unknown, meters.full_spearman, *meters.flips.values()])
    assert meters.task_shares is not None
    assert set(meters.task_shares) == {"0.01", "0.1", "0.5", "1"}


# laws of the meters ------------------------------------------------------------------------------------------------


def test_identical_halves_agree_and_independent_ones_agree_by_chance() -> None:
    rng = np.random.default_rng(0)
    one, other = rng.normal(size=(2, 100_000))
    same = measure(columns(one, halves=(one, one)))
    assert (same.half_spearman, same.full_spearman) == (1, 1)
    assert set(same.flips.values()) == {0}
    chance = measure(columns((one + other) / 2, halves=(one, other)))
    assert abs(chance.half_spearman) < 0.01
    for ratio, flips in chance.flips.items():
        assert flips == pytest.approx(1 - float(ratio), abs=0.03)


def test_halves_of_a_known_correlation_flip_as_theory_says() -> None:
    rng = np.random.default_rng(1)
    common, noise = rng.normal(size=200_000), rng.normal(size=(2, 200_000))
    one, other = common + noise[0], common + noise[1]
    meters = measure(columns((one + other) / 2, halves=(one, other)))
    # two normal variables of correlation 1/2 are on different sides of their medians with probability acos(1/2) / pi
    assert meters.flips["0.5"] == pytest.approx(math.acos(0.5) / math.pi, abs=0.005)
    # rank correlation of normal variables: 6 / pi asin(r / 2)
    assert meters.half_spearman == pytest.approx(6 / math.pi * math.asin(0.25), abs=0.01)


def test_scale_and_shift_change_nothing_but_the_units() -> None:
    rng = np.random.default_rng(2)
    # multiples of 1/8, so that a shift loses no bit
    one, other = np.round(8 * rng.normal(size=(2, 500))) / 8
    tokens, closest = rng.integers(1, 99, 500), rng.integers(0, 2, 500)
    common = {"tokens": tokens, "tasks": ("a", "b"), "closest": closest}
    first = measure(columns((one + other) / 2, halves=(one, other), **common))
    for scale, shift in ((4.0, 0.0), (1.0, 64.0), (0.25, -8.0)):
        halves = (scale * one + shift, scale * other + shift)
        second = measure(columns((halves[0] + halves[1]) / 2, halves=halves, **common))
        assert second.standard_deviation == pytest.approx(scale * first.standard_deviation)
        for name in ("half_spearman", "full_spearman", "flips", "task_shares", "length_spearman"):
            assert getattr(second, name) == getattr(first, name)
        assert second.length_pearson == pytest.approx(first.length_pearson, abs=1e-12)


def test_a_longer_answer_with_a_smaller_dot_is_length_bias() -> None:
    tokens = np.arange(1, 101)
    meters = measure(columns(1 / tokens, tokens=tokens))
    assert meters.length_spearman == -1
    book = statistics.correlation((1 / tokens).tolist(), tokens.astype(float).tolist())
    assert meters.length_pearson == pytest.approx(book, abs=1e-12)


# reading, against the macro ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("k", [2, 3, 4])
@pytest.mark.parametrize("method", ["exact", "less"])
def test_python_and_sql_pool_alike(tmp_path: Path, k: int, method: str) -> None:
    rng = np.random.default_rng(k)
    n, names = 200, ("a", "b", "c")
    folds, dots = {}, {}
    for name in names:
        folds[name], dots[name] = folded(rng, n, k)
    dots["b"][3] = np.nan
    dots["c"][4] = np.inf
    path = tmp_path / "s.duckdb"
    sizes = {"a": 30, "b": 10, "c": 7}
    fill_store(path, dots=dots, difficulty=np.ones(n), sizes=sizes, folds=folds, method=method)
    weightings: list[dict[str, float] | None] = [None, {"b": 1.0}, {"a": 1.0, "c": 1.0}]
    if method == "exact":
        weightings.append({"a": 0.3, "b": 0.1, "c": 2.0})
    for weights in weightings:
        asked = "NULL" if weights is None else f"MAP {json.dumps(weights).replace(chr(34), chr(39))}"
        sql = scores_of(path, asked)
        python = dots_of(path, weights)
        assert python.dot.tobytes() == sql["dot"].tobytes()
        assert python.standard_error is not None
        error = np.where(np.isfinite(python.dot), python.standard_error, np.nan)
        np.testing.assert_allclose(error, sql["standard_error"], rtol=1e-12)
        # by the book: pool fold by fold, then the spread of the folds
        chosen = weights or {name: float(sizes[name]) for name in names}
        parts = np.stack([folds[name] for name in chosen])
        if method == "less":
            each = parts.max(axis=0)
        else:
            share = np.asarray(list(chosen.values())) / sum(chosen.values())
            each = np.einsum("s,snk->nk", share, parts)
        book = np.std(each, axis=1, ddof=1) / math.sqrt(k)
        finite = np.isfinite(sql["dot"])
        np.testing.assert_allclose(sql["standard_error"][finite], book[finite], rtol=1e-9)
        # without a dot there is no standard error
        assert np.isnan(sql["standard_error"][~finite]).all()
        assert python.closest[~finite].tolist() == [-1] * int((~finite).sum())


def test_the_macro_gives_the_same_bits_on_any_thread_count(tmp_path: Path) -> None:
    rng = np.random.default_rng(5)
    folds, dots = {}, {}
    for name in ("a", "b", "c"):
        folds[name], dots[name] = folded(rng, 5000, 4)
    path = tmp_path / "s.duckdb"
    norms = rng.uniform(1, 2, 5000)
    fill_store(path, dots=dots, difficulty=np.ones(5000), sizes={"a": 3, "b": 7, "c": 11}, folds=folds, norms=norms)
    found = [scores_of(path, threads=threads) for threads in (1, 2, 4)]
    for name in ("dot", "standard_error", "gradient_norm"):
        assert len({one[name].tobytes() for one in found}) == 1
    assert found[0]["gradient_norm"].tolist() == norms.tolist()


def test_halves_are_even_and_odd_folds_weighted_by_their_sizes(tmp_path: Path) -> None:
    path = tmp_path / "s.duckdb"
    folds = {"a": [[1.0, 10.0, 4.0], [0.0, 1.0, 2.0]], "b": [[5.0, 7.0, 5.0], [1.0, 1.0, 1.0]]}
    dots = {"a": [(1 * 2 + 10 * 1 + 4 * 1) / 4, 0.75], "b": [6.0, 1.0]}
    fold_sizes = {"a": [2, 1, 1], "b": [1, 2, 1]}
    fill_store(path, dots=dots, difficulty=[1, 2], sizes={"a": 4, "b": 12}, folds=folds, fold_sizes=fold_sizes)
    found = dots_of(path)
    assert found.halves is not None
    # set a: even (1 * 2 + 4 * 1) / 3 = 2, odd 10; set b: even 5, odd 7; weights 4 and 12
    np.testing.assert_allclose(found.halves[0], [(4 * 2 + 12 * 5) / 16, (4 * (2 / 3) + 12) / 16])
    np.testing.assert_allclose(found.halves[1], [(4 * 10 + 12 * 7) / 16, (4 + 12) / 16])
    assert found.half_sizes == (5, 3)
    # with all folds together again, the halves give the dot
    one = dots_of(path, {"a": 1.0})
    assert one.halves is not None
    with Store(path, read_only=True) as store:
        alone = read_influence(store, dataset_id=1, run_id=1, weights={"a": 1.0})
    assert alone.halves is not None
    assert [half.tobytes() for half in alone.halves] == [half.tobytes() for half in one.halves]
    assert alone.dot.tobytes() == one.dot.tobytes()
    assert alone.half_sizes == one.half_sizes == (3, 1)
    np.testing.assert_allclose((3 * one.halves[0] + one.halves[1]) / 4, one.dot)


def test_a_task_with_equal_dots_is_neither_near_nor_far(tmp_path: Path) -> None:
    # seven times 0.1 has a standard deviation of 1e-17 in floating point
    other = np.asarray([-3.0, -2.0, -1.0, 0.0, 1.0, 2.0, 3.0])
    path = tmp_path / "s.duckdb"
    fill_store(path, dots={"same": np.full(7, 0.1), "other": other}, difficulty=np.ones(7))
    found = dots_of(path)
    assert [found.tasks[i] for i in found.closest] == ["same"] * 4 + ["other"] * 3


def test_sets_of_unlike_folds_have_halves_but_no_standard_error(tmp_path: Path) -> None:
    rng = np.random.default_rng(6)
    a, b = folded(rng, 50, 2), folded(rng, 50, 4)
    path = tmp_path / "s.duckdb"
    fill_store(path, dots={"a": a[1], "b": b[1]}, difficulty=np.ones(50), folds={"a": a[0], "b": b[0]})
    assert np.isnan(scores_of(path)["standard_error"]).all()
    assert np.isfinite(scores_of(path, "MAP {'b': 1}")["standard_error"]).all()
    found = dots_of(path)
    assert found.standard_error is None
    assert found.halves is not None
    np.testing.assert_allclose(found.halves[1], (a[0][:, 1] + b[0][:, 1::2].mean(axis=1)) / 2)


def test_a_run_that_has_only_begun_has_meters_of_nothing(tmp_path: Path) -> None:
    path = tmp_path / "s.duckdb"
    fill_store(path, dots={"a": [1.0, 2.0]}, difficulty=[1, 2], folds={"a": [[1.0, 1.0], [2.0, 2.0]]})
    with Store(path) as store:
        for left in ("influence_scores", "run_validation_sets", "dataset_samples"):
            store.connection.execute(f"DELETE FROM {left}")
            (block,) = measure_runs(store)
            n = 0 if left == "dataset_samples" else 2
            assert (block["n_samples"], block["n"], block["n_unscored"]) == (n, 0, n)
            assert math.isnan(block["half_spearman"])


@pytest.mark.parametrize("k", [0, 1])
def test_no_fold_or_one_gives_no_standard_error_and_no_halves(tmp_path: Path, k: int) -> None:
    dot = np.arange(20.0)
    path = tmp_path / "s.duckdb"
    fill_store(path, dots={"a": dot}, difficulty=np.ones(20), folds={"a": dot[:, None]} if k else None)
    assert np.isnan(scores_of(path)["standard_error"]).all()
    found = dots_of(path)
    assert found.standard_error is None
    assert found.halves is None
    with Store(path, read_only=True) as store:
        assert read_influence(store, dataset_id=1, run_id=1).halves is None
        (block,) = measure_runs(store)
    assert block["half_sizes"] is None
    assert math.isnan(block["half_spearman"])
    assert math.isnan(block["standard_error"])
    assert block["n"] == 20


def test_a_fold_that_is_missing_in_one_row_is_missing_there_alone(tmp_path: Path) -> None:
    rng = np.random.default_rng(7)
    folds, dot = folded(rng, 10, 2)
    rows: list[Any] = folds.tolist()
    rows[2], rows[3], rows[4], rows[5] = None, [1.0], [None, 1.0], [math.nan, 1.0]
    path = tmp_path / "s.duckdb"
    fill_store(path, dots={"a": dot}, difficulty=np.ones(10), folds={"a": rows}, fold_sizes={"a": [5, 5]})
    sql, python = scores_of(path), dots_of(path)
    expected = [i in (2, 3, 4, 5) for i in range(10)]
    assert np.isnan(sql["standard_error"]).tolist() == expected
    assert python.standard_error is not None
    assert python.halves is not None
    assert np.isnan(python.standard_error).tolist() == expected
    assert np.isnan(python.halves[0] + python.halves[1]).tolist() == expected
    assert np.isfinite(python.dot).all()
    meters = measure(python)
    assert meters.n == 10
    # the six that have all their folds do not speak for the others
    assert math.isnan(meters.half_spearman)
    assert all(math.isnan(share) for share in meters.flips.values())


def test_what_is_not_scored_and_what_has_no_dot_are_told_apart(tmp_path: Path) -> None:
    path = tmp_path / "s.duckdb"
    fill_store(path, dots={"a": [1.0, np.nan, 3.0, 4.0], "b": [1.0, 2.0, np.inf, 4.0]}, difficulty=[1, 2, 3, 4])
    with Store(path) as store:
        store.connection.execute(
            "DELETE FROM influence_scores WHERE validation_set_id = 2 AND sample_id = "
            "(SELECT sample_id FROM dataset_samples WHERE position = 3)"
        )
        (block,) = measure_runs(store)
    counts = {name: block[name] for name in ("n_samples", "n", "n_without_dot", "n_unscored")}
    assert counts == {"n_samples": 4, "n": 1, "n_without_dot": 2, "n_unscored": 1}


def test_the_closest_task_is_where_the_sample_stands_out_most(tmp_path: Path) -> None:
    rng = np.random.default_rng(8)
    a, b = rng.normal(size=1000), rng.normal(size=1000)
    for scale in (1.0, 1000.0):
        path = tmp_path / f"{scale}.duckdb"
        # a task with huge gradients decides the order, but not which task a sample is closest to
        fill_store(path, dots={"a": scale * a + 5, "b": b}, difficulty=np.ones(1000))
        found = dots_of(path)
        z = [(one - one.mean()) / one.std() for one in (scale * a + 5, b)]
        assert found.closest.tolist() == np.argmax(z, axis=0).tolist()
        shares = measure(found).task_shares
        assert shares is not None
        assert all(sum(one.values()) == pytest.approx(1) for one in shares.values())
        top = order(found.dot)[:100]
        assert shares["0.1"]["a"] == pytest.approx(np.mean(found.closest[top] == 0))
    # with 1000 times the gradient, task a alone fills the selection
    assert shares["0.1"]["a"] > 0.9
    path = tmp_path / "less.duckdb"
    fill_store(path, dots={"a": [0.5, 0.1, 0.2], "b": [0.4, 0.3, 0.2]}, difficulty=np.ones(3), method="less")
    found = dots_of(path)
    assert found.dot.tolist() == [0.5, 0.3, 0.2]
    assert found.closest.tolist() == [0, 1, 0]


def test_a_constant_task_is_closest_to_nothing_that_stands_out(tmp_path: Path) -> None:
    path = tmp_path / "s.duckdb"
    fill_store(path, dots={"a": [2.0, 2.0, 2.0], "b": [1.0, 0.0, -1.0]}, difficulty=np.ones(3))
    assert dots_of(path).closest.tolist() == [1, 0, 0]


PLAIN_CLIENT = """
import json, sys
import duckdb
connection = duckdb.connect(sys.argv[1], read_only=True)
print(json.dumps([duckdb.__version__, [connection.execute(query).fetchall() for query in sys.argv[2:]]]))
"""


@pytest.mark.skipif(not PREVIOUS_DUCKDB.is_dir(), reason="no previous DuckDB here; `make setup` installs it")
@pytest.mark.parametrize("method", ["exact", "less"])
def test_the_previous_duckdb_gives_the_same_standard_errors_and_cosines(tmp_path: Path, method: str) -> None:
    rng = np.random.default_rng(9)
    folds, dots = {}, {}
    for name in ("a", "b"):
        folds[name], dots[name] = folded(rng, 100, 3)
    path = tmp_path / "s.duckdb"
    norms = rng.uniform(1, 2, 100)
    fill_store(path, dots=dots, difficulty=rng.integers(1, 6, 100), folds=folds, norms=norms, method=method)
    asked = [
        "SELECT position, dot, standard_error, gradient_norm FROM diq_scores('pool', 'model')",
        "SELECT position, quadrant, dot FROM diq_ranking('pool', 'model', influence := 'cosine')",
        "SELECT position, rank FROM diq_select('pool', 'model', 0.2, influence := 'cosine')",
    ]
    answers = []
    for folder in (None, PREVIOUS_DUCKDB):
        environment = {**os.environ, **({"PYTHONPATH": str(folder)} if folder else {})}
        done = subprocess.run(
            [sys.executable, "-c", PLAIN_CLIENT, str(path), *asked],
            capture_output=True,
            text=True,
            env=environment,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        answers.append(json.loads(done.stdout))
    assert answers[0][0] != answers[1][0]
    assert answers[0][1] == answers[1][1]
    assert all(row[2] is not None for row in answers[0][1][0])
