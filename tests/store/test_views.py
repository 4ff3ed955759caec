"""The views and macros of the SQL face against slow, obvious forms; SQL against `diq.select` on real text."""

from __future__ import annotations

import gzip
import itertools
import json
import math
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pytest

from conftest import SHARED, fill_store, write_jsonl
from diq.influence.stored import read_dots
from diq.samples.ingest import ingest
from diq.selection.select import select
from diq.store.store import Store

PREVIOUS_DUCKDB = Path(sys.prefix) / "duckdb-previous"
VIEWS = ("score_coverage", "ranking_quadrants", "ranking_states", "difficulty_levels", "selection_overlap")
VIEWS += ("selection_sources",)
MEDQUAD = SHARED / "raw" / "medquad" / "medquad_alpaca.jsonl.gz"

# a second influence run that is not finished, two text runs, and three files
MORE_ROWS = """
INSERT INTO runs
SELECT 50 + i, ['influence', 'perplexity', 'similarity'][i], 'other', CASE i WHEN 1 THEN 'id-model' END, 'more' || i,
    '{}', '{}', NULL, TIMESTAMP '2026-01-01'
FROM range(1, 4) AS r (i);
INSERT INTO run_datasets (run_id, dataset_id, state, started_at, sealed_at)
SELECT 50 + i, 1, ['open', 'sealed', 'sealed'][i], TIMESTAMP '2026-01-01', NULL FROM range(1, 4) AS r (i);
INSERT INTO run_datasets (run_id, dataset_id, state, started_at) VALUES (52, 2, 'open', TIMESTAMP '2026-01-01');
INSERT INTO run_validation_sets (run_id, validation_set_id) VALUES (51, 1), (51, 2), (53, 3);
INSERT INTO influence_scores (run_id, sample_id, validation_set_id, dot, reason)
SELECT 51, sample_id, 1, CASE WHEN position % 5 > 0 THEN position % 3 END,
    CASE WHEN position % 5 = 0 THEN 'reason ' || position % 2 END
FROM dataset_samples WHERE dataset_id = 1 AND position < 50;
INSERT INTO text_scores (run_id, sample_id, perplexity, reason)
SELECT 52, sample_id, CASE WHEN position % 7 > 0 THEN 1 + position % 4 END, CASE WHEN position % 7 = 0 THEN 'empty' END
FROM dataset_samples WHERE dataset_id = 1;
INSERT INTO sources
SELECT i, CASE i WHEN 3 THEN 2 ELSE 1 END, 'part' || i, 'samples', 'messages', 'hash' || i, '{}', 0, 1, 1, 0, 0,
    TIMESTAMP '2026-01-01'
FROM range(1, 4) AS r (i);
UPDATE dataset_samples SET source_id = CASE WHEN dataset_id = 2 THEN 3 WHEN position < 70 THEN 1 ELSE 2 END;
-- a sample that two datasets share, and a file that the store does not know
INSERT INTO dataset_samples
SELECT 2, 40, sample_id, 9, 41, 'train', NULL FROM dataset_samples WHERE dataset_id = 1 AND position = 7;
"""


def tied(rng: np.random.Generator, n: int, holes: int = 3) -> np.ndarray:
    column = rng.integers(-3, 4, n) * rng.choice([1.0, 0.5], n)
    column[rng.integers(0, n, holes)] = np.nan
    return column


def build(path: Path, seed: int) -> Path:
    """Two datasets, several runs of every kind, and selections of many strategies; few distinct values anywhere."""
    rng = np.random.default_rng(seed)
    dots = {name: tied(rng, 90) for name in ("a", "b", "c")}
    # ties between tasks: equal, twice as large, and constant dots
    dots["d"], dots["e"] = dots["a"].copy(), 2 * dots["b"]
    dots["f"] = np.full(90, 1.5)
    level = rng.integers(2, 11, 90) / 2
    level[rng.integers(0, 90, 2)] = np.nan
    fill_store(path, dots=dots, difficulty=level, sizes={"a": 30, "b": 10})
    few = {"a": tied(rng, 40), "b": tied(rng, 40)}
    fill_store(path, dots=few, difficulty=rng.integers(1, 4, 40), dataset="other", method="less")
    with duckdb.connect(str(path)) as connection:
        connection.execute(MORE_ROWS)
    good: dict[str, Any] = {"store": path, "model": "model", "run": 1}
    for strategy, ratio, sets in (
        ("diq", "0.3", ()),
        ("diq", "0.5", ("b", "c")),
        ("q2", "1", ()),
        ("random", "0.4", ()),
        ("influence", "0.2", ("a", "b", "d")),
    ):
        of_model = {"store": path} if strategy == "random" else good
        select("pool", ratio=ratio, strategy=strategy, validation_set=sets, **of_model)
    select("pool", ratio="0.5", strategy="overall", store=path)
    select("pool", ratio="0.5", strategy="perplexity", store=path, run=52)
    good["run"] = 3
    for ratio in ("0.2", "0.6"):
        select("other", ratio=ratio, **good)
    return path


# others are drawn alike
SEEDS = [0, 1, *(pytest.param(seed, marks=[pytest.mark.slow, pytest.mark.exhaustive]) for seed in (2, 3))]


@pytest.fixture(scope="module", params=SEEDS)
def store(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(tmp_path_factory.mktemp("views") / "s.duckdb", request.param)


@pytest.fixture
def sql(store: Path) -> Iterator[Any]:
    """Runs a statement as a plain client does; returns dicts."""
    with duckdb.connect(str(store), read_only=True) as connection:

        def run(text: str) -> list[dict[str, Any]]:
            cursor = connection.execute(text)
            names = [column[0] for column in cursor.description or []]
            return [dict(zip(names, row, strict=True)) for row in cursor.fetchall()]

        yield run


def finite(value: float | None) -> bool:
    return value is not None and math.isfinite(value)


def members(sql: Any) -> dict[int, set[int]]:
    """Positions of every selection, read from its ranking."""
    ranks: dict[int, dict[int, int]] = {}
    for row in sql("FROM ranking_samples"):
        ranks.setdefault(row["ranking_id"], {})[row["rank"]] = row["position"]
    return {
        row["selection_id"]: {ranks[row["ranking_id"]][rank] for rank in range(row["first"], row["first"] + row["n"])}
        for row in sql("FROM selections")
    }


def positions(sql: Any) -> dict[int, dict[Any, int]]:
    found: dict[int, dict[Any, int]] = {}
    for row in sql("FROM dataset_samples"):
        found.setdefault(row["dataset_id"], {})[row["sample_id"]] = row["position"]
    return found


def test_coverage(sql: Any) -> None:
    samples, runs = positions(sql), {row["run_id"]: row for row in sql("FROM runs")}
    names = {row["dataset_id"]: row["name"] for row in sql("FROM datasets")}
    sets = {row["validation_set_id"]: row["name"] for row in sql("FROM validation_sets")}
    expected = {}
    for pair in sql("FROM run_datasets"):
        run_id, dataset_id = pair["run_id"], pair["dataset_id"]
        kind, ids = runs[run_id]["kind"], samples[dataset_id]
        table = {"influence": "influence_scores", "difficulty": "difficulty_scores"}.get(kind, "text_scores")
        rows = [row for row in sql(f"FROM {table} WHERE run_id = {run_id}") if row["sample_id"] in ids]
        columns = {"influence": ["dot"], "difficulty": ["knowledge", "reasoning", "overall"]}.get(kind, [kind])
        asked = {row["validation_set_id"] for row in sql(f"FROM run_validation_sets WHERE run_id = {run_id}")} or {None}
        for set_id in asked:
            mine = [row for row in rows if kind == "difficulty" or row["validation_set_id"] == set_id]
            for column in columns:
                n = sum(finite(row[column]) for row in mine)
                key = (names[dataset_id], run_id, sets.get(set_id), column if kind == "difficulty" else None)
                reasons = Counter(row["reason"] for row in mine if row["reason"] is not None)
                expected[key] = (kind, pair["state"], n, len(mine) - n, len(ids) - len(mine), len(ids), dict(reasons))
    found = {
        (row["dataset"], row["run_id"], row["validation_set"], row["dimension"]): (
            row["score"],
            row["state"],
            row["n_scored"],
            row["n_without_score"],
            row["n_missing"],
            row["n_samples"],
            row["reasons"] or {},
        )
        for row in sql("FROM score_coverage")
    }
    assert found == expected
    assert len(found) == len(sql("FROM score_coverage"))
    # not even begun, and only in part
    assert found["pool", 51, "b", None][2:6] == (0, 0, 90, 90)
    assert found["pool", 51, "a", None][6]


def test_quadrants(sql: Any) -> None:
    rankings = sql("FROM rankings WHERE quadrant_counts IS NOT NULL")
    for ranking in rankings:
        number = ranking["ranking_id"]
        counted = Counter(row["quadrant"] for row in sql(f"FROM ranking_samples WHERE ranking_id = {number}"))
        rows = sql(f"FROM ranking_quadrants WHERE ranking_id = {number} ORDER BY quadrant")
        assert [row["quadrant"] for row in rows] == ["Q1", "Q2", "Q3", "Q4"]
        assert [row["n"] for row in rows] == [counted[row["quadrant"]] for row in rows]
        assert sum(row["share"] for row in rows) == pytest.approx(1)
        names = ("tau", "median", "influence_run", "difficulty_run", "strategy")
        assert {tuple(row[name] for name in names) for row in rows} == {tuple(ranking[name] for name in names)}
        dataset = "pool" if ranking["dataset_id"] == 1 else "other"
        facts = (dataset, "model", "dot", "overall", False)
        assert {tuple(row[n] for n in ("dataset", "model", "influence", "difficulty", "replaced")) for row in rows} == {
            facts
        }
    assert len(sql("FROM ranking_quadrants")) == 4 * len(rankings)


def test_difficulty_levels(sql: Any) -> None:
    samples, names = positions(sql), {row["dataset_id"]: row["name"] for row in sql("FROM datasets")}
    values: dict[tuple[Any, ...], list[float]] = {}
    for pair in sql("FROM run_datasets"):
        for row in sql(f"FROM difficulty_scores WHERE run_id = {pair['run_id']}"):
            if row["sample_id"] not in samples[pair["dataset_id"]]:
                continue
            for dimension in ("knowledge", "reasoning", "overall"):
                if finite(row[dimension]):
                    key = (names[pair["dataset_id"]], pair["run_id"], dimension, math.floor(row[dimension] + 0.5))
                    values.setdefault(key, []).append(row[dimension])
    totals: Counter[tuple[Any, ...]] = Counter()
    for key, level in values.items():
        totals[key[:3]] += len(level)
    found = {
        (row["dataset"], row["run_id"], row["dimension"], row["level"]): (row["n"], row["n_values"], row["share"])
        for row in sql("FROM difficulty_levels")
    }
    assert found == {key: (len(v), len(set(v)), len(v) / totals[key[:3]]) for key, v in values.items()}
    for row in sql("FROM difficulty_levels"):
        mine = values[row["dataset"], row["run_id"], row["dimension"], row["level"]]
        assert row["mean"] == pytest.approx(np.mean(mine))


def test_overlap(sql: Any) -> None:
    taken = members(sql)
    dataset = {
        row["selection_id"]: row["dataset_id"] for row in sql("FROM selections JOIN rankings USING (ranking_id)")
    }
    names = {row["selection_id"]: row["name"] for row in sql("FROM selections")}
    expected = {
        (a, b): (len(taken[a] & taken[b]), len(taken[a] & taken[b]) / len(taken[a] | taken[b]))
        for a, b in itertools.permutations(taken, 2)
        if dataset[a] == dataset[b]
    }
    rows = sql("FROM selection_overlap")
    assert {(row["a"], row["b"]): (row["shared"], row["jaccard"]) for row in rows} == expected
    assert len(rows) == len(expected)
    for row in rows:
        a, b = taken[row["a"]], taken[row["b"]]
        assert (row["n_a"], row["n_b"]) == (len(a), len(b))
        assert row["share_of_smaller"] == len(a & b) / min(len(a), len(b))
        assert sql(f"FROM selection_overlap WHERE a = {row['a']} AND b = {row['b']}") == [row]
        assert sql(f"FROM selection_overlap WHERE a_name = '{names[row['a']]}' AND b = {row['b']}") == [row]
    assert any(row["shared"] == 0 for row in rows)


@pytest.mark.slow
def test_a_pair_is_counted_without_all_pairs(tmp_path: Path) -> None:
    path = tmp_path / "s.duckdb"
    n = 30_000
    rng = np.random.default_rng(0)
    fill_store(path, dots={"a": rng.normal(size=n)}, difficulty=rng.integers(1, 6, n))
    for ratio in range(1, 13):
        select("pool", ratio=f"0.{50 + ratio}", store=path, model="model")
    with duckdb.connect(str(path), read_only=True) as connection:
        for where in ("a = 1 AND b = 2", "a_name = 'pool-diq-0.51' AND b_name = 'pool-diq-0.52'"):
            rows = connection.execute(f"EXPLAIN (ANALYZE, FORMAT json) FROM selection_overlap WHERE {where}").fetchall()
            largest = max(counts(json.loads(rows[0][1])))
            # a pair needs each ranking once or twice; all 132 pairs together would be two million rows
            assert n // 2 < largest <= 4 * n, (where, largest)


def counts(plan: Any) -> Iterator[int]:
    """Rows that came out of every step of a profiled plan."""
    for key, value in plan.items() if isinstance(plan, dict) else enumerate(plan):
        if key == "intermediate_rows":
            yield int(value)
        elif isinstance(value, dict | list):
            yield from counts(value)


def test_sources(sql: Any) -> None:
    taken = members(sql)
    places = {(row["dataset_id"], row["position"]): row["source_id"] for row in sql("FROM dataset_samples")}
    paths = {row["source_id"]: row["path"] for row in sql("FROM sources")}
    expected = {}
    for row in sql("FROM selections JOIN rankings USING (ranking_id)"):
        number, dataset_id = row["selection_id"], row["dataset_id"]
        whole = Counter(source for (of, _), source in places.items() if of == dataset_id)
        mine = Counter(places[dataset_id, position] for position in taken[number])
        for source, count in whole.items():
            share, base = mine[source] / len(taken[number]), count / whole.total()
            expected[number, source] = (paths.get(source), mine[source], count, share, base, share / base)
    rows = sql("FROM selection_sources")
    assert len(rows) == len(expected)
    for row in rows:
        path, *numbers = expected[row["selection_id"], row["source_id"]]
        assert row["source"] == path
        assert [row[name] for name in ("n", "n_dataset", "share", "dataset_share", "lift")] == pytest.approx(numbers)


@pytest.mark.parametrize(("dataset", "run_id"), [("pool", 1), ("other", 3)])
@pytest.mark.parametrize("sets", [None, ["a"], ["b", "a"], ["a", "d", "f"]])
def test_the_closest_task_is_that_of_the_meters(
    sql: Any, store: Path, dataset: str, run_id: int, sets: list[str] | None
) -> None:
    if dataset == "other" and sets and "f" in sets:
        sets = ["b"]
    with Store(store, read_only=True) as opened:
        dataset_id = opened.dataset(dataset)["dataset_id"]
        weights = None if sets is None else dict.fromkeys(sets, 1.0)
        dots = read_dots(opened, dataset_id=dataset_id, run_id=run_id, weights=weights)
        where = opened.arrow("store/positions_of_dataset", dataset_id=dataset_id).column("position").to_pylist()
    expected = {p: dots.tasks[task] for p, task in zip(where, dots.closest.tolist(), strict=True) if task >= 0}
    asked = "" if sets is None else f", validation_sets := {sets}"
    rows = sql(f"FROM diq_closest('{dataset}', {run_id}{asked})")
    assert {row["position"]: row["validation_set"] for row in rows} == expected
    assert [row["position"] for row in rows] == sorted(expected)
    if sets is None and dataset == "pool":
        # d repeats a, and e is twice b: the first of the two wins
        assert {"a", "b", "c"} <= set(expected.values()) <= {"a", "b", "c", "f"}


def test_tasks_of_a_selection(sql: Any, store: Path) -> None:
    taken = members(sql)
    for row in sql("FROM selections JOIN rankings USING (ranking_id)"):
        number, run_id = row["selection_id"], row["influence_run"]
        if run_id is None:
            with pytest.raises(duckdb.Error, match="uses no dots; name an influence run"):
                sql(f"FROM diq_tasks({number})")
            asked, run_id, weights = ", run := 1", 1, None
        else:
            asked, weights = "", json.loads(row["config"])["validation_weights"]
        with Store(store, read_only=True) as opened:
            dots = read_dots(opened, dataset_id=row["dataset_id"], run_id=run_id, weights=weights)
            where = (
                opened.arrow("store/positions_of_dataset", dataset_id=row["dataset_id"]).column("position").to_pylist()
            )
        closest = {p: dots.tasks[task] for p, task in zip(where, dots.closest.tolist(), strict=True) if task >= 0}
        whole, mine = Counter(closest.values()), Counter(closest[p] for p in taken[number] if p in closest)
        for text in (str(number), f"'{number}'", f"'{row['name']}'"):
            found = {one["validation_set"]: one for one in sql(f"FROM diq_tasks({text}{asked})")}
            assert {task: (one["n"], one["n_dataset"]) for task, one in found.items()} == {
                task: (mine[task], count) for task, count in whole.items()
            }
        for task, one in found.items():
            share, base = mine[task] / mine.total(), whole[task] / whole.total()
            assert [one[name] for name in ("share", "dataset_share", "lift")] == pytest.approx(
                [share, base, share / base]
            )


def test_unknown_names_are_told(sql: Any) -> None:
    with pytest.raises(duckdb.Error, match="no selection `none` in this store"):
        sql("FROM diq_tasks('none')")
    with pytest.raises(duckdb.Error, match=r"no selection `1\.5` in this store"):
        sql("FROM diq_tasks('1.5')")
    with pytest.raises(duckdb.Error, match="no dataset named `none`"):
        sql("FROM diq_closest('none', 1)")
    assert sql("FROM diq_closest('pool', 99)") == []


def test_huge_dots_have_a_closest_task(tmp_path: Path) -> None:
    path = tmp_path / "s.duckdb"
    dots = {"a": [1e300, -1e300, 0.0, 3e-320], "b": [0.0, 1.0, 2.0, -9.0]}
    fill_store(path, dots=dots, difficulty=[1, 2, 3, 4])
    with duckdb.connect(str(path), read_only=True) as connection:
        rows = connection.execute("SELECT validation_set FROM diq_closest('pool', 1)").fetchall()
    assert rows == [("a",), ("b",), ("b",), ("a",)]


@pytest.mark.slow
def test_a_ranking_is_out_of_date_as_soon_as_a_score_changes(tmp_path: Path) -> None:
    path = build(tmp_path / "s.duckdb", 11)

    def states() -> dict[int, tuple[Any, ...]]:
        with duckdb.connect(str(path), read_only=True) as connection:
            rows = connection.execute(
                "SELECT ranking_id, current, replaced_by, n_stored = n_scored, n_selections FROM ranking_states"
            ).fetchall()
        return {row[0]: row[1:] for row in rows}

    before = states()
    assert all(state[:3] == (True, None, True) for state in before.values())
    # diq and q2 are parts of one ranking
    assert sorted(state[3] for state in before.values()) == [1, 1, 1, 1, 1, 2, 2]
    with duckdb.connect(str(path)) as connection:
        connection.execute("UPDATE influence_scores SET dot = 9 WHERE run_id = 1 AND dot = 1")
        uses = {
            row[0]: row[1] == 1
            for row in connection.execute("SELECT ranking_id, influence_run FROM rankings").fetchall()
        }
    assert {number: state[0] for number, state in states().items()} == {n: not used for n, used in uses.items()}
    renewed = select("pool", ratio="0.3", store=path, model="model", run=1)
    state = states()
    assert renewed.ranking == "renewed"
    assert state[renewed.ranking_id][:3] == (True, None, True)
    assert state[1][:2] == (False, renewed.ranking_id)
    # rankings of older stores have no digest
    with duckdb.connect(str(path)) as connection:
        connection.execute("UPDATE rankings SET scores_digest = NULL")
    assert {one[0] for one in states().values()} == {None}


def test_views_of_an_empty_store_are_empty(tmp_path: Path) -> None:
    with Store(tmp_path / "s.duckdb", create=True) as opened:
        for view in VIEWS:
            assert opened.connection.execute(f"FROM {view}").fetchall() == []


PLAIN_CLIENT = """
import json, sys
import duckdb
connection = duckdb.connect(sys.argv[1], read_only=True)
found = {}
for text in sys.argv[2:]:
    found[text] = sorted(json.dumps(row, default=str) for row in connection.execute(text).fetchall())
assert not any(name == "diq" or name.startswith("diq.") for name in sys.modules)
print(json.dumps({"version": duckdb.__version__, **found}))
"""


@pytest.mark.skipif(not PREVIOUS_DUCKDB.is_dir(), reason="no previous DuckDB here; `make setup` installs it")
def test_the_previous_duckdb_gives_the_same(store: Path) -> None:
    queries = [f"FROM {view}" for view in VIEWS if view not in ("ranking_states", "difficulty_levels")]
    queries += ["SELECT * EXCLUDE (mean) FROM difficulty_levels", "SELECT * EXCLUDE (current) FROM ranking_states"]
    queries += ["FROM diq_closest('pool', 1)", "FROM diq_tasks('pool-diq-0.3')", "FROM diq_tasks(4, run := 1)"]
    answers = []
    for folder in (None, PREVIOUS_DUCKDB):
        environment = {**os.environ, **({"PYTHONPATH": str(folder)} if folder else {})}
        done = subprocess.run(
            [sys.executable, "-c", PLAIN_CLIENT, str(store), *queries],
            capture_output=True,
            text=True,
            env=environment,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        answers.append(json.loads(done.stdout))
    assert answers[0].pop("version") != answers[1].pop("version")
    assert answers[0] == answers[1]


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """2,000 rows of MedQuAD with dots of two validation sets and difficulty that tie often, through `diq ingest`."""
    if not MEDQUAD.exists():
        pytest.skip(f"the data pack is not at {SHARED}")
    folder = tmp_path_factory.mktemp("real")
    path = folder / "s.duckdb"
    with gzip.open(MEDQUAD, "rt", encoding="utf-8") as file:
        (folder / "medquad.jsonl").write_text("".join(itertools.islice(file, 2000)), encoding="utf-8")
    ingest([folder / "medquad.jsonl"], dataset="medquad", store=path)
    with duckdb.connect(str(path)) as connection:
        where = [row[0] for row in connection.execute("SELECT position FROM dataset_samples ORDER BY ALL").fetchall()]
    rng = np.random.default_rng(1)
    level = {p: int(rng.integers(1, 6)) + float(rng.choice([0.0, 0.25])) for p in where}
    for name in ("medqa", "medmcqa"):
        dots = {p: float(rng.integers(-9, 10)) / 8 for p in where if rng.random() > 0.01}
        rows = [{"position": p, "dot": dot, "overall": level[p]} for p, dot in dots.items()]
        for row in rows if name == "medmcqa" else ():
            # the same difficulty twice would be duplicates
            del row["overall"]
        scores = write_jsonl(folder / f"{name}.jsonl", rows)
        ingest([scores], dataset="medquad", store=path, scores=True, model="made-up", validation_set=name)
    return path


@pytest.mark.slow
@pytest.mark.parametrize(
    ("sets", "weights"),
    [
        ((), "NULL"),
        (("medqa",), "MAP {'medqa': 1.0}"),
        (("medqa=2", "medmcqa=0.5"), "MAP {'medqa': 2.0, 'medmcqa': 0.5}"),
    ],
)
def test_sql_takes_the_same_rows_of_real_data(real: Path, tmp_path: Path, sets: tuple[str, ...], weights: str) -> None:
    for ratio, more, arguments in (
        ("0.01", "", {}),
        ("0.337", ", percentile := 0.3", {"difficulty_percentile": 0.3}),
        ("1", ", threshold := 3", {"difficulty_threshold": 3.0}),
    ):
        select(
            "medquad",
            ratio=ratio,
            store=real,
            model="made-up",
            validation_set=sets,
            output=tmp_path / "o.jsonl",
            **arguments,  # type: ignore[arg-type]
        )
        lines = (tmp_path / "o.jsonl").read_text(encoding="utf-8").splitlines()
        names = ("sample_id", "position", "quadrant", "rank", "difficulty", "dot")
        made = [tuple(json.loads(line)[name] for name in names) for line in lines]
        columns = "CAST(sample_id AS VARCHAR), position, quadrant, rank, difficulty, dot"
        with duckdb.connect(str(real), read_only=True) as connection:
            found = connection.execute(
                f"SELECT {columns} "
                f"FROM diq_select('medquad', 'made-up', {ratio}, validation_weights := {weights}{more})"
            ).fetchall()
            order = connection.execute(
                f"SELECT {columns} FROM diq_ranking('medquad', 'made-up', validation_weights := {weights}{more})"
            ).fetchall()
        assert found == made == order[: len(made)]
        # ties were there to be broken
        assert len(made) == 1 or len({row[4:] for row in order}) < len(order) / 2
