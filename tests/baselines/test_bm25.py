"""BM25 against a slow form over dictionaries; growth, resume, further sets, and the selection that it makes."""

from __future__ import annotations

import json
import math
import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from baselines.test_score_text import Conversations, column, full_text, one_line, rows_of, run_row
from conftest import Commit, ingest_rows, run_killed, stdout_of
from diq import _core
from diq.base.errors import RunFailedError, UsageError
from diq.baselines.score_bm25 import score_bm25
from diq.cli import diq as command
from diq.selection.select import select
from diq.store.store import Store


def words(text: str) -> list[str]:
    """Runs of alphanumeric characters of an ASCII text, and each character of a Chinese one."""
    found, run = [], ""
    for one in text.lower() + " ":
        if one.isalnum() and one < "\u4e00":
            run += one
            continue
        found += [run] if run else []
        found += [one] if one.isalnum() else []
        run = ""
    return found


def slow(texts: list[str], questions: list[str], *, k1: float = 1.2, b: float = 0.75) -> Any:
    """``[n, m]`` the formula word by word."""
    bags = [Counter(words(text)) for text in texts]
    lengths = [bag.total() for bag in bags]
    mean = sum(lengths) / len(lengths)
    n_with = Counter(word for bag in bags for word in bag)
    found = np.zeros((len(texts), len(questions)))
    for i, bag in enumerate(bags):
        for j, question in enumerate(questions):
            for word in words(question):
                idf = math.log(1 + (len(texts) - n_with[word] + 0.5) / (n_with[word] + 0.5))
                tf = bag[word]
                found[i, j] += idf * tf / (tf + k1 * (1 - b + b * lengths[i] / mean)) if tf else 0.0
    return found


def chinese(seed: int, n: int) -> Conversations:
    rng = np.random.default_rng(seed)
    signs = "体温血压心脏肺炎发热咳嗽"
    texts = ["".join(rng.choice(list(signs), rng.integers(1, 12))) + f"，{i}" for i in range(n)]
    return [[{"role": "user", "content": text}, {"role": "assistant", "content": "好"}] for text in texts]


@pytest.fixture(scope="module")
def pool(make_samples: Callable[..., Conversations]) -> Conversations:
    return [*make_samples(40, seed=1, reasoning=True), *chinese(3, 10)]


@pytest.fixture(scope="module")
def sets(make_samples: Callable[..., Conversations]) -> dict[str, Conversations]:
    return {"a": make_samples(5, seed=2), "b": [*make_samples(2, seed=4), *chinese(5, 2)]}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, pool: Conversations, sets: dict[str, Conversations]) -> Path:
    store = tmp_path_factory.mktemp("made") / "s.duckdb"
    ingest_rows(store, pool)
    for name, rows in sets.items():
        ingest_rows(store, rows, name, validation=True)
    return store


@pytest.fixture
def filled(made: Path, tmp_path: Path) -> Path:
    return Path(shutil.copy(made, tmp_path / "s.duckdb"))


def test_words_are_told_apart() -> None:
    hashes, offsets = _core.word_hashes(["Fever, fever", "", "体温38 体"])
    assert offsets.tolist() == [0, 2, 2, 6]
    assert len(set(hashes.tolist())) == 5


@pytest.mark.parametrize("reduction", ["mean", "max"])
@pytest.mark.parametrize(("text", "k1", "b"), [("prompt", 1.2, 0.75), ("full", 0.9, 0.4), ("prompt", 0.0, 1.0)])
def test_stored_scores_equal_the_slow_form(
    filled: Path, pool: Conversations, sets: dict[str, Conversations], reduction: str, text: str, k1: float, b: float
) -> None:
    summary = score_bm25("pool", store=filled, reduction=reduction, text=text, k1=k1, b=b)
    assert (summary.n_samples, summary.n_scored, summary.n_no_score) == (50, 50, 0)
    texts = [one[0]["content"] if text == "prompt" else full_text(one) for one in pool]
    for name, rows in sets.items():
        expected = getattr(slow(texts, [one[0]["content"] for one in rows], k1=k1, b=b), reduction)(axis=1)
        found = column(filled, summary.run_id, "value", validation_set=name)
        assert np.allclose(found, expected, rtol=1e-12, atol=1e-12)
        assert expected.std() > 0.1
    row = run_row(filled, summary.run_id)
    assert (row["kind"], row["method"], row["state"]) == ("bm25", reduction, "sealed")


def test_the_largest_is_the_same_in_parts(filled: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = score_bm25("pool", store=filled, reduction="max")
    before = rows_of(filled)
    other = filled.with_name("other.duckdb")
    shutil.copy(filled, other)
    with Store(other) as opened:
        opened.connection.execute("DELETE FROM text_scores")
    monkeypatch.setattr("diq.baselines.bm25._TRANSIENT", 300)
    monkeypatch.setattr("diq.scoring.summary.READ_ROWS", 7)
    assert score_bm25("pool", store=other, reduction="max").run_id == whole.run_id
    assert rows_of(other) == before


def test_the_selection_pools_the_sets(filled: Path, pool: Conversations, sets: dict[str, Conversations]) -> None:
    score_bm25("pool", store=filled)
    texts = [one[0]["content"] for one in pool]
    scores = {name: slow(texts, [one[0]["content"] for one in rows]).mean(axis=1) for name, rows in sets.items()}
    asked: dict[tuple[str, ...], Any] = {
        (): (5 * scores["a"] + 4 * scores["b"]) / 9,
        ("b",): scores["b"],
        ("a=1", "b=3"): (scores["a"] + 3 * scores["b"]) / 4,
    }
    for names, expected in asked.items():
        selection = select("pool", ratio="1", strategy="bm25", validation_set=names, store=filled)
        with Store(filled, read_only=True) as opened:
            found = opened.connection.execute(
                "SELECT position, score FROM selection_samples WHERE selection_id = ? ORDER BY rank",
                [selection.selection_id],
            ).fetchall()
        positions, values = zip(*found, strict=True)
        assert sorted(positions) == list(range(50))
        assert np.allclose(values, expected[list(positions)], rtol=1e-12, atol=1e-12)
        assert np.all(np.diff(values) <= 0)


def test_a_further_set_is_added_and_a_grown_dataset_is_scored_again(
    filled: Path, make_samples: Callable[..., Conversations], caplog: pytest.LogCaptureFixture
) -> None:
    first = score_bm25("pool", store=filled, validation_set=["a"])
    before = rows_of(filled)
    assert score_bm25("pool", store=filled, validation_set=["a"]).n_cached == 50
    both = score_bm25("pool", store=filled)
    assert (both.run_id, both.n_scored) == (first.run_id, 50)
    assert set(before) < set(rows_of(filled))
    ingest_rows(filled, make_samples(7, seed=9))
    grown = score_bm25("pool", store=filled)
    assert grown.run_id != first.run_id
    assert (grown.n_scored, grown.n_cached) == (57, 0)
    assert f"run {grown.run_id} takes its place" in caplog.text
    # nobody has to say which run is meant
    select("pool", ratio="0.5", strategy="bm25", store=filled)
    status = json.loads(stdout_of(command, "status", "--json", "--store", filled))
    assert {(one["run_id"], one["n_scored"]) for one in status["coverage"]} == {(grown.run_id, 57)}
    # the grown dataset is what one that was always so large is
    fresh = filled.with_name("fresh.duckdb")
    shutil.copy(filled, fresh)
    with Store(fresh) as opened:
        opened.connection.execute("DELETE FROM text_scores")
    score_bm25("pool", store=fresh)
    assert [row for row in rows_of(filled) if row[0] == grown.run_id] == rows_of(fresh)


@pytest.mark.slow
@pytest.mark.exhaustive
def test_killed_in_the_middle_it_ends_with_the_same_rows(filled: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small = {"diq.scoring.summary.SHARD_SECONDS": 0.0, "diq.scoring.summary.READ_ROWS": 10}
    monkeypatch.setattr("diq.scoring.summary.READ_ROWS", 10)
    killed = Path(shutil.copy(filled, filled.with_name("k.duckdb")))
    score_bm25("pool", store=filled)
    run_killed(score_bm25, "pool", commit=Commit("after", 3), patches=small, store=killed)
    held = len(rows_of(killed))
    assert 0 < held < 100
    score_bm25("pool", store=killed)
    assert rows_of(killed) == rows_of(filled)


def test_texts_without_a_word_and_bad_requests(filled: Path, tmp_path: Path) -> None:
    def ask(text: str) -> list[dict[str, str]]:
        return [{"role": "user", "content": text}, {"role": "assistant", "content": "a"}]

    ingest_rows(filled, [ask("..."), ask("fever?")], "odd")
    summary = score_bm25("odd", store=filled)
    assert summary.reasons == {"the text has no word": 1}
    ingest_rows(filled, [ask("?!")], "silent", validation=True)
    with pytest.raises(RunFailedError, match="no question of the validation set `silent` has a word") as caught:
        score_bm25("pool", store=filled, validation_set=["silent"])
    one_line(caught)
    for change, message in (
        ({"validation_set": ["aa"]}, "no validation set named `aa`"),
        ({"b": 1.5}, "b"),
        ({"k1": -1.0}, "k1"),
        ({"reduction": "sum"}, "reduction `sum`"),
    ):
        with pytest.raises(UsageError, match=message) as refused:
            score_bm25("pool", store=filled, **change)
        one_line(refused)
