"""Stored rankings: made once, read for every other ratio, made again when a score changes, and never before."""

from __future__ import annotations

import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pytest

from conftest import fill_store, ingest_rows
from diq import _core
from diq.base.errors import MissingScoresError, UsageError
from diq.selection.select import Selection
from diq.selection.select import select as run
from diq.store.store import Store
from selection.test_select import slow_ranking, tied


def select(path: Path, ratio: str = "0.1", **settings: Any) -> Selection:
    of_model = settings.get("strategy") not in ("random", "similarity", "knowledge", "reasoning", "overall")
    return run("pool", **{"ratio": ratio, "store": path, **({"model": "model"} if of_model else {}), **settings})


def samples(path: Path, made: Selection) -> list[tuple[Any, ...]]:
    """(position, quadrant) of a recorded selection, in its order."""
    with duckdb.connect(str(path), read_only=True) as connection:
        return connection.execute(
            "SELECT position, quadrant FROM selection_samples WHERE selection_id = ? ORDER BY rank", [made.selection_id]
        ).fetchall()


def execute(path: Path, statement: str, *values: Any) -> list[tuple[Any, ...]]:
    """As a client that knows nothing of diq."""
    with duckdb.connect(str(path)) as connection:
        return connection.execute(statement, list(values)).fetchall()


ALIKE = [pytest.param(one, marks=pytest.mark.exhaustive) for one in ("influence", "q1")]


@pytest.mark.parametrize("strategy", ["diq", "overall", "random", "q3", *ALIKE])
def test_a_later_selection_is_read_and_the_same_as_a_first_one(tmp_path: Path, strategy: str) -> None:
    dot, level = tied(1)
    once, anew = tmp_path / "once.duckdb", tmp_path / "anew.duckdb"
    fill_store(once, dots={"a": dot}, difficulty=level)
    fill_store(anew, dots={"a": dot}, difficulty=level)
    first = select(once, "1", strategy=strategy)
    assert first.ranking == "new"
    for ratio in ("0.01", "0.57", "1"):
        later = select(once, ratio, strategy=strategy)
        assert (later.ranking, later.ranking_id) == ("stored", first.ranking_id)
        execute(anew, "DELETE FROM rankings")
        execute(anew, "DELETE FROM ranking_samples")
        fresh = select(anew, ratio, strategy=strategy)
        assert fresh.ranking == "new"
        assert samples(once, later) == samples(anew, fresh) == samples(once, first)[: later.n]
        assert (later.counts, later.thresholds, later.n_scored) == (fresh.counts, fresh.thresholds, fresh.n_scored)


@pytest.mark.slow
def test_what_the_strategy_does_not_use_makes_no_other_ranking(tmp_path: Path) -> None:
    dot, level = tied(2)
    path = tmp_path / "s.duckdb"
    fill_store(path, dots={"a": dot}, difficulty=level)
    first = select(path)
    same = [
        select(path, strategy="q1"),
        select(path, strategy="q4"),
        select(path, name="mine"),
    ]
    assert {one.ranking_id for one in same} == {first.ranking_id}
    others = [
        select(path, difficulty="reasoning"),
        select(path, difficulty_percentile=0.3),
        select(path, difficulty_threshold=3.0),
        select(path, validation_set=["a=2"]),
        select(path, strategy="random"),
        select(path, strategy="random", seed=1),
        select(path, strategy="influence"),
    ]
    assert len({one.ranking_id for one in others} | {first.ranking_id}) == len(others) + 1


def test_quadrants_are_parts_of_one_ranking(tmp_path: Path) -> None:
    dot, level = tied(3)
    path = tmp_path / "s.duckdb"
    fill_store(path, dots={"a": dot}, difficulty=level)
    expected = slow_ranking(dot, level)
    for quadrant in ("Q1", "Q2", "Q3", "Q4"):
        rows = [(i, q) for q, i in expected if q == quadrant]
        for ratio in ("0.05", "1"):
            made = select(path, ratio, strategy=quadrant.lower())
            assert samples(path, made) == rows[: made.n]
            assert made.n == min(made.n_target, len(rows))
            taken = {name: made.n if name == quadrant else 0 for name in ("Q1", "Q2", "Q3", "Q4")}
            assert made.counts["selection"] == taken
    assert execute(path, "SELECT count(*) FROM rankings") == [(1,)]


CHANGES = {
    "a dot by the last bit": "UPDATE influence_scores SET dot = nextafter(dot, 1e9::DOUBLE) WHERE sample_id = $id",
    "a dot that is lost": "UPDATE influence_scores SET dot = NULL WHERE sample_id = $id",
    "a difficulty": "UPDATE difficulty_scores SET overall = overall + 1 WHERE sample_id = $id",
    "a score that is gone": "DELETE FROM difficulty_scores WHERE sample_id = $id",
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_changed_score_makes_the_ranking_again_and_says_so(
    tmp_path: Path, change: str, caplog: pytest.LogCaptureFixture
) -> None:
    dot, level = tied(4)
    path = tmp_path / "s.duckdb"
    ids = fill_store(path, dots={"a": dot}, difficulty=level)
    old = select(path, "0.1")
    kept = samples(path, old)
    top = slow_ranking(dot, level)[0][1]
    with duckdb.connect(str(path)) as connection:
        connection.execute(CHANGES[change], {"id": ids[top]})
        dot, level = (
            np.asarray(column, np.float64)
            for column in zip(
                *connection.execute(
                    "SELECT coalesce(dot, 'nan'), coalesce(overall, 'nan') FROM diq_scores('pool', 'model')"
                ).fetchall(),
                strict=True,
            )
        )
    caplog.clear()
    made = select(path, "0.1")
    assert made.ranking == "renewed"
    assert made.ranking_id != old.ranking_id
    assert f"scores changed since ranking {old.ranking_id}" in caplog.text
    assert samples(path, made) == [(i, q) for q, i in slow_ranking(dot, level)][: made.n]
    # what was selected stays what it was, and only that is kept of the old ranking
    assert samples(path, old) == kept
    rows = "SELECT count(*) FROM ranking_samples WHERE ranking_id = ?"
    assert execute(path, rows, old.ranking_id) == [(old.n,)]
    assert execute(path, rows, made.ranking_id) == [(made.n_scored,)]
    assert execute(path, "SELECT ranking_id, replaced_by FROM rankings ORDER BY 1") == [
        (old.ranking_id, made.ranking_id),
        (made.ranking_id, None),
    ]
    caplog.clear()
    assert select(path, "0.5").ranking == "stored"
    assert "changed" not in caplog.text


def test_a_replaced_score_of_a_file_and_a_grown_dataset_are_noticed(tmp_path: Path) -> None:
    dot, level = tied(5)
    path = tmp_path / "s.duckdb"
    fill_store(path, dots={"a": dot}, difficulty=level)
    chance, overall = select(path, strategy="random"), select(path, strategy="overall")
    with Store(path) as store, store.transaction():
        text = '[{"content":"new","role":"user"},{"content":"a","role":"assistant"}]'
        (number,) = _core.sample_ids([text])
        store.connection.execute("INSERT INTO samples VALUES (CAST(? AS UUID), ?, NULL)", [number, text])
        store.connection.execute(
            "INSERT INTO dataset_samples VALUES (1, 300, CAST(? AS UUID), 1, 301, 'train', NULL)", [number]
        )
    grown = select(path, "1", strategy="random")
    assert grown.ranking == "renewed"
    assert grown.n == 301
    # the samples that were there before keep their order
    before = [position for position, _ in samples(path, chance)]
    after = [position for position, _ in samples(path, grown) if position != 300]
    assert after[: len(before)] == before
    # the sample has no difficulty: the order is the same, but one more is unscored
    again = select(path, strategy="overall")
    assert (again.n_scored, again.n_unscored) == (overall.n_scored, overall.n_unscored + 1)
    assert samples(path, again) == samples(path, overall)


def test_scores_of_another_dataset_or_run_change_nothing(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    dot, level = tied(6)
    path = tmp_path / "s.duckdb"
    ids = fill_store(path, dots={"a": dot}, difficulty=level)
    first = select(path)
    fill_store(path, dots={"a": dot}, difficulty=level, dataset="other")
    assert select(path).ranking == "stored"
    # the same run scores a sample that this dataset does not have
    with duckdb.connect(str(path)) as connection:
        before = connection.execute("SELECT scores_digest FROM rankings").fetchone()
        connection.execute(
            "INSERT INTO influence_scores (run_id, sample_id, validation_set_id, dot) "
            "SELECT 1, sample_id, 1, 3.5 FROM dataset_samples WHERE dataset_id = 2 LIMIT 1"
        )
    caplog.clear()
    again = select(path)
    assert (again.ranking, again.ranking_id) == ("stored", first.ranking_id)
    assert not [record for record in caplog.records if "changed" in record.getMessage()]
    with duckdb.connect(str(path)) as connection:
        assert connection.execute("SELECT scores_digest FROM rankings").fetchone() != before
        assert connection.execute("SELECT count(*) FROM rankings").fetchone() == (1,)
    assert len(ids) == 300


def test_rankings_do_not_depend_on_threads_or_process(tmp_path: Path) -> None:
    dot, level = tied(7)
    found = []
    for threads in ("1", "3"):
        path = tmp_path / f"{threads}.duckdb"
        fill_store(path, dots={"a": dot}, difficulty=level)
        code = (
            "from diq.selection.select import select as run; from pathlib import Path; "
            "asked = {'model': 'model'}, {'strategy': 'random'}; "
            f"[run('pool', ratio=1, store=Path({str(path)!r}), **one) for one in asked]"
        )
        subprocess.run([sys.executable, "-c", code], check=True, env={"RAYON_NUM_THREADS": threads})
        found.append(execute(path, "FROM ranking_samples ORDER BY ranking_id, rank"))
        found.append(execute(path, "SELECT fingerprint FROM rankings ORDER BY ranking_id"))
    assert found[:2] == found[2:]


def test_random_is_the_order_of_a_number_drawn_for_each_position(tmp_path: Path) -> None:
    path = tmp_path / "s.duckdb"
    fill_store(path, dots={"a": np.ones(500)}, difficulty=np.ones(500))
    for seed in (0, 3, 2**64 - 1):
        words = _core.philox(seed, np.asarray([[i, 0, 0, 0] for i in range(500)], np.uint32))
        drawn = [int(a) << 32 | int(b) for a, b in words[:, :2]]
        made = select(path, "1", strategy="random", seed=seed, model=None)
        assert [i for i, _ in samples(path, made)] == sorted(range(500), key=lambda i: drawn[i])
    for bad in (-1, 2**64):
        with pytest.raises(UsageError, match="seed"):
            select(path, strategy="random", seed=bad)


def fill_text(path: Path, kind: str, method: str, model: str, columns: dict[str | None, Any]) -> int:
    """Scores of a run of perplexity or similarity; NaN is stored as null. Returns the run."""
    with Store(path) as store, store.transaction():
        store.add_model(model_id=f"id-{model}", name=model, source="test", architecture=None, n_parameters=None)
        number = store.open_run(
            kind=kind,
            method=method,
            model_id=f"id-{model}",
            fingerprint=f"{kind}-{method}-{model}",
            settings={},
            environment={},
        )
        store.start_scoring(number, 1)
        store.seal(number, 1)
        for name, column in columns.items():
            set_id = None if name is None else store.validation_set(name)["validation_set_id"]
            if set_id is not None:
                store.run("store/insert_run_validation_set", run_id=number, validation_set_id=set_id)
            for i, value in enumerate(column):
                store.connection.execute(
                    f"INSERT INTO text_scores (run_id, sample_id, validation_set_id, {kind}) "
                    "SELECT ?, sample_id, ?, ? FROM dataset_samples WHERE position = ? AND dataset_id = 1",
                    [number, set_id, None if math.isnan(value) else float(value), i],
                )
    return number


def test_perplexity_takes_the_lowest_first_and_similarity_the_highest(tmp_path: Path) -> None:
    rng = np.random.default_rng(8)
    n = 60
    path = tmp_path / "s.duckdb"
    fill_store(
        path,
        dots={"a": rng.normal(size=n), "b": rng.normal(size=n)},
        difficulty=np.ones(n),
        sizes={"a": 30, "b": 10},
    )
    perplexity = rng.integers(2, 9, n).astype(float)
    perplexity[[3, 4]] = [np.nan, np.inf]
    a, b = rng.integers(-3, 4, n) / 4, rng.integers(-3, 4, n) / 4
    a[7] = np.nan
    with pytest.raises(MissingScoresError, match=r"no perplexity scores of `model`.*found 0 of 60") as caught:
        select(path, strategy="perplexity")
    assert "diq score perplexity pool --model model" in caught.value.hint
    with pytest.raises(MissingScoresError, match=r"no similarity scores.*found 0 of 60") as caught:
        select(path, strategy="similarity")
    assert "diq score similarity pool --encoder" in caught.value.hint
    fill_text(path, "perplexity", "full-text", "model", {None: perplexity})
    fill_text(path, "similarity", "mean", "encoder", {"a": a, "b": b})
    made = select(path, "1", strategy="perplexity", output=tmp_path / "o.parquet")
    scored = [i for i in range(n) if math.isfinite(perplexity[i])]
    assert [i for i, _ in samples(path, made)] == sorted(scored, key=lambda i: (perplexity[i], i))
    assert (made.n_scored, made.n_unscored) == (n - 2, 2)
    import pyarrow.parquet as pq

    rows = pq.read_table(tmp_path / "o.parquet").to_pylist()
    assert [row["perplexity"] for row in rows] == [perplexity[row["position"]] for row in rows]
    assert "similarity" not in rows[0]
    for sets, pooled in (((), (30 * a + 10 * b) / 40), (("a=1", "b=3"), (a + 3 * b) / 4), (("b",), b)):
        made = select(path, "1", strategy="similarity", validation_set=sets, model=None)
        scored = [i for i in range(n) if math.isfinite(pooled[i])]
        assert [i for i, _ in samples(path, made)] == sorted(scored, key=lambda i: (-pooled[i], i))
    # another encoder, whose similarity is the largest over the validation samples: so it is over sets too
    fill_text(path, "similarity", "max", "other", {"a": a, "b": b})
    with pytest.raises(MissingScoresError, match=r"similarity scores from 2 runs: 4 \(mean, 59.*5 \(max") as caught:
        select(path, strategy="similarity")
    assert "--run 5" in caught.value.hint
    made = select(path, "1", strategy="similarity", encoder="other")
    largest = np.maximum(a, b)
    scored = [i for i in range(n) if math.isfinite(largest[i])]
    assert [i for i, _ in samples(path, made)] == sorted(scored, key=lambda i: (-largest[i], i))
    with pytest.raises(UsageError, match="takes the largest of its tasks"):
        select(path, strategy="similarity", encoder="other", validation_set=["a=2", "b"])
    with pytest.raises(UsageError, match="no model named `othre`"):
        select(path, strategy="similarity", encoder="othre")


def test_less_is_a_strategy_of_its_own_run(tmp_path: Path) -> None:
    rng = np.random.default_rng(9)
    path = tmp_path / "s.duckdb"
    exact, cosines = rng.normal(size=50), {name: rng.uniform(-1, 1, 50) for name in ("a", "b")}
    level = rng.integers(1, 6, 50).astype(float)
    fill_store(path, dots={"a": exact}, difficulty=level)
    with pytest.raises(MissingScoresError, match=r"by method less on dataset `pool`: found 0 of 50") as caught:
        select(path, strategy="less")
    assert "--method less" in caught.value.hint
    with Store(path) as store, store.transaction():
        store.connection.execute("INSERT INTO validation_sets VALUES (9, 'b', NULL, 10, NULL, TIMESTAMP '2026-01-01')")
        number = store.open_run(
            kind="influence", method="less", model_id="id-model", fingerprint="less", settings={}, environment={}
        )
        store.start_scoring(number, 1)
        store.seal(number, 1)
        for set_id, column in ((1, cosines["a"]), (9, cosines["b"])):
            store.run("store/insert_run_validation_set", run_id=number, validation_set_id=set_id)
            for i, value in enumerate(column):
                store.connection.execute(
                    "INSERT INTO influence_scores (run_id, sample_id, validation_set_id, dot) "
                    "SELECT ?, sample_id, ?, ? FROM dataset_samples WHERE position = ?",
                    [number, set_id, float(value), i],
                )
    largest = np.maximum(cosines["a"], cosines["b"])
    made = select(path, "1", strategy="less")
    assert [i for i, _ in samples(path, made)] == sorted(range(50), key=lambda i: (-largest[i], i))
    # the other strategies still mean the exact dots, in SQL too
    expected = [(i, q) for q, i in slow_ranking(exact, level)]
    assert samples(path, select(path, "1")) == expected
    assert execute(path, "SELECT position, quadrant FROM diq_ranking('pool', 'model')") == expected
    # unless the run is named
    by_less = [(i, q) for q, i in slow_ranking(largest, level)]
    assert samples(path, select(path, "1", run=number)) == by_less
    assert execute(path, f"SELECT position, quadrant FROM diq_ranking('pool', 'model', run := {number})") == by_less


def test_a_threshold_outside_the_data_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "s.duckdb"
    # the sample without a dot does not count
    fill_store(path, dots={"a": [1.0, 2.0, 3.0, np.nan]}, difficulty=[2, 3, 4, 9])
    for bad in (1.99, 4.01, 9.0, -1e9):
        with pytest.raises(UsageError, match="outside the data: overall goes from 2 to 4") as caught:
            select(path, "1", difficulty_threshold=bad)
        assert caught.value.hint
    assert execute(path, "SELECT count(*) FROM rankings") == [(0,)]
    for good in (2.0, 3.5, 4.0):
        assert select(path, "1", difficulty_threshold=good).thresholds["tau"] == good


def test_a_dataset_without_any_finite_score_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "s.duckdb"
    fill_store(path, dots={"a": [np.nan, np.inf, -np.inf]}, difficulty=[1, 2, 3])
    with pytest.raises(MissingScoresError, match="found 0 of 3 samples with finite ones"):
        select(path, "1")
    assert execute(path, "SELECT count(*) FROM rankings") == [(0,)]


def test_unscored_samples_are_told_at_every_selection(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "s.duckdb"
    fill_store(path, dots={"a": [1.0, np.nan, 3.0]}, difficulty=[1, 2, 3])
    for _ in range(2):
        caplog.clear()
        assert select(path, "1").n_unscored == 1
        assert "1 of 3 samples of dataset `pool` lack a finite score" in caplog.text


@pytest.mark.slow
def test_guards_leave_samples_out_of_the_pool_and_say_why(tmp_path: Path) -> None:
    rng = np.random.default_rng(10)
    words = [f"word{i}" for i in range(400)]
    question = " ".join(rng.choice(words, 20))
    texts = [" ".join(rng.choice(words, 40)) for _ in range(60)]
    texts[20] = texts[3].upper().replace(" ", "  ")
    texts[21] = texts[4] + " anew"
    texts[30] = f"as they say, {question}, and so on"
    path = tmp_path / "s.duckdb"
    ingest_rows(path, [[{"role": "user", "content": text}, {"role": "assistant", "content": "a"}] for text in texts])
    ingest_rows(path, [[{"role": "user", "content": question}, {"role": "assistant", "content": "B"}]], "exam")
    level, dot = rng.integers(1, 6, 60).astype(float), rng.integers(-3, 4, 60).astype(float)
    # what is left out would move both thresholds if it counted
    dot[[20, 21, 30]], level[[20, 21, 30]] = 99, 5
    scores = [{"position": i, "overall": level[i], "dot": dot[i]} for i in range(60)]
    ingest_rows(path, scores, scores=True, model="model")

    plain = select(path, "1")
    found = {}
    for guards, left in (
        ({"dedupe": "exact"}, [20]),
        ({"dedupe": "near"}, [20, 21]),
        ({"decontaminate": ["exam"]}, [30]),
        ({"dedupe": "near", "decontaminate": ["exam"]}, [20, 21, 30]),
    ):
        made = select(path, "1", **guards)
        kept = [i for i in range(60) if i not in left]
        masked = np.where(np.isin(np.arange(60), left), np.nan, dot)
        assert samples(path, made) == [(i, q) for q, i in slow_ranking(masked, level)]
        assert (made.n_scored, made.n_unscored, made.n_excluded) == (len(kept), 0, len(left))
        assert made.thresholds["median"] == np.median(dot[kept])
        assert sum(guard["n_excluded"] for guard in made.guards) == len(left)
        assert made.ranking == "new"
        assert select(path, "0.5", **guards).ranking == "stored"
        found[str(guards)] = made
    assert len({made.ranking_id for made in found.values()} | {plain.ranking_id}) == 5
    # nothing is deleted, and a selection without guards takes them as before
    again = select(path, "1")
    assert (again.ranking, again.n) == ("stored", 60)
    reasons = execute(
        path,
        "SELECT DISTINCT d.position, e.reason FROM exclusions AS e "
        "JOIN dataset_samples AS d USING (sample_id) ORDER BY 1, 2",
    )
    assert {position for position, _ in reasons} == {20, 21, 30}
    assert any("repeats position 3" in reason for _, reason in reasons)
    assert any("position 4 (Jaccard 0.9" in reason for _, reason in reasons)
    assert any("`exam`" in reason for _, reason in reasons)
    with pytest.raises(UsageError, match="no dataset, no validation set and no file"):
        select(path, "1", decontaminate=["exm"])
    # a wrong name of the selection is told before a guard runs
    with pytest.raises(UsageError, match="no model named"):
        select(path, "1", model="modle", dedupe="near", dedupe_threshold=0.5)
    assert execute(path, "SELECT count(*) FROM runs WHERE kind = 'guard'") == [(3,)]
