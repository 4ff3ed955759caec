"""What charts show against slow, obvious counts in NumPy, and against the store's own SQL."""

from __future__ import annotations

import math
import shlex
from pathlib import Path
from typing import Any

import click
import numpy as np
import pytest

import diq
from conftest import fill_store
from diq.base.errors import MissingScoresError, UsageError
from diq.cli import diq as root
from diq.influence.meters import flip_share
from diq.influence.stored import scoring_command
from diq.plot import data
from diq.plot.data import Axis
from diq.plot.ground import Ground, grounded
from diq.store.store import Store

N = 700


def made(path: Path, *, whole: bool = False, seed: int = 0, **more: Any) -> dict[str, Any]:
    """A store with heavy-tailed dots of two validation sets, some missing; returns the columns."""
    rng = np.random.default_rng(seed)
    folds = {name: rng.standard_t(2, (N, 2)) * scale for name, scale in (("a", 1e-3), ("b", 20.0))}
    folds["a"][5] = np.nan
    difficulty = rng.integers(1, 6, N).astype(float) if whole else rng.uniform(1, 5, N)
    difficulty[9] = np.nan
    tokens = rng.integers(1, 3000, N)
    dots = {name: column.mean(axis=1) for name, column in folds.items()}
    lists = {name: [None if np.isnan(row).any() else row for row in column] for name, column in folds.items()}
    fill_store(path, dots=dots, difficulty=difficulty, folds=lists, answer_tokens=tokens, **more)
    pooled = (dots["a"] * 10 + dots["b"] * 10) / 20
    return {"dots": dots, "folds": folds, "difficulty": difficulty, "tokens": tokens, "pooled": pooled}


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("plot") / "s.duckdb"


@pytest.fixture(scope="module")
def columns(path: Path) -> dict[str, Any]:
    found = made(path)
    for ratio in ("0.1", "0.5"):
        diq.select("pool", ratio=ratio, model="model", store=path)
    diq.select("pool", ratio="0.2", strategy="random", store=path)
    return found


def in_cell(values: Any, low: float, high: float, *, last: bool) -> Any:
    # the highest value lies in the last bin; edges in double precision may be off by a rounding
    return (values >= low * (1 - math.copysign(1e-9, low))) & (values < high * (1 + math.copysign(1e-9, high))) | (
        last & np.isclose(values, high)
    )


@pytest.mark.parametrize("is_linear", [False, True])
def test_cells_of_the_plane_hold_what_lies_in_them(path: Path, columns: dict[str, Any], is_linear: bool) -> None:
    with grounded(path, selection="pool-diq-0.1") as ground:
        drawn = data.plane(ground, is_linear=is_linear)
        positions = [
            row["position"] for row in diq.sql("FROM selection_samples WHERE selection_id = 1", store=path).to_pylist()
        ]
    level, dot = columns["difficulty"], columns["pooled"]
    scored = np.isfinite(level) & np.isfinite(dot)
    taken = np.isin(np.arange(N), positions)
    assert sum(row["n"] for row in drawn.rows) == scored.sum() == drawn.facts["n"]
    assert sum(row["taken"] for row in drawn.rows) == taken.sum() == len(positions)
    (_, right), (_, high) = drawn.facts["levels"], drawn.facts["dots"]
    for row in drawn.rows:
        x = in_cell(level, row["level"], row["level_end"], last=row["level_end"] >= right - 1e-9)
        y = in_cell(dot, row["dot"], row["dot_end"], last=math.isclose(row["dot_end"], high))
        assert abs(int((x & y & scored).sum()) - row["n"]) <= 1, row
        assert row["taken"] <= row["n"]
    assert drawn.facts["taken"] == {"Q1": len(positions), "Q2": 0, "Q3": 0, "Q4": 0}
    assert drawn.facts["tau"] == pytest.approx(np.median(level[scored]), rel=1e-12)
    assert drawn.facts["median"] == pytest.approx(np.median(dot[scored]), rel=1e-12)
    assert drawn.facts["counts"] == diq.select("pool", ratio="0.1", model="model", store=path).counts["dataset"]


def test_whole_levels_are_strips_and_the_outline_closes(tmp_path: Path) -> None:
    columns = made(tmp_path / "s.duckdb", whole=True)
    diq.select("pool", ratio="0.3", model="model", store=tmp_path / "s.duckdb")
    with grounded(tmp_path / "s.duckdb", selection=1) as ground:
        drawn = data.plane(ground)
    assert {(row["level"], row["level_end"]) for row in drawn.rows} <= {(k - 0.5, k + 0.5) for k in range(1, 6)}
    by_level = {k: sum(row["n"] for row in drawn.rows if row["level"] == k - 0.5) for k in range(1, 6)}
    scored = np.isfinite(columns["pooled"])
    assert by_level == {k: int((columns["difficulty"][scored] == k).sum()) for k in range(1, 6)}
    ends: dict[tuple[float, float], int] = {}
    for side in drawn.facts["outline"]:
        for corner in ((side["level"], side["dot"]), (side["level_end"], side["dot_end"])):
            ends[corner] = ends.get(corner, 0) + 1
    assert ends, "a selection of 30 % fills cells"
    assert all(n % 2 == 0 for n in ends.values()), "as many sides begin as end at each corner"


def test_a_ranking_that_is_not_stored_draws_what_a_stored_one_does(tmp_path: Path) -> None:
    path = tmp_path / "s.duckdb"
    made(path)
    before = path.read_bytes()
    with grounded(path) as ground:
        assert ground.ranked is not None
        assert ground.ranked.ranking_id is None
        looked = data.plane(ground), data.halves(ground), data.levels(ground), data.lengths(ground)
    assert path.read_bytes() == before, "drawing writes nothing"
    diq.select("pool", ratio="0.1", model="model", store=path)
    with grounded(path) as ground:
        assert ground.ranked is not None
        assert ground.ranked.ranking_id == 1
        assert (data.plane(ground), data.halves(ground), data.levels(ground), data.lengths(ground)) == looked


def test_histograms_hold_every_dot_and_say_its_median_and_error(path: Path, columns: dict[str, Any]) -> None:
    with grounded(path) as ground:
        drawn = data.dots(ground)
    for name, facts in drawn.facts["sets"].items():
        dots, folds = columns["dots"][name], columns["folds"][name]
        finite = np.isfinite(dots)
        rows = [row for row in drawn.rows if row["validation_set"] == name]
        assert sum(row["n"] for row in rows) == facts["n"] == finite.sum()
        assert facts["n_without"] == N - finite.sum()
        assert facts["quartiles"] == pytest.approx(np.quantile(dots[finite], [0.25, 0.5, 0.75]).tolist(), rel=1e-12)
        errors = folds[finite].std(axis=1, ddof=1) / math.sqrt(2)
        assert facts["standard_error"] == pytest.approx(math.sqrt(np.mean(errors**2)), rel=1e-6)
        edges = [row["dot"] for row in rows] + [rows[-1]["dot_end"]]
        assert edges == sorted(edges)
        for row in rows:
            last = row is rows[-1]
            assert abs(int(in_cell(dots, row["dot"], row["dot_end"], last=last).sum()) - row["n"]) <= 1


def test_a_run_of_two_datasets_is_drawn_one_dataset_at_a_time(tmp_path: Path) -> None:
    path, alone = tmp_path / "two.duckdb", tmp_path / "one.duckdb"
    made(path, dataset="pool")
    made(alone, dataset="pool")
    made(path, dataset="other", seed=1, model="second")
    with Store(path) as store:
        # the second dataset is scored by the first one's run, too
        store.connection.execute(
            "UPDATE influence_scores SET run_id = 1; UPDATE run_datasets SET run_id = 1 WHERE run_id = 3"
        )
    with grounded(path, "pool", run=1) as both, grounded(alone, "pool") as one:
        assert data.dots(both) == data.dots(one)
        assert data.lengths(both) == data.lengths(one)


def test_lengths_are_those_of_the_samples(path: Path, columns: dict[str, Any]) -> None:
    with grounded(path, selection="pool-diq-0.5") as ground:
        drawn = data.lengths(ground)
        positions = [row["position"] for row in ground.store.rows("plot/chosen_positions")]
    scored = np.isfinite(columns["difficulty"]) & np.isfinite(columns["pooled"])
    assert sum(row["n"] for row in drawn.rows) == scored.sum()
    assert sum(row["taken"] for row in drawn.rows) == len(positions)
    for row in drawn.rows:
        inside = scored & (columns["tokens"] >= row["low"]) & (columns["tokens"] <= row["high"])
        assert inside.sum() == row["n"]
        assert row["taken"] == inside[positions].sum()
        quantiles = [row[name] for name in ("p10", "p25", "median", "p75", "p90")]
        assert quantiles == pytest.approx(
            np.quantile(columns["pooled"][inside], [0.1, 0.25, 0.5, 0.75, 0.9]).tolist(), rel=1e-9
        )


def test_a_ranking_is_read_once_for_all_charts(
    path: Path, columns: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert columns
    asked: list[str] = []
    batches = Store.batches

    def counted(self: Store, query: str, **params: Any) -> Any:
        asked.append(query)
        return batches(self, query, **params)

    monkeypatch.setattr(Store, "batches", counted)
    with grounded(path, selection="pool-diq-0.5") as ground:
        drawn = data.levels(ground), data.lengths(ground)
    assert asked.count("plot/ranked_rows") == 1
    # in another order, and each by itself
    with grounded(path, selection="pool-diq-0.5") as ground:
        assert (data.lengths(ground), data.levels(ground)) == drawn[::-1]
    with grounded(path, selection="pool-diq-0.5") as ground:
        assert data.levels(ground) == drawn[0]


def test_halves_disagree_as_their_rankings_do(path: Path, columns: dict[str, Any]) -> None:
    with grounded(path) as ground:
        drawn = data.halves(ground)
    halves = [sum(columns["folds"][name][:, half] * 5 for name in ("a", "b")) / 10 for half in (0, 1)]
    scored = np.isfinite(columns["difficulty"]) & np.isfinite(columns["pooled"])
    orders = [
        diq.rank(np.where(scored, half, np.nan), np.where(scored, columns["difficulty"], np.nan)).rows
        for half in halves
    ]
    n = int(scored.sum())
    for text, share in drawn.facts["flips"].items():
        top = int(n * float(text))
        assert share == pytest.approx(flip_share(orders[0][:top], orders[1][:top]))
    assert sum(row["n"] for row in drawn.rows) == n


def test_tasks_are_those_of_the_macro(path: Path, columns: dict[str, Any]) -> None:
    assert columns
    for selection in ("pool-diq-0.1", "pool-random-0.2"):
        with grounded(path, selection=selection) as ground:
            drawn = data.tasks(ground)
        expected = diq.sql(f"SELECT * FROM diq_tasks('{selection}', run := 1)", store=path).to_pylist()
        assert {row["task"]: (row["n"], row["n_dataset"]) for row in drawn.rows} == {
            row["validation_set"]: (row["n"], row["n_dataset"]) for row in expected
        }
        for row in drawn.rows:
            (same,) = (one for one in expected if one["validation_set"] == row["task"])
            assert row["lift"] == pytest.approx(same["lift"])


def test_overlap_counts_samples_that_two_selections_share(path: Path, columns: dict[str, Any]) -> None:
    assert columns
    names = ["pool-diq-0.1", "pool-diq-0.5", "pool-random-0.2"]
    with Store(path, read_only=True) as store:
        drawn = data.overlap(store, names)
        taken = {
            name: {row["position"] for row in store.rows("reporting/selected", selection_id=number)}
            for number, name in enumerate(names, start=1)
        }
    assert len(drawn.rows) == 9
    for row in drawn.rows:
        assert row["shared"] == len(taken[row["a"]] & taken[row["b"]])
    with Store(path, read_only=True) as store, pytest.raises(UsageError, match="needs two selections, found 1"):
        data.overlap(store, names[:1])


@pytest.mark.parametrize(
    ("low", "high", "scale"),
    [(-5.0, 9.0, None), (0.0, 0.0, None), (3.0, 3.0, 0.0), (-1e-9, 4e7, 1e-6), (-2.0, -1.0, 0.5), (0.0, 0.0, 1e-300)],
)
def test_an_axis_covers_its_values_in_order(low: float, high: float, scale: float | None) -> None:
    axis = Axis.over(low, high, 64, scale)
    edges = [axis.edge(k) for k in range(65)]
    assert edges == sorted(edges)
    assert len(set(edges)) == 65
    assert edges[0] <= low + 1e-12 * abs(low)
    assert edges[-1] >= high - 1e-9 * abs(high)
    assert all(edges[0] <= tick <= edges[-1] for tick in axis.ticks())


def columns_of(path: Path, dots: Any, difficulty: Any) -> Ground:
    fill_store(path, dots={"a": np.asarray(dots, float)}, difficulty=np.asarray(difficulty, float))
    with grounded(path) as ground:
        data.plane(ground)
        data.dots(ground)
        data.lengths(ground)
        data.levels(ground)
        return ground


def test_degenerate_columns_are_drawn(tmp_path: Path) -> None:
    columns_of(tmp_path / "equal.duckdb", np.full(20, 0.5), np.full(20, 3.0))
    columns_of(tmp_path / "zero.duckdb", np.zeros(20), np.arange(20) % 5 + 1)
    columns_of(tmp_path / "one.duckdb", [0.25], [2.5])
    ground = columns_of(tmp_path / "nan.duckdb", [np.nan, 1.0, np.inf, 2.0], [1.0, 2.0, 3.0, np.nan])
    assert ground.ranked is not None
    assert (ground.ranked.n, ground.ranked.n_unscored) == (1, 3)


def test_what_is_missing_is_said_with_its_command(tmp_path: Path) -> None:
    path = tmp_path / "s.duckdb"
    fill_store(path, dots={"a": np.full(5, np.nan)}, difficulty=np.arange(5.0))
    with grounded(path) as ground:
        with pytest.raises(MissingScoresError, match="no sample of dataset `pool` has the scores"):
            raise MissingScoresError(ground.notes[0])
        with pytest.raises(MissingScoresError, match="no finite dot"):
            data.dots(ground)
        assert data.levels(ground).rows, "what there is, is drawn"
    with Store(path) as store:
        store.connection.execute("DELETE FROM run_datasets WHERE run_id = 1")
    with grounded(path) as ground:
        assert ground.notes == ["no influence scores: run `diq score influence pool --model MODEL`"]
        for draw in (data.plane, data.dots, data.halves, data.lengths):
            with pytest.raises(MissingScoresError) as raised:
                draw(ground)
            assert "diq score influence pool" in raised.value.hint
    with Store(path) as store:
        store.connection.execute("DELETE FROM run_datasets")
    with grounded(path) as ground, pytest.raises(MissingScoresError) as raised:
        data.levels(ground)
    assert "diq score difficulty pool --model" in raised.value.hint


def test_one_of_two_validation_sets_is_missing(tmp_path: Path) -> None:
    path = tmp_path / "s.duckdb"
    made(path)
    with Store(path) as store:
        store.connection.execute("DELETE FROM influence_scores WHERE validation_set_id = 2")
    with grounded(path) as ground:
        drawn = data.dots(ground)
        assert list(drawn.facts["sets"]) == ["a"]
        assert any("no dots with validation set `b`" in note and "--validation-set b" in note for note in ground.notes)


def test_validation_sets_that_are_asked_for_are_those_that_a_selection_ranks_by(tmp_path: Path) -> None:
    path = tmp_path / "s.duckdb"
    columns = made(path)
    weights = ["a=2", "b=0.5"]
    with grounded(path, validation_set=weights) as ground:
        assert ground.ranked is not None
        assert ground.ranked.ranking_id is None
        looked = data.plane(ground), data.halves(ground), data.levels(ground), data.lengths(ground)
    assert ground.weights == {"a": 2.0, "b": 0.5}
    weighed = (2 * columns["dots"]["a"] + 0.5 * columns["dots"]["b"]) / 2.5
    scored = np.isfinite(columns["difficulty"]) & np.isfinite(weighed)
    assert looked[0].facts["median"] == pytest.approx(np.median(weighed[scored]), rel=1e-12)
    with grounded(path) as plain:
        assert data.plane(plain) != looked[0]
    diq.select("pool", ratio="0.1", model="model", validation_set=weights, name="weighed", store=path)
    with grounded(path, validation_set=weights) as ground:
        assert ground.ranked is not None
        assert ground.ranked.ranking_id == 1
        assert (data.plane(ground), data.halves(ground), data.levels(ground), data.lengths(ground)) == looked
    # a selection by dots brings its own, also when its ranking was replaced; one without dots takes what is asked
    with Store(path) as store:
        store.connection.execute("UPDATE influence_scores SET dot = -dot WHERE validation_set_id = 2")
    diq.select("pool", ratio="0.1", model="model", validation_set=weights, name="again", store=path)
    diq.select("pool", ratio="0.1", strategy="random", name="random", store=path)
    for selection, asked, expected in (
        ("weighed", ["a"], {"a": 2.0, "b": 0.5}),
        ("again", [], {"a": 2.0, "b": 0.5}),
        ("random", "b=3", {"b": 3.0}),
        ("random", [], None),
    ):
        with grounded(path, selection=selection, validation_set=asked) as ground:
            assert ground.weights == expected
            assert ground.ranked is not None
    with pytest.raises(UsageError, match="no validation set named `c`"), grounded(path, validation_set=["c"]):
        pass


def test_a_validation_set_that_a_dataset_lacks_can_be_left_out(tmp_path: Path) -> None:
    path = tmp_path / "s.duckdb"
    columns = made(path)
    diq.select("pool", ratio="0.1", strategy="random", name="random", store=path)
    with Store(path) as store:
        store.connection.execute("DELETE FROM influence_scores WHERE validation_set_id = 1")
    with grounded(path, selection="random") as ground:
        assert ground.ranked is None
        assert ground.notes == [
            "no sample of `pool` has dots with the validation set `a` of run 1, so none is ranked: "
            "`--validation-set b` counts the others alone"
        ]
        with pytest.raises(MissingScoresError, match="validation set `a` of run 1 has no dots"):
            data.tasks(ground)
    with grounded(path, selection="random", validation_set=["b"]) as ground:
        dot = columns["dots"]["b"]
        scored = np.isfinite(columns["difficulty"]) & np.isfinite(dot)
        assert data.plane(ground).facts["median"] == pytest.approx(np.median(dot[scored]), rel=1e-12)
        assert sum(row["n"] for row in data.lengths(ground).rows) == scored.sum(), "tokens are those of the other set"
        assert list(data.dots(ground).facts["sets"]) == ["b"]
        with pytest.raises(MissingScoresError, match="are of one validation set"):
            data.tasks(ground)
        assert ground.notes == [], "what does not count is not missed"


def test_missing_dots_have_the_command_of_their_method() -> None:
    def words(method: str) -> list[str]:
        return shlex.split(scoring_command("my pool", "a model", method, "b"))

    assert words("exact") == [
        "diq", "score", "influence", "my pool", "--model", "a model", "--validation-set", "b"
    ]  # fmt: skip
    assert words("projected") == [*words("exact"), "--method", "projected"]
    assert words("rater") == ["diq", "score", "influence", "my pool", "--rater", "DIR"]
    assert words("external")[:6] == ["diq", "ingest", "FILE", "--scores", "--dataset", "my pool"]
    for method in ("exact", "projected", "less", "external", "rater"):
        command: Any = root
        _, *rest = words(method)
        while isinstance(command, click.Group):
            command = command.get_command(click.Context(command), rest.pop(0))
        command.make_parser(click.Context(command)).parse_args(rest)


def test_a_selection_whose_ranking_was_replaced_is_drawn_among_todays_scores(tmp_path: Path) -> None:
    path = tmp_path / "s.duckdb"
    columns = made(path)
    first = diq.select("pool", ratio="0.1", model="model", name="first", store=path)
    with Store(path) as store:
        store.connection.execute("UPDATE influence_scores SET dot = -dot WHERE validation_set_id = 2")
    with grounded(path, selection="first") as ground:
        assert any("scores have changed since ranking 1 of selection `first`" in note for note in ground.notes)
        before = data.plane(ground)
    diq.select("pool", ratio="0.1", model="model", name="second", store=path)
    with grounded(path, selection="first") as ground:
        assert any("was replaced after scores changed" in note for note in ground.notes)
        after = data.plane(ground)
    assert sum(row["taken"] for row in before.rows) == sum(row["taken"] for row in after.rows) == first.n
    assert before.facts["taken"]["Q1"] == first.n
    assert after.facts["taken"]["Q1"] < first.n
    assert len(columns["pooled"]) == N


def test_names_are_found_or_asked_for(path: Path, columns: dict[str, Any], tmp_path: Path) -> None:
    assert columns
    with pytest.raises(UsageError, match="no selection `none`"), grounded(path, selection="none"):
        pass
    with pytest.raises(UsageError, match="no dataset named `pol`"), grounded(path, "pol"):
        pass
    with pytest.raises(UsageError, match="no model named `modl`"), grounded(path, "pool", "modl"):
        pass
    two = tmp_path / "two.duckdb"
    fill_store(two, dots={"a": np.arange(5.0)}, difficulty=np.arange(5.0))
    fill_store(two, dots={"a": np.arange(5.0)}, difficulty=np.arange(5.0), dataset="other", model="second")
    diq.select("pool", ratio="0.4", model="model", store=two)
    with pytest.raises(UsageError, match="has several datasets: pool, other"), grounded(two):
        pass
    with pytest.raises(UsageError, match="is of dataset `pool`, not of `other`"), grounded(two, "other", selection=1):
        pass


@pytest.mark.parametrize(
    ("low", "high", "scale", "least"),
    [
        (0.19, 0.21, 0.2, 3),
        (-3.0, 6.0, 0.5, 5),
        (-2000.0, 3000.0, 5.0, 5),
        (1e-9, 2e-9, 1e-9, 2),
        (-1e300, 1e300, 1.0, 5),
    ],
)
def test_an_axis_has_round_values_to_read_it_by(low: float, high: float, scale: float, least: int) -> None:
    axis = Axis.over(low, high, 64, scale)
    ticks = axis.ticks()
    assert len(ticks) >= least
    assert ticks == sorted(set(ticks))
    assert axis.edge(0) - 1e-9 * abs(axis.edge(0)) - 1e-12 <= ticks[0]
    # a few digits each
    assert all(float(f"{one:.3g}") == one for one in ticks)
