"""Tasks and sources that take turns, against a form that looks for the best of a group again in every turn."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pytest

from conftest import fill_store, invoke, stdout_of
from diq.base.errors import UsageError
from diq.cli.select import select as command
from diq.selection.compare import compare
from diq.selection.select import Selection
from diq.selection.select import select as verb
from diq.store.store import Store

SIZES = {"a": 30, "b": 10, "c": 4}


def tasks(seed: int, n: int = 240) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Dots of three tasks with ties, one of them a hundred times larger; some missing."""
    rng = np.random.default_rng(seed)
    dots = {
        name: np.round(rng.normal(size=n) + rng.normal(), 1) * scale
        for name, scale in (("a", 1.0), ("b", 100.0), ("c", 0.01))
    }
    dots["b"][[3, 5]] = np.nan
    level = rng.integers(1, 6, n).astype(float)
    level[9] = np.nan
    return dots, level


def select(path: Path, ratio: Any = 1, **options: Any) -> Selection:
    model = {} if options.get("strategy") in ("random", "overall") else {"model": "model"}
    return verb("pool", ratio=ratio, store=path, **model, **options)


def order(path: Path, made: Selection) -> list[tuple[int, str | None]]:
    with duckdb.connect(str(path), read_only=True) as connection:
        return connection.execute(
            "SELECT position, quadrant FROM selection_samples WHERE selection_id = ? ORDER BY rank", [made.selection_id]
        ).fetchall()


def in_turns(plain: list[tuple[int, str | None]], best: list[dict[int, tuple[Any, ...]]]) -> list[tuple[int, Any]]:
    """Slow: in every quadrant each group gives, again and again, its least key that is not taken."""
    found: list[tuple[int, Any]] = []
    for quadrant in sorted({q or "" for _, q in plain}):
        rest = [p for p, q in plain if (q or "") == quadrant]
        while rest:
            for keys in best:
                mine = [p for p in rest if p in keys]
                if mine:
                    taken = min(mine, key=lambda p: keys[p])
                    found.append((taken, quadrant or None))
                    rest.remove(taken)
    return found


@pytest.mark.parametrize("seed", [0, pytest.param(1, marks=pytest.mark.exhaustive)])
@pytest.mark.parametrize(
    "options", [{}, {"strategy": "influence"}, {"influence": "cosine"}, {"validation_set": ["c", "a"]}]
)
def test_tasks_take_turns_by_their_own_dots(tmp_path: Path, seed: int, options: dict[str, Any]) -> None:
    dots, level = tasks(seed)
    norm = np.random.default_rng(seed + 9).choice([0.5, 1.0, 4.0], len(level))
    path = tmp_path / "s.duckdb"
    fill_store(path, dots=dots, difficulty=level, sizes=SIZES, norms=norm)
    plain_made = select(path, **options)
    plain = order(path, plain_made)
    place = {p: i for i, (p, _) in enumerate(plain)}
    by = norm if options.get("influence") == "cosine" else np.ones(len(level))
    names = sorted(options.get("validation_set", dots))
    best = [{p: (-dots[name][p] / by[p], i) for p, i in place.items()} for name in names]
    made = select(path, balance="tasks", **options)
    assert order(path, made) == in_turns(plain, best) != plain
    # the same samples, cut at the same places
    assert (made.thresholds, made.n_scored) == (plain_made.thresholds, plain_made.n_scored)
    assert made.counts == plain_made.counts
    assert made.ranking_id != plain_made.ranking_id
    # any ratio is a prefix of one ranking
    part = select(path, "0.1", balance="tasks", **options)
    assert (part.ranking, part.ranking_id) == ("stored", made.ranking_id)
    assert order(path, part) == order(path, made)[: part.n]
    assert part.flip_share is None


def test_sources_take_turns_in_rank_order(tmp_path: Path) -> None:
    dots, level = tasks(2)
    path = tmp_path / "s.duckdb"
    fill_store(path, dots=dots, difficulty=level, sizes=SIZES)
    source = np.where(np.arange(len(level)) < 200, 7, np.where(np.arange(len(level)) < 230, 2, 5))
    with Store(path) as store:
        for number in (2, 5):
            store.connection.execute(
                "UPDATE dataset_samples SET source_id = ? WHERE list_contains(?, position)",
                [number, np.flatnonzero(source == number).tolist()],
            )
        store.connection.execute("UPDATE dataset_samples SET source_id = 7 WHERE source_id = 1")
    for strategy in ("diq", "influence", "random", "overall"):
        plain = order(path, select(path, strategy=strategy))
        best = [{p: (i,) for i, (p, _) in enumerate(plain) if source[p] == number} for number in (2, 5, 7)]
        made = select(path, strategy=strategy, balance="sources")
        assert order(path, made) == in_turns(plain, best) != plain, strategy


def test_flips_of_balanced_sources_are_those_of_balanced_halves(tmp_path: Path) -> None:
    rng = np.random.default_rng(5)
    folds = rng.normal(size=(120, 2))
    path = tmp_path / "s.duckdb"
    fill_store(
        path, dots={"a": folds.mean(axis=1)}, difficulty=np.ones(120), folds={"a": folds}, fold_sizes={"a": [5, 5]}
    )
    source = rng.integers(1, 4, 120)
    with Store(path) as store:
        store.connection.executemany(
            "UPDATE dataset_samples SET source_id = ? WHERE position = ?", [[int(s), i] for i, s in enumerate(source)]
        )
    made = select(path, "0.25", strategy="influence", balance="sources")
    halves = []
    for half in (0, 1):
        plain: list[tuple[int, str | None]] = [(int(i), None) for i in np.argsort(-folds[:, half], kind="stable")]
        best = [{p: (i,) for i, (p, _) in enumerate(plain) if source[p] == number} for number in (1, 2, 3)]
        halves.append({p for p, _ in in_turns(plain, best)[: made.n]})
    assert made.flip_share == pytest.approx(1 - len(halves[0] & halves[1]) / made.n)


def test_tasks_get_their_share_where_one_drowns_the_others(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    dots = {"a": rng.normal(size=400), "b": 1000 * rng.normal(size=400)}
    path = tmp_path / "s.duckdb"
    fill_store(path, dots=dots, difficulty=rng.integers(1, 6, 400), sizes={"a": 10, "b": 10})
    best = set(np.argsort(-dots["a"])[:20].tolist())
    taken = {}
    for balance in (None, "tasks"):
        made = select(path, "0.1", strategy="influence", balance=balance, name=f"by {balance}")
        taken[balance] = len(best & {p for p, _ in order(path, made)})
    assert taken["tasks"] == 20 > 2 * taken[None]
    shares = {
        one.name: {task["task"]: task["n"] for task in one.tasks}
        for one in compare(["by None", "by tasks"], store=path).selections
    }
    assert shares["by tasks"]["a"] > shares["by None"]["a"]


def test_similarities_of_each_task_take_turns(tmp_path: Path) -> None:
    path = tmp_path / "s.duckdb"
    fill_store(path, dots={"a": np.ones(30)}, difficulty=np.ones(30))
    rng = np.random.default_rng(3)
    found = {"x": np.round(rng.uniform(-1, 1, 30), 1), "y": np.round(rng.uniform(-1, 1, 30), 1)}
    with Store(path) as store:
        run_id = store.open_run(
            kind="similarity", method="mean", model_id=None, fingerprint="f", settings={}, environment={}
        )
        data = store.dataset("pool")["dataset_id"]
        for name, column in found.items():
            store.connection.execute(
                "INSERT INTO validation_sets SELECT nextval('validation_set_ids'), ?, NULL, 10, NULL, "
                "TIMESTAMP '2026-01-01'",
                [name],
            )
            number = store.validation_set(name)["validation_set_id"]
            store.connection.execute(
                "INSERT INTO run_validation_sets (run_id, validation_set_id) VALUES (?, ?)", [run_id, number]
            )
            store.connection.executemany(
                "INSERT INTO text_scores (run_id, sample_id, validation_set_id, similarity) "
                "SELECT ?, sample_id, ?, ? FROM dataset_samples WHERE position = ?",
                [[run_id, number, float(value), i] for i, value in enumerate(column)],
            )
        store.start_scoring(run_id, data)
        store.seal(run_id, data)
    plain = order(path, verb("pool", ratio=1, store=path, strategy="similarity"))
    made = verb("pool", ratio=1, store=path, strategy="similarity", balance="tasks")
    best = [{p: (-column[p], i) for i, (p, _) in enumerate(plain)} for column in found.values()]
    assert order(path, made) == in_turns(plain, best) != plain


def test_what_has_nothing_to_balance_is_refused(tmp_path: Path) -> None:
    dots, level = tasks(4)
    path = tmp_path / "s.duckdb"
    fill_store(path, dots=dots, difficulty=level, sizes=SIZES)
    with pytest.raises(UsageError, match=r"of run 1 that count are of one task, `a`"):
        select(path, balance="tasks", validation_set=["a"])
    with pytest.raises(UsageError, match="all of dataset `pool` comes from one source"):
        select(path, balance="sources")
    with pytest.raises(UsageError, match="strategy `random` ranks by none"):
        select(path, strategy="random", balance="tasks")
    done = invoke(command, "pool", "--ratio", 1, "--model", "model", "--balance", "taks", "--store", path)
    assert (done.exit_code, "'taks' is not one of" in done.output) == (2, True)
    with duckdb.connect(str(path), read_only=True) as connection:
        assert connection.execute("SELECT count(*) FROM rankings").fetchall() == [(0,)]


def test_the_name_says_so(tmp_path: Path) -> None:
    dots, level = tasks(4)
    path = tmp_path / "s.duckdb"
    fill_store(path, dots=dots, difficulty=level, sizes=SIZES)
    said = stdout_of(command, "pool", "--ratio", "0.1", "--model", "model", "--balance", "tasks", "--store", path)
    assert "`pool-diq-0.1-balanced-tasks`" in said
