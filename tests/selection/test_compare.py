"""`diq compare`: every number against a slow, obvious form; the command as a user runs it; bad input."""

from __future__ import annotations

import itertools
import json
import logging
import math
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pytest

import diq
from conftest import fill_store
from diq.base.errors import StoreError, UsageError
from diq.influence.stored import read_dots
from diq.selection.compare import Comparison, Profile, compare
from diq.selection.select import select
from diq.store.store import Store

# losses that tie or are NaN, four files of which the store knows three, and ten samples that both datasets hold
MORE_ROWS = """
UPDATE influence_scores
SET loss = CASE WHEN hash(sample_id) % 9 > 0 THEN CAST(hash(sample_id) % 5 AS DOUBLE) ELSE CAST('nan' AS DOUBLE) END;
UPDATE dataset_samples SET source_id = CASE dataset_id WHEN 1 THEN 1 + position % 3 ELSE 4 END;
INSERT INTO sources
SELECT i, 1 + i // 4, 'part' || i, 'samples', 'messages', 'hash' || i, '{}', 0, 1, 1, 0, 0, TIMESTAMP '2026-01-01'
FROM range(2, 5) AS r (i);
UPDATE dataset_samples AS d
SET sample_id = (SELECT p.sample_id FROM dataset_samples AS p WHERE p.dataset_id = 1 AND p.position = d.position)
WHERE d.dataset_id = 2 AND d.position < 10;
INSERT INTO influence_scores BY NAME
SELECT * REPLACE (3 AS run_id) FROM influence_scores
WHERE run_id = 1 AND sample_id IN (SELECT sample_id FROM dataset_samples WHERE dataset_id = 2);
INSERT INTO difficulty_scores BY NAME
SELECT * REPLACE (4 AS run_id) FROM difficulty_scores
WHERE run_id = 2 AND sample_id IN (SELECT sample_id FROM dataset_samples WHERE dataset_id = 2);
"""
STATISTICS = ("n", "min", "p10", "median", "p90", "max", "mean")


def message(rng: np.random.Generator, name: str, i: int) -> str:
    # characters that are not one byte each
    answer = {"content": "ä" * int(rng.integers(1, 30)), "role": "assistant"}
    if i % 3 == 0:
        answer["reasoning_content"] = "→" * int(rng.integers(0, 20))
    system = [{"content": "be brief", "role": "system"}] if i % 5 == 0 else []
    return json.dumps([*system, {"content": f"{name} {i}", "role": "user"}, answer], ensure_ascii=False, sort_keys=True)


def build(path: Path, seed: int = 0) -> Path:
    """Two datasets that share ten samples; ties and NaN in every score; two files; several strategies."""
    rng = np.random.default_rng(seed)
    for name, n in (("pool", 80), ("other", 50)):
        dots = {task: rng.integers(-4, 5, n) / 2 for task in ("a", "b", "c")}
        dots["a"][rng.integers(0, n, 3)] = np.nan
        level = rng.integers(2, 11, n) / 2
        level[rng.integers(0, n, 2)] = np.nan
        fill_store(path, dots=dots, difficulty=level, dataset=name, answer_tokens=rng.integers(1, 9, n))
    with duckdb.connect(str(path)) as connection:
        connection.execute(MORE_ROWS)
        for sample_id, name, position in connection.execute(
            "SELECT sample_id, name, position FROM dataset_samples JOIN datasets USING (dataset_id)"
        ).fetchall():
            connection.execute(
                "UPDATE samples SET messages = ? WHERE sample_id = ?", [message(rng, name, position), sample_id]
            )
    good: dict[str, Any] = {"store": path, "model": "model"}
    select("pool", ratio="0.3", run=1, difficulty_run=2, **good)
    select("pool", ratio="0.5", run=1, difficulty_run=2, difficulty="knowledge", difficulty_percentile=0.8, **good)
    select("pool", ratio="0.4", strategy="random", store=path)
    select("pool", ratio="0.2", strategy="influence", validation_set=["c", "b"], run=1, **good)
    select("pool", ratio="0.25", strategy="reasoning", difficulty_run=2, store=path)
    select("other", ratio="0.5", run=3, difficulty_run=4, **good)
    select("other", ratio="0.3", strategy="random", store=path)
    select("pool", ratio="1", strategy="q3", run=1, difficulty_run=2, name="pool-diq-0.3", **good)
    return path


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(tmp_path_factory.mktemp("compare") / "s.duckdb")


class Slow:
    """The tables of a store as dicts, and every number by the book."""

    def __init__(self, path: Path) -> None:
        self.path = path
        with duckdb.connect(str(path), read_only=True) as connection:

            def rows(table: str) -> list[dict[str, Any]]:
                cursor = connection.execute(f"FROM {table}")
                names = [column[0] for column in cursor.description or []]
                return [dict(zip(names, row, strict=True)) for row in cursor.fetchall()]

            self.selections = {row["selection_id"]: row for row in rows("selections")}
            self.rankings = {row["ranking_id"]: row for row in rows("rankings")}
            self.datasets = {row["name"]: row["dataset_id"] for row in rows("datasets")}
            self.ranked = {(row["ranking_id"], row["position"]): row for row in rows("ranking_samples")}
            self.places = {(row["dataset_id"], row["position"]): row for row in rows("dataset_samples")}
            self.influence = {
                (row["run_id"], row["sample_id"]): row
                for row in rows("influence_scores")
                if row["validation_set_id"] == 1
            }
            self.texts = {row["sample_id"]: json.loads(row["messages"]) for row in rows("samples")}

    def positions(self, one: Profile) -> list[int]:
        dataset_id = self.datasets[one.dataset]
        there = [position for of, position in self.places if of == dataset_id]
        if one.selection_id is None:
            return there
        row = self.selections[one.selection_id]
        ranks = range(row["first"], row["first"] + row["n"])
        return [p for p in there if self.ranked.get((row["ranking_id"], p), {"rank": -1})["rank"] in ranks]

    def ids(self, one: Profile) -> set[Any]:
        return {self.places[self.datasets[one.dataset], position]["sample_id"] for position in self.positions(one)}

    def scores(self, one: Profile) -> dict[str, list[float]]:
        dataset_id = self.datasets[one.dataset]
        found: dict[str, list[float]] = {name: [] for name in ("difficulty", "dot", "loss", "answer_tokens")}
        for position in self.positions(one):
            for name in ("difficulty", "dot"):
                row = self.ranked.get((one.measured_by[name], position))
                found[name].append(row[name] if row else math.nan)
            sample_id = self.places[dataset_id, position]["sample_id"]
            scored = self.influence.get(
                (one.measured_by["run"], sample_id), {"loss": math.nan, "answer_tokens": math.nan}
            )
            for name in ("loss", "answer_tokens"):
                found[name].append(scored[name])
        finite = {name: [v for v in values if v is not None and math.isfinite(v)] for name, values in found.items()}
        return {name: values for name, values in finite.items() if values}

    def lengths(self, one: Profile) -> dict[str, list[int]]:
        texts = [self.texts[sample_id] for sample_id in self.ids(one)]
        return {
            "prompt": [len(text[-2]["content"]) for text in texts],
            "reasoning": [len(text[-1].get("reasoning_content", "")) for text in texts],
            "answer": [len(text[-1]["content"]) for text in texts],
        }

    def sources(self, one: Profile) -> Counter[int]:
        dataset_id = self.datasets[one.dataset]
        return Counter(self.places[dataset_id, position]["source_id"] for position in self.positions(one))

    def quadrants(self, one: Profile) -> Counter[str]:
        rows = (self.ranked.get((one.measured_by["quadrant"], position)) for position in self.positions(one))
        return Counter(row["quadrant"] for row in rows if row and row["quadrant"])

    def tasks(self, one: Profile, weights: dict[str, float] | None) -> dict[str, int]:
        dataset_id = self.datasets[one.dataset]
        with Store(self.path, read_only=True) as opened:
            dots = read_dots(opened, dataset_id=dataset_id, run_id=one.measured_by["tasks_run"] or 0, weights=weights)
            where = opened.arrow("store/positions_of_dataset", dataset_id=dataset_id).column("position").to_pylist()
        mine = set(self.positions(one))
        counts = Counter(
            dots.tasks[task] for p, task in zip(where, dots.closest.tolist(), strict=True) if p in mine and task >= 0
        )
        return {task: counts[task] for task in dots.tasks}


def statistics(values: list[float]) -> list[float]:
    quantiles = np.quantile(values, [0.1, 0.5, 0.9])
    return [len(values), min(values), *quantiles, max(values), float(np.mean(values))]


def check(found: Comparison, path: Path, weights: dict[str, float] | None = None) -> None:
    slow = Slow(path)
    for one in [*found.selections, *found.datasets]:
        assert one.n == len(slow.positions(one))
        scores = slow.scores(one)
        assert set(one.scores) == set(scores)
        for name, values in scores.items():
            assert [one.scores[name][part] for part in STATISTICS] == pytest.approx(statistics(values)), name
        for part, characters in slow.lengths(one).items():
            expected = {"mean": np.mean(characters), "median": np.median(characters)} if characters else {}
            assert one.lengths[part] == pytest.approx(expected)
        for rows, noun, counts in (
            (one.sources, "source_id", slow.sources(one)),
            (one.quadrants, "quadrant", slow.quadrants(one)),
            (one.tasks, "task", slow.tasks(one, weights)),
        ):
            total = sum(counts.values())
            assert {row[noun]: row["n"] for row in rows if row["n"]} == {name: n for name, n in counts.items() if n}
            assert [row["share"] for row in rows] == [row["n"] / total if total else None for row in rows]
    pairs = list(itertools.combinations(found.selections, 2))
    assert len(found.overlap) == len(pairs)
    for (a, b), overlap in zip(pairs, found.overlap, strict=True):
        left, right = slow.ids(a), slow.ids(b)
        assert (overlap.a, overlap.b) == (a.selection_id, b.selection_id)
        assert overlap.shared == len(left & right)
        assert overlap.jaccard == (len(left & right) / len(left | right) if left | right else None)
        smaller = min(len(left), len(right))
        assert overlap.share_of_smaller == (len(left & right) / smaller if smaller else None)


@pytest.mark.parametrize("seed", range(3))
def test_every_number_of_one_dataset_is_that_of_the_slow_form(tmp_path: Path, seed: int) -> None:
    path = build(tmp_path / "s.duckdb", seed)
    found = compare([1, 2, 3, 4, 5, 8], store=path)
    check(found, path)
    assert [one.selection_id for one in found.selections] == [1, 2, 3, 4, 5, 8]
    assert [one.name for one in found.datasets] == ["pool"]
    # own scores where the strategy has them, those of a ranking with quadrants elsewhere
    own = {one.selection_id: slow_ranking(path, one.selection_id) for one in found.selections}
    yardstick = found.datasets[0].measured_by["quadrant"]
    by = {one.selection_id: one.measured_by for one in found.selections}
    assert by[1]["dot"] == by[1]["difficulty"] == own[1]
    assert (by[4]["dot"], by[4]["difficulty"], by[4]["quadrant"]) == (own[4], yardstick, yardstick)
    assert (by[5]["dot"], by[5]["difficulty"]) == (yardstick, own[5])
    assert by[3]["dot"] == by[3]["difficulty"] == yardstick
    assert yardstick in (own[1], own[2])
    # q3 is a part of the ranking of selection 1 that does not begin at its start
    assert [row["share"] for row in found.selections[-1].quadrants] == [0, 0, 1, 0]


def slow_ranking(path: Path, selection_id: int | None) -> int:
    with duckdb.connect(str(path), read_only=True) as connection:
        rows = connection.execute("SELECT ranking_id FROM selections WHERE selection_id = ?", [selection_id]).fetchall()
    return int(rows[0][0])


def test_selections_of_two_datasets_overlap_by_sample(store: Path) -> None:
    found = compare([6, 1, 7, 3], store=store)
    check(found, store)
    assert [one.name for one in found.datasets] == ["other", "pool"]
    assert sum(one.shared for one in found.overlap if {one.a, one.b} not in ({6, 7}, {1, 3})) > 0


def test_the_weights_of_the_ranking_choose_the_tasks(store: Path) -> None:
    found = compare([4, 3], store=store)
    check(found, store, weights={"b": 1.0, "c": 1.0})
    assert [row["task"] for row in found.datasets[0].tasks] == ["b", "c"]


def test_two_random_selections_are_measured_by_the_latest_ranking(store: Path, tmp_path: Path) -> None:
    path = tmp_path / "s.duckdb"
    path.write_bytes(store.read_bytes())
    select("pool", ratio="0.4", strategy="random", seed=1, store=path, name="again")
    found = compare([3, "again"], store=path)
    check(found, path)
    assert found.selections[0].measured_by["dot"] == found.datasets[0].measured_by["dot"] is not None


def test_without_any_scores_there_is_still_an_overlap(tmp_path: Path) -> None:
    path = tmp_path / "s.duckdb"
    fill_store(path, dots={"a": [1.0, 2.0, 3.0, 4.0]}, difficulty=[1, 2, 3, 4])
    for seed in (0, 1):
        select("pool", ratio="0.5", strategy="random", seed=seed, store=path, name=f"r{seed}")
    found = compare(["r0", "r1"], store=path)
    assert [one.scores for one in [*found.selections, *found.datasets]] == [{}, {}, {}]
    assert [(one.tasks, one.quadrants) for one in found.selections] == [([], []), ([], [])]
    assert found.overlap[0].shared in (0, 1, 2)
    assert found.selections[0].sources == [{"source_id": 1, "source": None, "n": 2, "share": 1.0}]


def test_samples_that_are_gone_are_counted_and_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = build(tmp_path / "s.duckdb")
    logging.getLogger("diq").propagate = True
    with duckdb.connect(str(path)) as connection:
        connection.execute(
            "DELETE FROM dataset_samples WHERE dataset_id = 1 AND position IN "
            "(SELECT position FROM ranking_samples WHERE ranking_id = 1 AND rank < 5)"
        )
    found = compare([1, 3], store=path)
    check(found, path)
    assert found.selections[0].n_missing == 5
    assert "5 of the 22 samples of selection 1 (`pool-diq-0.3`) are no longer in dataset `pool`" in caplog.text
    with duckdb.connect(str(path)) as connection:
        connection.execute("DELETE FROM dataset_samples WHERE dataset_id = 1")
    found = compare([1, 3], store=path)
    assert [(one.n, one.scores, one.lengths["prompt"]) for one in found.selections] == [(0, {}, {}), (0, {}, {})]
    assert (found.overlap[0].jaccard, found.overlap[0].share_of_smaller) == (None, None)


def test_a_replaced_ranking_keeps_its_selection_and_is_marked(tmp_path: Path) -> None:
    path = build(tmp_path / "s.duckdb")
    with duckdb.connect(str(path)) as connection:
        connection.execute("UPDATE influence_scores SET dot = -dot WHERE run_id = 1")
    select("pool", ratio="0.3", store=path, model="model", run=1, difficulty_run=2, name="after")
    found = compare([1, "after"], store=path)
    check(found, path)
    assert [one.replaced for one in found.selections] == [True, False]
    assert found.datasets[0].measured_by["dot"] == slow_ranking(path, found.selections[1].selection_id)


def test_names_mean_the_latest_and_numbers_come_first(store: Path) -> None:
    found = diq.compare(["pool-diq-0.3", 1, "3"], store=store)
    assert [one.selection_id for one in found.selections] == [8, 1, 3]
    assert json.loads(json.dumps(found.to_dict()))["selections"][0]["name"] == "pool-diq-0.3"


@pytest.mark.parametrize(
    ("asked", "parts"),
    [
        ([], ("needs two selections, found 0", "diq status")),
        (["pool-diq-0.3"], ("needs two selections, found 1", "diq status")),
        (["pool-diq-0.3", "pool-randm-0.4"], ("no selection `pool-randm-0.4`", "did you mean `pool-random-0.4`?")),
        ([1, 99], ("no selection `99`", "numbers go up to 8")),
        ([1, 1], ("`1` is the same selection, given twice: 1 (pool-diq-0.3)", "each once")),
        (["pool-diq-0.3", 8], ("`pool-diq-0.3` and `8` are the same selection", "by its number")),
    ],
)
def test_bad_requests_are_one_line_with_a_hint(store: Path, asked: list[Any], parts: tuple[str, str]) -> None:
    with pytest.raises(UsageError) as caught:
        compare(asked, store=store)
    assert parts[0] in caught.value.message
    assert parts[1] in caught.value.hint
    assert "\n" not in caught.value.message


def test_a_missing_and_an_empty_store_are_told(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="there is no store"):
        compare([1, 2], store=tmp_path / "none.duckdb")
    Store(tmp_path / "s.duckdb", create=True).close()
    with pytest.raises(UsageError, match="no selection `1`") as caught:
        compare([1, 2], store=tmp_path / "s.duckdb")
    assert "diq select" in caught.value.hint


def command(store: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "diq", "compare", *arguments, "--store", str(store)],
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        check=False,
    )


def test_the_command_prints_json_and_tables(store: Path) -> None:
    done = command(store, "1", "pool-random-0.4", "--json")
    assert (done.returncode, done.stderr) == (0, "")
    answer = json.loads(done.stdout)
    assert answer == {"store": str(store), **compare([1, 3], store=store).to_dict()}
    done = command(store, "1", "8", "pool-random-0.4", "6")
    assert (done.returncode, done.stderr) == (0, "")
    for part in (
        "pool-diq-0.3 (1)",
        "pool-diq-0.3 (8)",
        "all of pool",
        "all of other",
        "overlap",
        "answer_tokens",
        "characters of prompt",
        "part2",
        "share of each validation task",
        "share of each quadrant",
    ):
        assert part in done.stdout
    assert "nan" not in done.stdout.lower()


def test_wrong_use_of_the_command_is_exit_code_2(store: Path) -> None:
    for arguments in ((), ("1",), ("1", "1"), ("1", "nothing")):
        done = command(store, *arguments)
        assert (done.returncode, done.stdout) == (2, "")
        lines = [line for line in done.stderr.splitlines() if line]
        assert len(lines) == 2
        assert (lines[0][:7], lines[1][:6]) == ("Error: ", "hint: ")


def test_the_command_loads_no_model_library() -> None:
    code = "import diq.selection.compare, diq.cli.compare, sys; print({'torch', 'transformers'} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "set()\n"
