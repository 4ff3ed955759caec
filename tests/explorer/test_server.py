"""The server with a real client: answers against numpy and against `diq select`, and what is refused."""

from __future__ import annotations

import json
import re
import shlex
import socket
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

import diq
from conftest import fill_store, ingest_rows, invoke
from diq.base.errors import MissingScoresError, RunFailedError, StoreError, UsageError
from diq.cli.explore import explore as command
from diq.explorer.columns import choose, read_table
from diq.explorer.session import Session
from diq.selection.scores import Request, Runs, read_scores
from diq.store.store import Store
from explorer.conftest import TASKS, Page, make_store

Serve = Callable[..., Page]
ANY = {"dataset": None, "model": None, "difficulty": "overall", "run": None, "difficulty_run": None}


# reading -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("weights", [None, {"medqa": 2.0}, {"medqa": 0.35, "pub'qa": 1.15}])
def test_columns_are_those_that_a_selection_ranks_by(pool: Path, weights: dict[str, float] | None) -> None:
    from diq.influence.stored import pool_dots

    choice = choose(pool, **ANY)
    table = read_table(choice)
    request = Request("diq", model=choice.model, difficulty="overall", percentile=0.5, influence="dot")
    with Store(pool, read_only=True) as opened:
        runs = Runs(choice.influence_run, choice.difficulty_run)
        scores = read_scores(opened, choice.data, request, runs, weights)
    np.testing.assert_array_equal(table.position, scores.position)
    np.testing.assert_array_equal(table.level, scores.level)
    np.testing.assert_array_equal(pool_dots(table.dots, choice.sets, weights), scores.dot)
    assert len(table.sources) == 2
    np.testing.assert_array_equal(table.source, np.arange(600) >= 300)


def test_scores_in_another_order_and_of_another_dataset_are_put_right(tmp_path: Path, pool: Path) -> None:
    path = tmp_path / "s.duckdb"
    path.write_bytes(pool.read_bytes())
    with Store(path) as opened:
        opened.connection.execute(
            "CREATE TABLE moved AS SELECT * FROM influence_scores ORDER BY hash(sample_id);"
            "DELETE FROM influence_scores; INSERT INTO influence_scores SELECT * FROM moved; DROP TABLE moved;"
            "INSERT INTO influence_scores (run_id, sample_id, validation_set_id, dot) "
            "SELECT run_id, uuid(), validation_set_id, 9 FROM influence_scores LIMIT 5"
        )
    one, other = read_table(choose(pool, **ANY)), read_table(choose(path, **ANY))
    for task in TASKS:
        np.testing.assert_array_equal(one.dots[task], other.dots[task])


def test_what_is_missing_names_the_command_that_makes_it(tmp_path: Path) -> None:
    with pytest.raises(StoreError):
        choose(tmp_path / "none.duckdb", **ANY)
    texts = ["a", "b", "c"]
    (tmp_path / "bare").mkdir()
    bare = make_store(tmp_path / "bare" / "s.duckdb", texts, overall=None, **dict.fromkeys(TASKS))
    with pytest.raises(MissingScoresError, match="none has any") as caught:
        choose(bare, **ANY)
    assert "diq score difficulty" in caught.value.hint
    assert "diq score influence" in caught.value.hint
    with pytest.raises(MissingScoresError, match="no influence scores on dataset `pool`: found 0 of 3"):
        choose(bare, **{**ANY, "dataset": "pool"})
    (tmp_path / "half").mkdir()
    half = make_store(tmp_path / "half" / "s.duckdb", texts, **dict.fromkeys(TASKS))
    with pytest.raises(MissingScoresError, match="`pool` has difficulty"):
        choose(half, **ANY)
    with pytest.raises(MissingScoresError, match="its difficulty is scored: run 1"):
        choose(half, **{**ANY, "dataset": "pool"})
    with pytest.raises(UsageError, match="no dataset named `poll`"):
        choose(half, **{**ANY, "dataset": "poll"})
    (tmp_path / "dots").mkdir()
    dots = make_store(tmp_path / "dots" / "s.duckdb", texts, overall=None)
    with pytest.raises(MissingScoresError, match="no difficulty scores on dataset `pool`") as caught:
        choose(dots, **{**ANY, "dataset": "pool"})
    assert "diq score difficulty pool" in caught.value.hint
    with pytest.raises(UsageError, match="no model named `other`"):
        choose(dots, **{**ANY, "dataset": "pool", "model": "other"})


def test_a_run_that_was_scored_in_part_is_not_shown_as_a_whole(pool: Path, tmp_path: Path) -> None:
    path = tmp_path / "s.duckdb"
    path.write_bytes(pool.read_bytes())
    with Store(path) as opened:
        opened.connection.execute(
            "UPDATE run_datasets SET state = 'open', certificate = '{}' "
            "WHERE run_id IN (SELECT run_id FROM runs WHERE kind = 'influence')"
        )
    with pytest.raises(MissingScoresError, match="are not finished") as caught:
        choose(path, **{**ANY, "dataset": "pool", "model": "mo<b>del"})
    assert "scores the rest of a run that was scored in part" in caught.value.hint


def test_a_folder_goes_by_its_name(pool: Path) -> None:
    choice = choose(pool, **{**ANY, "model": "/somewhere/mo<b>del/"})
    assert (choice.model, choice.source) == ("mo<b>del", "/somewhere/mo<b>del/")


# answers -----------------------------------------------------------------------------------------------------------


def test_a_view_counts_what_numpy_counts(pool: Path, serve: Serve) -> None:
    page = serve(pool)
    facts, counts = page.view(filters={"difficulty": {"low": 3, "high": 5}, "source": {"values": [1]}}, ratio="0.2")
    table = page.session.table
    influence = (table.dots["medqa"] + table.dots["pub'qa"]) / 2
    ranking = diq.rank(influence, table.level, ratio="0.2")
    selected = np.zeros(600, bool)
    selected[ranking.rows] = True
    assert facts["n_selected"] == len(ranking.rows)
    assert (facts["tau"], facts["median"], facts["quadrants"]) == (ranking.tau, ranking.median, list(ranking.counts))
    passing = (table.level >= 3) & (table.level < 5) & (table.source == 1)
    assert sum(facts["passing"]) == passing.sum()
    assert facts["passing"][1] == (passing & selected).sum()
    levels = counts["difficulty"].sum(1)
    other = table.level[table.source == 1]
    expected = [*(np.sum(other == x) for x in range(1, 6)), np.sum(np.isnan(other))]
    np.testing.assert_array_equal(levels, expected)
    brushed = table.source[(table.level >= 3) & (table.level < 5)]
    np.testing.assert_array_equal(counts["source"].sum(1), np.bincount(brushed, minlength=2))
    assert counts["plane"].sum() == np.sum((table.source == 1) & np.isfinite(table.level) & np.isfinite(influence))
    assert counts["task:1"][-1].sum() == (passing & np.isnan(table.dots["pub'qa"])).sum()
    notes = " ".join(page.client.get("/api/facts").json()["notes"])
    assert "60 of 600 samples have no finite dot with the validation set `pub'qa`" in notes
    assert "15 of 600 samples have no difficulty" in notes


def notes_of(path: Path) -> list[str]:
    """What a page over a store tells of what is missing."""
    session = Session(choose(path, **{**ANY, "dataset": "pool"}))
    session.load()
    notes: list[str] = session.facts()["notes"]
    return notes


def test_notes_name_nothing_but_what_the_shown_runs_lack(tmp_path: Path) -> None:
    path = tmp_path / "s.duckdb"
    dots = {"medqa": np.arange(30.0), "pubmedqa": np.arange(30.0) ** 2}
    fill_store(path, dots=dots, difficulty=np.arange(30.0) % 5)
    # a validation set that is held out, for the losses of trainings, say
    ingest_rows(path, [{"question": f"held out {i}?", "answer": "A."} for i in range(3)], "held-out", validation=True)
    assert notes_of(path) == []
    with Store(path) as store:
        # rows that a scoring refused, and samples that came after it
        store.connection.execute(
            "UPDATE influence_scores SET dot = NULL, reason = 'no answer token is left within the maximum length' "
            "WHERE validation_set_id = 2 AND dot < 4;"
            "DELETE FROM difficulty_scores WHERE overall = 4 "
        )
    assert notes_of(path) == [
        "6 of 30 samples have no difficulty and are in no quadrant: not scored yet (6); "
        "`diq score difficulty pool --columns DIMENSION=COLUMN` fills them in",
        "2 of 30 samples have no finite dot with the validation set `pubmedqa` and are in no quadrant as long as it "
        "counts: no answer token is left within the maximum length (2)",
    ]
    with Store(path) as store:
        store.connection.execute("DELETE FROM influence_scores WHERE validation_set_id = 2 AND dot = 16")
    (_, note) = notes_of(path)
    assert note.endswith(
        "(2); not scored yet (1); `diq score influence pool --model model --validation-set pubmedqa` fills them in"
    )


def test_scores_from_elsewhere_are_ingested_not_scored(pool: Path, tmp_path: Path, serve: Serve) -> None:
    difficulty, dots = serve(pool).facts()["notes"]
    assert "15 of 600 samples have no difficulty" in difficulty
    assert difficulty.endswith("`diq ingest FILE --scores --dataset pool` fills them in")
    assert dots.endswith(
        "`diq ingest FILE --scores --dataset pool --model 'mo<b>del' --validation-set \"pub'qa\"` fills them in"
    )
    # a dataset that lacks a set of the run as a whole
    path = tmp_path / "s.duckdb"
    path.write_bytes(pool.read_bytes())
    with Store(path) as opened:
        opened.connection.execute("DELETE FROM influence_scores WHERE validation_set_id = 2")
    page = serve(path)
    assert "600 of 600 samples have no finite dot" in page.facts()["notes"][1]
    assert page.view()[0]["n_scored"] == 0
    assert page.view(weights={"medqa": 1})[0]["n_scored"] == 585


def test_an_absolute_threshold_takes_the_place_of_the_percentile(pool: Path, serve: Serve) -> None:
    page = serve(pool)
    table = page.session.table
    influence = (table.dots["medqa"] + table.dots["pub'qa"]) / 2
    for threshold in (1.0, 2.5, 5.0):
        expected = diq.rank(influence, table.level, threshold=threshold)
        # a larger ratio is answered from the same order
        for ratio in ("0.05", "0.9"):
            facts, _ = page.view(threshold=threshold, percentile=0.2, ratio=ratio)
            assert (facts["tau"], facts["quadrants"]) == (threshold, list(expected.counts))
            rows = page.session.answers.would_be(_look(page, threshold=threshold, ratio=ratio)).rows
            np.testing.assert_array_equal(rows, expected.rows[: len(rows)])
            assert facts["n_selected"] == len(rows) == int(expected.n_scored * float(ratio))
    assert page.view(percentile=0.2)[0]["tau"] == diq.rank(influence, table.level, percentile=0.2).tau
    assert page.facts()["levels"] == [1, 5, True]


def test_a_part_is_looked_at_until_all_samples_are_read(pool: Path, serve: Serve, gate: threading.Event) -> None:
    page = serve(pool, wait=False)
    while page.facts()["state"] == "reading":
        pass
    facts, whole = page.facts(), read_table(page.session.choice)
    part = page.session.table
    assert facts["reading"]
    assert (facts["n"], facts["n_samples"]) == (len(part), 600)
    # ids are hashes, so a tenth of them is about a tenth of the samples, from both sources
    assert 30 < len(part) < 100
    assert facts["names"]["source"] == whole.sources
    assert set(part.source.tolist()) == {0, 1}
    rows = whole.rows_of(part.position.tolist())
    np.testing.assert_array_equal(part.level, whole.level[rows])
    for task in TASKS:
        np.testing.assert_array_equal(part.dots[task], whole.dots[task][rows])
    asked = {"filters": {"difficulty": {"low": 2.0, "high": 5.0}}}
    assert sum(page.view(**asked)[0]["passing"]) == np.sum((part.level >= 2) & (part.level < 5))
    position = int(part.position[-1])
    assert page.ask("sample", positions=[position])["position"] == position
    absent = next(i for i in range(600) if i not in part.position)
    assert f"no sample at position {absent}" in page.refusal("sample", positions=[absent])
    for made in ("save", "export", "filter"):
        assert f"{len(part)} of 600 samples are read" in page.refusal(made)
    gate.set()
    page.wait()
    assert page.facts()["n"] == 600
    assert sum(page.view(**asked)[0]["passing"]) == np.sum((whole.level >= 2) & (whole.level < 5))
    # what was named before still means the same sample
    scores = page.ask("sample", positions=[position])["scores"]
    assert scores["task:0"] == page.ask("table", first=position)["rows"][0]["task:0"] == whole.dots[TASKS[0]][position]
    assert page.ask("filter")["sql"]


def test_a_quick_view_is_of_a_part_multiplied_on_the_axes_of_all(
    pool: Path, serve: Serve, gate: threading.Event
) -> None:
    gate.set()
    page = serve(pool)
    assert page.facts()["quick"]
    part = read_table(page.session.choice, part=60 / 600)
    times = 600 / len(part)
    weights = {TASKS[0]: 1.0, TASKS[1]: 0.5}
    exact, counts = page.view(ratio="0.2")
    asked = {"ratio": "0.2", "filters": {"difficulty": {"low": 2.0, "high": 5.0}}}
    quick, multiplied = page.view(**asked, quick=True)
    assert (exact["approximate"], quick["approximate"]) == (False, True)
    assert quick["n"] == exact["n"] == 600
    assert sum(quick["passing"]) == pytest.approx(np.sum((part.level >= 2) & (part.level < 5)) * times, abs=2)
    scored = np.isfinite(part.level) & np.isfinite(part.dots[TASKS[1]])
    assert quick["n_scored"] == round(scored.sum() * times)
    assert sum(quick["quadrants"]) == pytest.approx(quick["n_scored"], abs=2)
    # within what a tenth of 600 samples can tell
    assert quick["n_selected"] == pytest.approx(exact["n_selected"], rel=0.25)
    for one, other in zip(exact["columns"], quick["columns"], strict=True):
        assert one.get("edges") == other.get("edges")
        assert counts[one["key"]].shape == multiplied[one["key"]].shape
    # other weights are drawn on the axes that are seen, until all samples are asked
    moved = page.view(ratio="0.2", weights=weights, quick=True)[0]
    assert moved["columns"][1]["edges"] == exact["columns"][1]["edges"]
    settled = page.view(ratio="0.2", weights=weights)[0]
    assert settled["columns"][1]["edges"] != exact["columns"][1]["edges"]
    moved = page.view(ratio="0.2", weights=weights, quick=True)[0]
    assert moved["columns"][1]["edges"] == settled["columns"][1]["edges"]
    # a threshold is judged by all samples, of which a part may lack the highest levels
    part.level[part.level > 3] = 1.0
    page.session._part.table.level[:] = part.level  # type: ignore[union-attr]
    assert page.view(threshold=4, quick=True)[0]["tau"] == 4
    assert "outside the data" in page.refusal("view", threshold=6)


def test_the_table_sorts_and_pages(pool: Path, serve: Serve) -> None:
    page = serve(pool)
    values = page.session.table.dots["medqa"]
    order = np.argsort(-values, kind="stable")
    for first in (0, 25, 590):
        rows = page.ask("table", sort="task:0", descending=True, first=first, count=25)["rows"]
        assert [row["position"] for row in rows] == order[first : first + 25].tolist()
    rows = page.ask("table", sort="task:1", first=595, count=25)["rows"]
    assert [row["task:1"] for row in rows] == [None] * 5
    assert page.ask("table", first=2**32, count=1)["rows"] == []
    rows = page.ask("table", filters={"quadrant": {"values": [0]}}, count=200)["rows"]
    assert {row["quadrant"] for row in rows} == {0}
    starts = page.ask("starts", positions=[4, 2])["starts"]
    assert starts == {"2": "question 2 about topic 2", "4": "question 4 about topic 4"}
    sample = page.ask("sample", positions=[301])
    assert sample["messages"][0]["content"] == "question 301 about topic 0"
    assert sample["places"][0]["line"] == 2


@pytest.mark.parametrize(
    "look",
    [
        {},
        {"ratio": "37%", "percentile": 0.81},
        {"ratio": "0.57", "weights": {"medqa": 0.35, "pub'qa": 1.15}},
        {"ratio": "1", "weights": {"medqa": 2, "pub'qa": 0}, "percentile": 0},
        {"ratio": "0.4", "threshold": 4, "percentile": 0.9},
        {"ratio": "0.4", "threshold": 2.5, "weights": {"medqa": 2, "pub'qa": 1}},
    ],
)
def test_what_is_saved_is_what_was_shown_and_what_the_command_makes(
    pool: Path, tmp_path: Path, serve: Serve, look: dict[str, Any]
) -> None:
    path = tmp_path / "a b.duckdb"
    path.write_bytes(pool.read_bytes())
    page = serve(path)
    facts, _ = page.view(**look)
    shown = []
    while len(shown) < facts["n_selected"]:
        asked = {"filters": {"selected": {"values": [1]}}, "first": len(shown), "count": 200, **look}
        shown += [row["position"] for row in page.ask("table", **asked)["rows"]]
    made = page.ask("save", name="it's <mine>", **look)
    assert made["same"]
    assert made["n"] == facts["n_selected"]
    with Store(path, read_only=True) as opened:
        read = "SELECT position FROM selection_samples WHERE selection_id = ? ORDER BY position"
        saved = [row[0] for row in opened.connection.execute(read, [made["selection_id"]]).fetchall()]
    assert saved == sorted(shown)
    # the command is the same selection: it is found again, not made anew
    from conftest import stdout_of
    from diq.cli import diq as root

    words = shlex.split(made["command"])
    assert words[:2] == ["diq", "select"]
    assert ("--difficulty-threshold" in words) == ("threshold" in look)
    again = json.loads(stdout_of(root, "select", "--json", *words[2:]))
    assert (again["selection_id"], again["ranking"]) == (made["selection_id"], "stored")
    # and it can be compared with
    facts, _ = page.view(compare=made["selection_id"], **look)
    assert facts["compare"] == {"both": made["n"], "only_this": 0, "only_other": 0}


def test_another_selection_is_compared_also_where_its_ranking_was_replaced(
    pool: Path, tmp_path: Path, serve: Serve
) -> None:
    path = tmp_path / "s.duckdb"
    path.write_bytes(pool.read_bytes())
    made = diq.select("pool", ratio="0.3", model="mo<b>del", store=path, name="old")
    with Store(path, read_only=True) as opened:
        read = "SELECT position FROM selection_samples WHERE selection_id = ?"
        old = {row[0] for row in opened.connection.execute(read, [made.selection_id]).fetchall()}
    with Store(path) as opened:
        opened.connection.execute("UPDATE influence_scores SET dot = -dot")
    diq.select("pool", ratio="0.3", model="mo<b>del", store=path, name="new")
    page = serve(path)
    listed = {one["name"]: one for one in page.ask("selections")["selections"]}
    assert (listed["old"]["replaced"], listed["new"]["replaced"]) == (True, False)
    facts, _ = page.view(ratio="0.3", compare=listed["old"]["selection_id"])
    selected = set(np.flatnonzero(page.session.answers.would_be(_look(page, ratio="0.3")).selected).tolist())
    both = len(selected & old)
    assert facts["compare"] == {"both": both, "only_this": len(selected) - both, "only_other": len(old) - both}
    # one that is not there is empty
    facts, _ = page.view(compare=99)
    assert facts["compare"]["only_other"] == 0


def _look(page: Page, **body: Any) -> Any:
    from diq.explorer.requests import read_look

    choice = page.session.choice
    return read_look(body, choice.numbers, page.session.answers.names, choice.set_names)


BRUSHES: list[dict[str, Any]] = [
    {},
    {"difficulty": {"low": 2, "high": 4}},
    {"influence": {"low": -0.5, "high": 0.75}, "task:1": {"low": None, "high": 0.1}},
    {"quadrant": {"values": [1, 3]}, "source": {"values": [1]}},
    {"quadrant": {"values": [0, 2]}, "selected": {"values": [0]}},
    {"selected": {"values": [1]}, "task:0": {"low": 0.3, "high": None}},
    {"source": {"values": []}},
]


@pytest.mark.parametrize("filters", BRUSHES, ids=str)
@pytest.mark.parametrize(
    ("weights", "threshold"), [(None, None), ({"medqa": 0.35, "pub'qa": 1.15}, 4)], ids=["all", "weighed"]
)
def test_a_brush_leaves_as_jsonl_and_as_sql(
    pool: Path, serve: Serve, filters: Any, weights: Any, threshold: float | None
) -> None:
    page = serve(pool)
    look = {"filters": filters, "weights": weights, "percentile": 0.4, "threshold": threshold, "ratio": "0.25"}
    answer = page.client.post("/api/export", json=look)
    assert answer.headers["content-disposition"].startswith("attachment")
    lines = [json.loads(line) for line in answer.text.splitlines()]
    facts, _ = page.view(**look)
    assert len(lines) == sum(facts["passing"])
    sql = page.ask("filter", **look)["sql"]
    with Store(pool, read_only=True) as opened:
        found = opened.connection.execute(sql).fetchall()
    assert [(str(sample), position) for sample, position in found] == [
        (line["sample_id"], line["position"]) for line in lines
    ]
    for line in lines[:3]:
        assert line["messages"][0]["content"].startswith(f"question {line['position']} ")
        assert set(line["dots"]) == set(TASKS)


def test_an_export_that_fails_is_no_file(
    pool: Path, tmp_path: Path, serve: Serve, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    from diq.explorer import saving

    path = tmp_path / "s.duckdb"
    path.write_bytes(pool.read_bytes())
    page = serve(path)
    whole = page.client.post("/api/export", json={}).content
    assert len(whole.splitlines()) == 600
    # from the start: a refusal in place of a file
    path.rename(tmp_path / "away.duckdb")
    assert "there is no store" in page.refusal("export")
    (tmp_path / "away.duckdb").rename(path)
    # in the middle: the answer has no end, which no client takes for one
    monkeypatch.setattr(saving, "_BATCH", 100)
    opened = []

    class Taken(Store):
        def __init__(self, *arguments: Any, **options: Any) -> None:
            opened.append(arguments)
            if len(opened) == 4:
                raise StoreError("the store is held by another process")
            super().__init__(*arguments, **options)

    monkeypatch.setattr(saving, "Store", Taken)
    with pytest.raises(httpx.RemoteProtocolError):
        page.client.post("/api/export", json={})
    assert "an export broke off: the store is held" in caplog.text
    # and nobody else is troubled by it
    assert page.ask("filter")["sql"]


@pytest.mark.parametrize(
    ("texts", "columns"),
    [
        (["only"], {}),
        (["a", "b", "c"], dict.fromkeys(TASKS, np.full(3, 0.5))),
        (["a", "b"], dict.fromkeys(TASKS, np.array([1e308, -1e308]))),
        (["a", "b", "c"], {"overall": np.array([1.5, 2.25, np.nan])}),
    ],
    ids=["one", "alike", "huge", "missing"],
)
def test_small_and_strange_pools_have_a_view(
    tmp_path: Path, serve: Serve, texts: list[str], columns: dict[str, Any]
) -> None:
    page = serve(make_store(tmp_path / "s.duckdb", texts, **columns))
    for kind in ("linear", "symlog", "rank", "strips"):
        facts, counts = page.view(ratio="1", axes={"influence": kind, "difficulty": kind, "loss": kind})
        assert counts["influence"].sum() == len(texts)
        assert facts["n_selected"] == facts["n_scored"]
    assert len(page.ask("table", sort="loss")["rows"]) == len(texts)
    if "alike" in page.client.get("/api/facts").text:
        assert "all dots" in page.client.get("/api/facts").text


def test_token_colours_say_what_they_lack(pool: Path, serve: Serve) -> None:
    assert "start the page with the model itself" in serve(pool).refusal("tokens", positions=[0])
    # the scores of this store came without the samples of their validation sets
    assert "has no samples in the store" in serve(pool, model="/nowhere/mo<b>del").refusal("tokens", positions=[0])


def test_a_store_that_a_writer_holds_is_told_and_then_read(
    pool: Path, tmp_path: Path, serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    from diq.explorer import texts

    monkeypatch.setattr(texts, "_WAIT_S", 0.05)
    path = tmp_path / "s.duckdb"
    path.write_bytes(pool.read_bytes())
    page = serve(path)
    # the page is up, so the store is free for a writer
    with Store(path, wait_s=0):
        assert "is held by" in page.refusal("sample", positions=[0])
        assert sum(page.view()[0]["passing"]) == 600
    assert page.ask("sample", positions=[0])["position"] == 0


# what is refused ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("body", "told"),
    [
        ({"ratio": "2"}, "outside (0, 1]"),
        ({"ratio": 0.1}, "not a text"),
        ({"ratio": "nan"}, "outside"),
        ({"ratio": "1e-999999999"}, "below 1e-18"),
        ({"percentile": 1.5}, "0 to 1"),
        ({"percentile": "0.5"}, "not a number"),
        ({"percentile": True}, "not a number"),
        ({"threshold": "3"}, "not a number"),
        ({"threshold": [3]}, "not a number"),
        ({"threshold": 5.5}, "outside the data: overall goes from 1 to 5"),
        ({"weights": {"medqa": -1}}, "0 to a million"),
        ({"weights": {"medqa": 1e300}}, "0 to a million"),
        ({"weights": {"medqa": 0, "pub'qa": 0}}, "every weight is 0"),
        ({"weights": {"x": 1}}, "no validation set named"),
        ({"weights": [1]}, "validation sets with"),
        ({"filters": {"dot; DROP TABLE samples": {}}}, "names no column"),
        ({"filters": {"difficulty": {"low": "1 OR 1=1"}}}, "not a number"),
        ({"filters": {"source": {"values": [7]}}}, "whole number"),
        ({"filters": {"source": {"values": [0.5]}}}, "whole number"),
        ({"filters": {"quadrant": {"low": 1}}}, "a list"),
        ({"filters": []}, "names with values"),
        ({"axes": {"influence": "cubic"}}, "one of"),
        ({"axes": {"source": "linear"}}, "names no column"),
        ({"height": "source"}, "names no column"),
        ({"compare": "1"}, "whole number"),
        ({"compare": 2**63}, "whole number"),
    ],
    ids=str,
)
def test_wrong_questions_are_told(pool: Path, serve: Serve, body: dict[str, Any], told: str) -> None:
    assert told in serve(pool).refusal("view", **body)


LOOKS: list[dict[str, Any]] = [
    {},
    {"ratio": "37%", "threshold": 2.5, "percentile": 0.25, "weights": {"pub'qa": 2, "medqa": 0}, "compare": 7},
    {
        "filters": {"difficulty": {"low": 2, "high": None}, "task:1": {"low": -1e300, "high": 0.5}},
        "axes": {"influence": "rank", "loss": "linear"},
        "height": "task:0",
    },
    {"filters": {"quadrant": {"values": [3, 1, 3]}, "source": {"values": []}, "selected": {"values": [0]}}},
]


@pytest.mark.parametrize("look", LOOKS, ids=str)
def test_a_look_that_is_remembered_is_read_as_any_other(pool: Path, serve: Serve, look: dict[str, Any]) -> None:
    page = serve(pool)
    kept = page.ask("look", **look, sort="loss", descending=True, colour="density")
    assert kept["order"] == {"sort": "loss", "descending": True}
    assert _look(page, **kept["look"]) == _look(page, **look)
    assert page.ask("look", **kept["look"])["look"] == kept["look"]
    assert page.ask("look", sort="position")["order"] == {"sort": "position", "descending": False}


def test_a_remembered_look_that_is_wrong_is_refused(pool: Path, serve: Serve) -> None:
    page = serve(pool)
    assert "names no column" in page.refusal("look", filters={"dot; DROP TABLE samples": {}})
    assert "names no column" in page.refusal("look", sort="<script>")
    assert "no validation set named" in page.refusal("look", weights={"__proto__": 1})
    assert "true or false" in page.refusal("look", descending="yes")


def test_wrong_pages_positions_and_names_are_told(pool: Path, serve: Serve) -> None:
    page = serve(pool)
    assert "names no column" in page.refusal("table", sort="x")
    assert "whole number" in page.refusal("table", first=-1)
    assert "whole number" in page.refusal("table", count=10**6)
    assert "true or false" in page.refusal("table", descending=1)
    assert "no sample at position 600" in page.refusal("sample", positions=[600])
    assert "one position" in page.refusal("sample", positions=[1, 2])
    assert "a list of at most" in page.refusal("starts", positions="all")
    assert "reads as a number" in page.refusal("save", name="12")
    assert "selects none" in page.refusal("save", ratio="0.0001")
    client = page.client
    json_type = {"content-type": "application/json"}
    for content in (b"", b"[]", b"{", b'{"ratio": NaN}', b"\xff", b"[" * 200_000):
        assert client.post("/api/view", content=content, headers=json_type).status_code == 400
    assert client.post("/api/view", content=b"{}" + b" " * (1 << 18), headers=json_type).status_code == 400
    huge = b'{"percentile": 1' + b"0" * 400 + b"}"
    assert client.post("/api/view", content=huge, headers=json_type).status_code == 400
    # forms, which other sites can send, are no questions
    assert client.post("/api/save", data={"ratio": "0.1"}).status_code == 400
    assert client.get("/api/save").status_code == 405


# who may ask -------------------------------------------------------------------------------------------------------


def test_only_the_page_itself_is_answered(pool: Path, serve: Serve) -> None:
    page = serve(pool)
    origin, port, token = page.origin, page.server.port, page.server.token
    with httpx.Client(base_url=origin) as bare:
        assert bare.get("/").status_code == 403
        assert bare.get("/?token=").status_code == 403
        assert bare.get(f"/?token={token[:-1]}").status_code == 403
        assert bare.get("/?token=%C3%A9%00").status_code == 403
        assert bare.get(f"/static/main.js?token={token}").status_code == 403
        assert bare.post("/api/view", json={}).status_code == 403
        opened = bare.get(f"/?token={token}")
        assert opened.status_code == 200
        cookie = opened.headers["set-cookie"]
        assert "HttpOnly" in cookie
        assert "SameSite=Strict" in cookie
        # the cookie of this answer is enough from here on
        assert bare.get("/static/main.js").status_code == 200
        assert bare.post("/api/view", json={}).status_code == 200
        for headers in (
            {"origin": "http://evil.example"},
            {"origin": "null"},
            {"origin": f"http://127.0.0.1:{port + 1}"},
            {"origin": f"https://127.0.0.1:{port}"},
            {"host": f"evil.example:{port}"},
            {"host": "127.0.0.1"},
            {"host": f"127.0.0.1:{port}.evil.example"},
            {"sec-fetch-site": "cross-site"},
            {"sec-fetch-site": "same-site"},
        ):
            assert bare.post("/api/view", json={}, headers=headers).status_code == 403, headers
            assert bare.get("/", headers=headers).status_code == 403, headers
        assert bare.post("/api/view", json={}, headers={"origin": origin}).status_code == 200
        assert bare.get("/", headers={"host": f"localhost:{port}"}).status_code == 200


def test_every_answer_carries_the_policy_and_no_file_leaves_its_folder(pool: Path, serve: Serve) -> None:
    page = serve(pool)
    for path in ("/", "/static/main.js", "/api/facts", "/nothing"):
        policy = page.client.get(path).headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "unsafe" not in policy
        assert page.client.get(path).headers["x-content-type-options"] == "nosniff"
    paths = ("../server.py", "..%2fserver.py", "%2e%2e/server.py", "..%5cserver.py", "main.js%00", "/etc/passwd", "")
    for path in paths:
        answer = page.client.get(f"/static/{path}")
        assert answer.status_code == 404, path
        assert "import" not in answer.text
    html = page.client.get("/").text
    assert "style=" not in html
    assert " on" not in html.partition("<body>")[2].replace(" on request", "").replace(" only", "").replace(" once", "")


def test_nothing_but_this_machine_is_listened_to(pool: Path, serve: Serve) -> None:
    page = serve(pool)
    assert page.server.address.startswith("http://127.0.0.1:")
    assert page.server._socket.getsockname()[0] == "127.0.0.1"


def test_a_port_in_use_is_told(pool: Path, tmp_path: Path) -> None:
    with socket.socket() as busy:
        busy.bind(("127.0.0.1", 0))
        busy.listen()
        with pytest.raises(RunFailedError, match="cannot be listened on") as caught:
            diq.explore("pool", store=pool, port=busy.getsockname()[1], browser=False)
        assert "--port" in caught.value.hint


@pytest.fixture
def unserved(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Pages that end at once, on a machine without a browser; the addresses that one was asked to open."""
    import webbrowser

    from diq.explorer import server

    asked: list[str] = []

    def none(address: str) -> bool:
        asked.append(address)
        raise webbrowser.Error("there is none")

    def run(self: server.Server) -> None:
        # what Ctrl-C does to a running server
        self._socket.close()
        raise KeyboardInterrupt

    monkeypatch.setattr(webbrowser, "open", none)
    monkeypatch.setattr(server.Server, "run", run)
    return asked


def test_without_a_browser_the_address_is_told(
    pool: Path, unserved: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    diq.explore(store=pool)
    assert unserved[0] in caplog.text
    caplog.clear()
    told: list[str] = []
    diq.explore(store=pool, browser=False, listener=told.append)
    assert told[0].startswith("http://127.0.0.1:")
    assert caplog.text == "", "who is told it need not read it twice"
    assert len(unserved) == 1


def test_the_command_prints_the_address_on_a_plain_line(pool: Path, unserved: list[str]) -> None:
    for options in ([], ["--no-browser"]):
        done = invoke(command, "--store", pool, *options)
        assert done.exit_code == 0, done.output
        assert re.fullmatch(
            r"the page is at http://127\.0\.0\.1:\d+/\?token=\S+ \(stop it with Ctrl-C\)\n", done.stdout
        )
        assert done.stderr == ""
    assert len(unserved) == 1


def test_a_page_can_ask_many_things_at_once(pool: Path, serve: Serve) -> None:
    page = serve(pool)
    answers: list[int] = []

    def ask(i: int) -> None:
        with httpx.Client(base_url=page.origin, headers={"x-diq-token": page.server.token}, timeout=60) as client:
            answers.append(client.post("/api/view", json={"percentile": i / 20}).status_code)
            answers.append(client.post("/api/sample", json={"positions": [i]}).status_code)

    threads = [threading.Thread(target=ask, args=(i,)) for i in range(12)]
    for one in threads:
        one.start()
    for one in threads:
        one.join()
    assert answers == [200] * 24
