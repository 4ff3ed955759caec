"""`diq score influence --for-ratio`: what a part of the dots decides is what all of them decide."""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import numpy.typing as npt
import pytest

import diq
from conftest import KillAt, ingest_rows, run_killed, write_jsonl
from diq.base.errors import MissingScoresError, UsageError
from diq.base.text import Ratio
from diq.influence import cascade, partial
from diq.influence.cascade import Cascade, Cheap
from diq.influence.certificate import Certificate, Columns, chance_of
from diq.influence.partial import Aim, ForRatio
from diq.scoring.job import Samples
from diq.store.store import Store

Floats = npt.NDArray[np.float64]
N = 80


# the numbers ----------------------------------------------------------------------------------------------------------


def test_the_chance_is_the_sum_of_all_ways() -> None:
    for population in (1, 2, 7, 30):
        for marked in range(population + 1):
            for draws in range(population + 1):
                ways = [math.comb(marked, k) * math.comb(population - marked, draws - k) for k in range(draws + 1)]
                for seen in range(draws + 2):
                    expected = sum(ways[seen:]) / math.comb(population, draws)
                    found = chance_of(seen, population=population, marked=marked, draws=draws)
                    assert found == pytest.approx(expected, rel=1e-9, abs=1e-12)


def full_selection(level: Floats, dot: Floats, *, tau: float, count: int) -> list[int]:
    """The first samples of Algorithm 1, slowly; None where a sample of them is not in Q1."""
    counted = [i for i in range(len(dot)) if math.isfinite(level[i]) and math.isfinite(dot[i])]
    ordered = sorted(dot[i] for i in counted)
    n = len(ordered)
    median = (ordered[(n - 1) // 2] + ordered[n // 2]) / 2
    best = [i for i in counted if level[i] >= tau and dot[i] >= median]
    return sorted(best, key=lambda i: (-dot[i], -level[i], i))[:count]


class InMemory(ForRatio):
    """A scoring whose dots are in memory, and known once they were asked for."""

    def __init__(self, job: Any, aim: Aim, level: Floats, dot: Floats) -> None:
        super().__init__(job, aim, 1, level)
        self.dot = dot
        self.asked = np.zeros(len(dot), np.bool_)

    def _columns(self, run_id: int, position: Any, missing: Any) -> list[Columns]:
        return [Columns(position, self._level, np.where(self.asked, self.dot, np.nan), missing)]

    def _keep(self, run_id: int, certificate: Certificate) -> None:
        self._state = certificate

    def run(self) -> npt.NDArray[np.bool_]:
        """Score in rounds; which samples were scored."""
        n = len(self.dot)
        samples = Samples(np.arange(n), np.zeros((n, 16), np.uint8), np.ones(n, np.bool_))
        usable = np.ones(n, np.bool_)
        while (chosen := self.next(1, samples, usable)) is not None:
            assert (chosen & samples.missing).any(), "a round without work would never end"
            self.asked |= chosen
            samples.missing[chosen] = False
        return self.asked


def a_pool(rng: np.random.Generator) -> tuple[Floats, Floats, float]:
    """Difficulty and dots of any sort: tied or not, related or not, with heavy tails, some without difficulty."""
    n = int(rng.integers(40, 1500))
    level = rng.normal(size=n)
    if rng.random() < 0.5:
        level = np.clip(np.round(level + 3), 1, 5)
    dot = rng.standard_t(rng.integers(1, 9), size=n) + rng.choice([0.0, 0.0, 0.7, -0.7]) * level
    if rng.random() < 0.3:
        dot = np.round(dot, 1)
    level[rng.random(n) < rng.choice([0.0, 0.1])] = np.nan
    return level, dot, float(rng.choice([0.3, 0.5, 0.8]))


def test_the_selection_is_that_of_all_dots_on_random_pools(monkeypatch: pytest.MonkeyPatch) -> None:
    """The certificates may fail once in a thousand times; here none of two hundred may, which the seed fixes."""
    monkeypatch.setattr(partial, "_FIRST_DRAWN", 16)
    rng = np.random.default_rng(5)
    n_partial = 0
    shares = []
    for _ in range(200):
        level, dot, percentile = a_pool(rng)
        ratio = Ratio.parse(str(rng.choice(["0.01", "0.05", "0.1", "0.2", "0.4"])))
        n = int(np.isfinite(level).sum())
        if ratio.of(n) == 0:
            continue
        job = type("Job", (), {"data": {"n_samples": len(dot)}})()
        choice = InMemory(job, Aim(ratio, "overall", percentile, None, None, False), level, dot)
        scored = choice.run()
        tau = float(np.quantile(level[np.isfinite(level)], percentile))
        wanted = full_selection(level, dot, tau=tau, count=ratio.of(n))
        if scored.all():
            continue
        n_partial += 1
        shares.append(scored.mean())
        assert len(wanted) == ratio.of(n), "the selection does not fit into Q1, and not all was scored"
        hard = sorted(np.flatnonzero(scored & (level >= tau)).tolist(), key=lambda i: (-dot[i], -level[i], i))
        assert hard[: len(wanted)] == wanted
    assert n_partial > 100
    assert np.mean(shares) < 0.75


def test_a_certificate_fails_no_more_often_than_it_says(monkeypatch: pytest.MonkeyPatch) -> None:
    """At the very border, where the last dot is just below the median, over 2,000 random draws."""
    rng = np.random.default_rng(0)
    n = 400
    wrong = 0
    for _ in range(2000):
        dot = rng.permutation(n).astype(np.float64)
        hard = np.arange(n) < 100
        # the hard sample that is just below the median is the last of the selection
        below = np.sort(dot[hard & (dot < (n - 1) / 2)])
        count = int((dot[hard] >= below[-1]).sum())
        columns = Columns(np.arange(n), np.ones(n), dot, np.zeros(n, np.bool_))
        supported = False
        for looks, drawn in enumerate((16, 32, 64, 128), 1):
            # drawn by other numbers each time
            rows = rng.permutation(np.flatnonzero(~hard))[:drawn]
            mask = np.zeros(n, np.bool_)
            mask[rows] = True
            supported |= columns.evidence(hard, hard, mask, looks).supports(count)
        wrong += supported
    # the sum of what all looks may fail by is 0.001 x 0.8: 1.6 are expected at most, and 8 are seen once in 3,000 times
    assert wrong <= 7


# from end to end -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory, make_samples: Any) -> Path:
    """A store with difficulty, where three samples have no answer; without influence."""
    folder = tmp_path_factory.mktemp("partial")
    store = folder / "s.duckdb"
    made = make_samples(N + 6, seed=4)
    rng = np.random.default_rng(1)
    levels = rng.normal(size=N).round(4)
    rows = [{"messages": one, "level": level} for one, level in zip(made[:N], levels.tolist(), strict=True)]
    for i in (3, 40, 77):
        # too long a question leaves no answer token
        rows[i]["messages"][0]["content"] = "word " * 400
    ingest_rows(store, rows)
    diq.ingest(
        [write_jsonl(folder / "v.jsonl", [{"messages": one} for one in made[N:]])],
        dataset="v",
        validation=True,
        store=store,
    )
    diq.score_difficulty("pool", columns={"overall": "level"}, store=store)
    return store


@pytest.fixture
def store(filled: Path, tmp_path: Path) -> Path:
    path = tmp_path / "s.duckdb"
    path.write_bytes(filled.read_bytes())
    return path


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(partial, "_FIRST_DRAWN", 8)


def score(store: Path, model: Path, **options: Any) -> Any:
    return diq.score_influence(
        "pool", model=model, store=store, dtype="float64", device="cpu", max_length=256, **options
    )


def chosen(store: Path, model: Path, *, ratio: str, **options: Any) -> list[int]:
    made = diq.select("pool", model=model.name, ratio=ratio, store=store, **options)
    with Store(store, read_only=True) as opened:
        read = "SELECT position FROM selection_samples WHERE selection_id = ? ORDER BY rank"
        return [row[0] for row in opened.connection.execute(read, [made.selection_id]).fetchall()]


def dots(store: Path) -> dict[int, float]:
    with Store(store, read_only=True) as opened:
        return dict(
            opened.connection.execute(
                "SELECT position, dot FROM influence_scores JOIN dataset_samples USING (sample_id) "
                "WHERE dot IS NOT NULL"
            ).fetchall()
        )


@pytest.mark.slow
def test_a_part_selects_what_all_select_and_grows_to_all(
    store: Path, tmp_path: Path, tiny_llama_chat_folder: Path, few: None
) -> None:
    whole = tmp_path / "whole.duckdb"
    whole.write_bytes(store.read_bytes())
    score(whole, tiny_llama_chat_folder)
    summary = score(store, tiny_llama_chat_folder, for_ratio=0.1)
    assert summary.n_scored < 0.75 * N
    assert summary.details["partial"]["of"] == N - 3
    for options in ({}, {"strategy": "q1"}, {"ratio": "5%"}, {"ratio": "5%", "difficulty_percentile": 0.6}):
        given = {"ratio": "0.1", **options}
        assert chosen(store, tiny_llama_chat_folder, **given) == chosen(whole, tiny_llama_chat_folder, **given)
    # there is nothing to do for less, and no model is loaded for it
    again = score(store, tiny_llama_chat_folder, for_ratio=0.05)
    assert (again.n_scored, again.n_cached) == (0, summary.n_scored)
    # and without a ratio the rest is scored: the run is that of all dots
    rest = score(store, tiny_llama_chat_folder)
    assert rest.run_id == summary.run_id
    assert rest.n_scored == N - summary.n_scored
    assert "partial" not in rest.details
    mine, theirs = dots(store), dots(whole)
    assert mine.keys() == theirs.keys()
    for position, dot in theirs.items():
        assert mine[position] == pytest.approx(dot, rel=1e-9, abs=1e-15)
    assert chosen(store, tiny_llama_chat_folder, ratio="0.5") == chosen(whole, tiny_llama_chat_folder, ratio="0.5")


@pytest.mark.slow
def test_what_a_part_does_not_decide_is_refused(store: Path, tiny_llama_chat_folder: Path, few: None) -> None:
    score(store, tiny_llama_chat_folder, for_ratio=0.1)
    model = tiny_llama_chat_folder.name
    with pytest.raises(MissingScoresError, match=r"a ratio of .*, not the 38 of 0.5") as larger:
        diq.select("pool", model=model, ratio=0.5, store=store)
    assert "--for-ratio 0.5" in str(larger.value.hint)
    with pytest.raises(MissingScoresError, match="tells nothing of Q2"):
        diq.select("pool", model=model, ratio=0.1, strategy="q2", store=store)
    with pytest.raises(MissingScoresError, match="not finished: found"):
        diq.select("pool", model=model, ratio=0.1, strategy="influence", store=store)
    with pytest.raises(MissingScoresError, match="are missing") as easier:
        diq.select("pool", model=model, ratio=0.1, difficulty_percentile=0.3, store=store)
    # guards move the percentile, so it is given as the threshold that it makes
    assert re.search(r"--difficulty-threshold -?\d", str(easier.value.hint))
    with pytest.raises(UsageError, match="99 is outside the data"):
        diq.select("pool", model=model, ratio=0.1, difficulty_threshold=99, store=store)
    with Store(store, read_only=True) as opened, pytest.raises(duckdb.Error, match="scored in part"):
        opened.connection.execute("FROM diq_select('pool', ?, 0.1)", [model])


@pytest.mark.slow
@pytest.mark.exhaustive
def test_a_kill_loses_nothing(store: Path, tmp_path: Path, tiny_llama_chat_folder: Path, few: None) -> None:
    whole = tmp_path / "whole.duckdb"
    whole.write_bytes(store.read_bytes())
    undisturbed = score(whole, tiny_llama_chat_folder, for_ratio=0.1)
    run_killed(
        score,
        store,
        tiny_llama_chat_folder,
        for_ratio=0.1,
        progress=KillAt("scoring", 3),
        patches={"diq.influence.partial._FIRST_DRAWN": 8, "diq.scoring.summary.SHARD_SECONDS": 0.0},
    )
    before = dots(store)
    assert 0 < len(before) < len(dots(whole))
    summary = score(store, tiny_llama_chat_folder, for_ratio=0.1)
    assert summary.n_scored + summary.n_cached == undisturbed.n_scored
    assert dots(store) == dots(whole)
    assert chosen(store, tiny_llama_chat_folder, ratio="0.1") == chosen(whole, tiny_llama_chat_folder, ratio="0.1")


def test_no_difficulty_and_no_sample_are_one_line(
    tmp_path: Path, store: Path, tiny_llama_chat_folder: Path, make_samples: Any
) -> None:
    bare = tmp_path / "bare.duckdb"
    ingest_rows(bare, [{"messages": one} for one in make_samples(8)])
    diq.ingest(
        [write_jsonl(tmp_path / "v.jsonl", [{"messages": one} for one in make_samples(2, seed=1)])],
        dataset="v",
        validation=True,
        store=bare,
    )
    with pytest.raises(MissingScoresError, match="no difficulty scores") as none:
        score(bare, tiny_llama_chat_folder, for_ratio=0.1)
    assert "diq score difficulty pool" in str(none.value.hint)
    with pytest.raises(UsageError, match="selects none"):
        score(store, tiny_llama_chat_folder, for_ratio=0.001)
    with pytest.raises(UsageError, match="no effect without for_ratio"):
        score(store, tiny_llama_chat_folder, difficulty_percentile=0.7)


@pytest.mark.slow
def test_a_ratio_that_does_not_fit_into_q1_scores_all_and_says_why(
    store: Path, tiny_llama_chat_folder: Path, few: None, caplog: pytest.LogCaptureFixture
) -> None:
    summary = score(store, tiny_llama_chat_folder, for_ratio=0.6)
    assert summary.n_scored == N
    assert "needs the dots of all samples: no more than 39 samples" in caplog.text


def state(store: Path) -> str:
    query = "SELECT state FROM run_datasets JOIN runs USING (run_id) WHERE kind = 'influence'"
    (row,) = diq.sql(query, store=store).to_pylist()
    return str(row["state"])


@pytest.mark.slow
def test_dots_with_another_set_finish_no_part(
    store: Path, tmp_path: Path, tiny_llama_chat_folder: Path, make_samples: Any, few: None
) -> None:
    """One state of a run holds for all its sets: it is finished where each is, or for those that are asked for."""
    rows = [{"messages": one} for one in make_samples(3, seed=8)]
    diq.ingest([write_jsonl(tmp_path / "w.jsonl", rows)], dataset="w", validation=True, store=store)
    whole = tmp_path / "whole.duckdb"
    whole.write_bytes(store.read_bytes())
    score(whole, tiny_llama_chat_folder)
    score(store, tiny_llama_chat_folder, for_ratio=0.1, validation_set=["v"])
    score(store, tiny_llama_chat_folder, validation_set=["w"])
    assert state(store) == "open"
    for sets, strategy in ((["w"], "diq"), (["w"], "influence"), (["v"], "diq")):
        given: dict[str, Any] = {"ratio": "0.1", "validation_set": sets, "strategy": strategy}
        assert chosen(store, tiny_llama_chat_folder, **given) == chosen(whole, tiny_llama_chat_folder, **given)
    with pytest.raises(MissingScoresError, match="not finished"):
        chosen(store, tiny_llama_chat_folder, ratio="0.1", strategy="influence")
    score(store, tiny_llama_chat_folder, validation_set=["v"])
    assert state(store) == "sealed"
    assert chosen(store, tiny_llama_chat_folder, ratio="0.5") == chosen(whole, tiny_llama_chat_folder, ratio="0.5")


@pytest.mark.slow
def test_guards_leave_a_part_certain(
    store: Path, tmp_path: Path, tiny_llama_chat_folder: Path, make_samples: Any, few: None
) -> None:
    """What guards leave out changes N, tau and the median; the certificate is made of what is left."""
    made = make_samples(20, seed=3)
    # hard copies of each other, of which near-duplicate search keeps one
    copies = [
        {"messages": [{**one[0], "content": f"{made[0][0]['content']} {i}"}, *made[0][1:]], "level": 5.0}
        for i, one in enumerate(made)
    ]
    diq.ingest([write_jsonl(tmp_path / "copies.jsonl", copies)], dataset="pool", store=store)
    diq.score_difficulty("pool", columns={"overall": "level"}, store=store)
    whole = tmp_path / "whole.duckdb"
    whole.write_bytes(store.read_bytes())
    score(whole, tiny_llama_chat_folder)
    score(store, tiny_llama_chat_folder, for_ratio=0.1)
    given: dict[str, Any] = {"ratio": "0.05", "dedupe": "near", "dedupe_threshold": 0.5}
    with pytest.raises(MissingScoresError, match="are missing") as easier:
        # without the copies the threshold is lower than that of the scoring
        chosen(store, tiny_llama_chat_folder, **given)
    told = re.search(r"--difficulty-threshold ([-\d.]+)", str(easier.value.hint))
    assert told is not None
    score(store, tiny_llama_chat_folder, for_ratio=0.1, difficulty_threshold=float(told[1]))
    assert len(dots(store)) < len(dots(whole))
    assert chosen(store, tiny_llama_chat_folder, **given) == chosen(whole, tiny_llama_chat_folder, **given)


# cascades ------------------------------------------------------------------------------------------------------------


class CascadeInMemory(Cascade):
    """A cascade whose dots are in memory, and known once they were asked for."""

    _columns = InMemory._columns
    _keep = InMemory._keep
    run = InMemory.run

    def __init__(self, job: Any, aim: Aim, level: Floats, dot: Floats, cheap: Floats, recall: float) -> None:
        super().__init__(job, aim, 1, level, Cheap(9, cheap), recall)
        self.dot = dot
        self.asked = np.zeros(len(dot), np.bool_)


def test_the_recall_of_a_cascade_is_estimated_rightly(monkeypatch: pytest.MonkeyPatch) -> None:
    """On forty pools of 6,000: the estimates agree with the truth in the mean, and their intervals hold it."""
    monkeypatch.setattr(cascade, "_AUDIT", 600)
    rng = np.random.default_rng(1)
    errors, held, shares = [], 0, []
    for _ in range(40):
        n = 6000
        level, dot = rng.normal(size=n), rng.standard_t(4, size=n)
        cheap = dot + rng.choice([0.3, 1.0, 2.0]) * rng.normal(size=n)
        job = type("Job", (), {"data": {"n_samples": n}})()
        choice = CascadeInMemory(
            job, Aim(Ratio.parse("0.1"), "overall", 0.5, None, None, False), level, dot, cheap, 0.9
        )
        scored = choice.run()
        tau = float(np.quantile(level, 0.5))
        wanted = set(full_selection(level, dot, tau=tau, count=600))
        rows = np.flatnonzero(scored & (level >= tau))
        found = set(rows[np.argsort(-dot[rows])[:600]].tolist())
        kept = choice._state
        assert kept is not None
        assert kept.recall is not None
        truth = len(wanted & set(np.flatnonzero(scored).tolist())) / 600
        # what is selected is the best of what was scored, and holds all of the wanted ones among it
        assert len(wanted & found) / 600 == pytest.approx(truth)
        assert kept.recall.value >= 0.9
        errors.append(kept.recall.value - truth)
        held += kept.recall.low <= truth <= kept.recall.high
        shares.append(scored.mean())
    # stopping where the estimate passes makes it a little too good
    assert -0.01 < np.mean(errors) < 0.03
    assert held >= 34
    assert np.mean(shares) < 0.45


def test_a_cascade_that_cannot_help_takes_all_hard_samples(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cascade, "_AUDIT", 50)
    rng = np.random.default_rng(2)
    level, dot = rng.normal(size=400), rng.normal(size=400)
    job = type("Job", (), {"data": {"n_samples": 400}})()
    choice = CascadeInMemory(job, Aim(Ratio.parse("0.1"), "overall", 0.5, None, None, False), level, dot, -dot, 1.0)
    scored = choice.run()
    # the best come last, so nearly all are taken, but for a few that no audit sample stands for
    assert scored[level >= np.quantile(level, 0.5)].mean() > 0.8
    assert choice._state is not None
    assert choice._state.recall is not None
    assert choice._state.recall.value == 1
    assert choice._state.recall.low < 1


@pytest.mark.parametrize("how", ["hard samples", "cascade"])
def test_a_dot_that_is_not_finite_leaves_nothing_certain(
    how: str, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """N is the samples with a dot, so where a drawn one has none, how many there are is not known."""
    monkeypatch.setattr(cascade, "_AUDIT", 100)
    rng = np.random.default_rng(4)
    level, dot = rng.normal(size=900), rng.normal(size=900)
    dot[level < np.quantile(level, 0.05)] = np.nan
    job = type("Job", (), {"data": {"n_samples": 900}})()
    aim = Aim(Ratio.parse("0.1"), "overall", 0.5, None, None, False)
    cheap = np.nan_to_num(dot)
    choice = (
        InMemory(job, aim, level, dot) if how == "hard samples" else CascadeInMemory(job, aim, level, dot, cheap, 0.9)
    )
    assert choice.run().all()
    assert "without a finite dot: how many others are so is open" in caplog.text


@pytest.mark.slow
def test_a_cascade_selects_nearly_what_all_select(
    store: Path, tmp_path: Path, tiny_llama_chat_folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: Any
) -> None:
    monkeypatch.setattr(cascade, "_AUDIT", 16)
    cheap = score(store, tiny_llama_chat_folder, loss_reduction="sum")
    whole = tmp_path / "whole.duckdb"
    whole.write_bytes(store.read_bytes())
    full = score(whole, tiny_llama_chat_folder)
    summary = score(store, tiny_llama_chat_folder, for_ratio=0.1, cascade=cheap.run_id, recall=0.7)
    assert summary.n_scored < N
    wanted = chosen(whole, tiny_llama_chat_folder, ratio="0.1", run=full.run_id)
    found = chosen(store, tiny_llama_chat_folder, ratio="0.1", run=summary.run_id)
    assert len(found) == len(wanted) == 7
    assert len(set(found) & set(wanted)) >= 4
    # said each time, also where the ranking is in the store
    for _ in range(2):
        caplog.clear()
        made = diq.select("pool", model=tiny_llama_chat_folder.name, ratio=0.1, run=summary.run_id, store=store)
        assert "has found an estimated" in caplog.text
        assert made.recall is not None
        assert 0 <= made.recall["low"] <= made.recall["value"] <= made.recall["high"] <= 1
    page = diq.report("pool", selection=[made.name], output=tmp_path / "page.html", store=store).output
    words = Path(page).read_text(encoding="utf-8")
    assert "was scored by a cascade" in words
    assert "confidence, that all of it" not in words
    again = score(store, tiny_llama_chat_folder, for_ratio=0.1, cascade=cheap.run_id, recall=0.7)
    assert again.n_scored == 0
    with pytest.raises(MissingScoresError, match="was scored by a cascade"):
        chosen(store, tiny_llama_chat_folder, ratio="0.1", run=summary.run_id, validation_set=["v"])
    with pytest.raises(UsageError, match="is no cheap score of dataset"):
        score(store, tiny_llama_chat_folder, for_ratio=0.1, cascade=summary.run_id)
    # without the cascade the selection becomes certain, which no later cascade takes back
    score(store, tiny_llama_chat_folder, for_ratio=0.1)
    assert chosen(store, tiny_llama_chat_folder, ratio="0.1", run=summary.run_id) == wanted
    assert score(store, tiny_llama_chat_folder, for_ratio=0.05, cascade=cheap.run_id, recall=0.5).n_scored == 0
    assert chosen(store, tiny_llama_chat_folder, ratio="0.1", run=summary.run_id) == wanted
