"""Scoring difficulty in the store: the same bits whatever was there, reasons, cut texts, ties."""

from __future__ import annotations

import json
import logging
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from conftest import ingest_rows
from diq.base.config import DIFFICULTY_DIMENSIONS
from diq.base.errors import UsageError
from diq.difficulty.classifier import find_classifier
from diq.difficulty.score import score_difficulty
from diq.scoring.encoder import EMPTY, NOT_FINITE
from diq.store.store import Store

Conversations = list[list[dict[str, str]]]


def fill(tmp_path: Path, pool: Conversations, name: str = "s") -> Path:
    store = tmp_path / f"{name}.duckdb"
    ingest_rows(store, pool)
    return store


def rows_of(store: Path, run_id: int | None = None) -> list[tuple[Any, ...]]:
    with Store(store, read_only=True) as opened:
        return opened.connection.execute(
            "SELECT d.position, f.knowledge, f.reasoning, f.overall, f.knowledge_level, f.reasoning_level, "
            "f.overall_level, f.reason FROM difficulty_scores AS f JOIN dataset_samples AS d USING (sample_id) "
            "WHERE f.run_id = ? OR ? IS NULL ORDER BY 1",
            [run_id, run_id],
        ).fetchall()


@pytest.fixture
def pool(make_samples: Callable[..., Conversations]) -> Conversations:
    return make_samples(90, seed=1, longest=50)


@pytest.mark.slow
@pytest.mark.parametrize("lost", ["position % 3 = 0", "position < 11", "position = 57"])
def test_whatever_was_scored_before_the_bits_are_the_same(
    lost: str, tmp_path: Path, pool: Conversations, tiny_classifier_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("diq.scoring.summary.READ_ROWS", 5)
    store = fill(tmp_path, pool)
    first = score_difficulty("pool", store=store, model=str(tiny_classifier_folder), batch_tokens=200)
    before = rows_of(store)
    assert (first.n_scored, first.n_cached, len(before)) == (90, 0, 90)
    with Store(store) as opened:
        (n,) = opened.connection.execute(
            f"DELETE FROM difficulty_scores WHERE sample_id IN (SELECT sample_id FROM dataset_samples WHERE {lost})"
        ).fetchone() or (0,)
    again = score_difficulty("pool", store=store, model=str(tiny_classifier_folder), batch_tokens=200)
    assert (again.run_id, again.n_scored, again.n_cached) == (first.run_id, n, 90 - n)
    assert rows_of(store) == before


@pytest.mark.slow
def test_any_token_budget_gives_the_same_scores(
    tmp_path: Path, pool: Conversations, tiny_classifier_folder: Path
) -> None:
    found = []
    for budget in (1, 333, None):
        store = fill(tmp_path, pool, f"s{budget}")
        score_difficulty("pool", store=store, model=str(tiny_classifier_folder), batch_tokens=budget)
        found.append(np.asarray([row[1:7] for row in rows_of(store)], float))
    for other in found[1:]:
        np.testing.assert_allclose(other, found[0], rtol=0, atol=1e-5)
    with pytest.raises(UsageError, match="batch_tokens=0 is out of range"):
        score_difficulty("pool", store=store, model=str(tiny_classifier_folder), batch_tokens=0)


def test_cut_texts_are_counted_and_the_classifier_is_told(
    tmp_path: Path, pool: Conversations, tiny_classifier_folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(tiny_classifier_folder)
    n_long = sum(len(tokenizer(one[0]["content"], verbose=False)["input_ids"]) > 64 for one in pool)
    assert 0 < n_long < 90
    store = fill(tmp_path, pool)
    with caplog.at_level(logging.WARNING, logger="diq"):
        summary = score_difficulty("pool", store=store, model=str(tiny_classifier_folder))
    assert summary.details["n_truncated"] == n_long
    assert f"{n_long} of 90 texts are longer than the encoder's 64 tokens" in caplog.text
    model_id = find_classifier(str(tiny_classifier_folder)).model_id
    assert summary.details["model_id"] == model_id
    with Store(store, read_only=True) as opened:
        run = opened.row("store/get_run", run_id=summary.run_id)
        (model,) = opened.rows("store/list_models")
    assert run is not None
    assert (run["model_id"], run["method"]) == (model_id, "classifier")
    assert (model["model_id"], model["architecture"]) == (model_id, "BertForSequenceClassification")


@pytest.mark.slow
def test_an_empty_prompt_and_a_broken_output_have_a_reason_and_no_score(
    tmp_path: Path, pool: Conversations, tiny_classifier_folder: Path
) -> None:
    from transformers import AutoTokenizer

    broken = tmp_path / "broken"
    shutil.copytree(tiny_classifier_folder, broken)
    weights = load_file(broken / "model.safetensors")
    token = AutoTokenizer.from_pretrained(broken)(" metformin")["input_ids"][-1]
    weights["bert.embeddings.word_embeddings.weight"][token] = float("nan")
    save_file(weights, broken / "model.safetensors", metadata={"format": "pt"})
    store = fill(tmp_path, [*pool, [{"role": "user", "content": "only this"}, {"role": "assistant", "content": "x"}]])
    with Store(store) as opened:
        # no ingest lets an empty prompt through, but a store may hold one
        opened.connection.execute("UPDATE samples SET messages = replace(messages, 'only this', ' ')")
    summary = score_difficulty("pool", store=store, model=str(broken), batch_tokens=300)
    rows = rows_of(store)
    tokenizer = AutoTokenizer.from_pretrained(broken)
    poisoned = [token in tokenizer(one[0]["content"])["input_ids"][:64] for one in pool]
    assert 5 < sum(poisoned) < 85
    for row, is_poisoned in zip(rows, poisoned, strict=False):
        assert row[7] == (NOT_FINITE if is_poisoned else None)
        assert all((value is None) == is_poisoned for value in row[1:7])
    assert rows[-1][1:] == (None,) * 6 + (EMPTY,)
    assert summary.reasons == {NOT_FINITE: sum(poisoned), EMPTY: 1}
    assert summary.n_no_score == sum(poisoned) + 1
    assert score_difficulty("pool", store=store, model=str(broken)).n_scored == 0


@pytest.mark.slow
def test_ties_are_counted_for_values_and_levels(
    tmp_path: Path, pool: Conversations, tiny_classifier_folder: Path
) -> None:
    store = fill(tmp_path, pool)
    summary = score_difficulty("pool", store=store, model=str(tiny_classifier_folder))
    with Store(store) as opened:
        # a third of the samples exactly on one value, as a classifier that is sure of itself gives them
        opened.connection.execute(
            "UPDATE difficulty_scores SET overall = 3 WHERE sample_id IN "
            "(SELECT sample_id FROM dataset_samples WHERE position % 3 = 0)"
        )
    summary = score_difficulty("pool", store=store, model=str(tiny_classifier_folder))
    rows = rows_of(store)
    for i, dimension in enumerate(DIFFICULTY_DIMENSIONS):
        for scale, column in (("value", 1 + i), ("level", 4 + i)):
            values = [row[column] for row in rows]
            counts = Counter(values)
            assert summary.details[f"distinct_{scale}s"][dimension] == len(counts)
            assert summary.details[f"on_the_commonest_{scale}"][dimension] == max(counts.values())
            on_median = counts.get(float(np.median(values)), 0)
            assert summary.details[f"on_the_median_{scale}"][dimension] == on_median
    assert summary.details["on_the_commonest_value"]["overall"] >= 30


def test_ties_of_columns_that_came_with_the_data(tmp_path: Path, make_samples: Callable[..., Conversations]) -> None:
    rows = [{"messages": one, "level": i % 2 + 1} for i, one in enumerate(make_samples(10, seed=3))]
    store = tmp_path / "c.duckdb"
    ingest_rows(store, rows)
    details = score_difficulty("pool", store=store, columns={"overall": "level"}).details
    assert details["distinct_values"] == {"overall": 2}
    # the median lies between the two values
    assert details["on_the_median_value"] == {"overall": 0}
    assert details["on_the_commonest_value"] == {"overall": 5}
    assert "distinct_levels" not in details


def test_a_column_without_a_number_is_refused(tmp_path: Path, make_samples: Callable[..., Conversations]) -> None:
    rows = [
        {"messages": one, "level": ["hard", "nan", "1e999"][i % 3], "some": i if i else "none"}
        for i, one in enumerate(make_samples(6, seed=3))
    ]
    store = tmp_path / "c.duckdb"
    ingest_rows(store, rows)
    for columns in ({"overall": "level"}, {"overall": "some", "reasoning": "level"}):
        with pytest.raises(UsageError, match=r"none of the 6 values of column `level` .* is a number, first `hard`"):
            score_difficulty("pool", store=store, columns=columns)
    with Store(store, read_only=True) as opened:
        assert opened.connection.execute("FROM runs").fetchall() == []
    # one number is enough; what has none is counted
    assert score_difficulty("pool", store=store, columns={"overall": "some"}).n_no_score == 1


NAMES = [
    'my "hard" level',
    "a.b",
    "$x",
    "$.x",
    "x[0]",
    "*",
    "0",
    "é ü",
    "a/b~c",
    "~1",
    "a\\b",
    "it's",
    "a, b=c",
    "new\nline",
]


@pytest.mark.slow
def test_any_name_of_a_column_will_do(tmp_path: Path, make_samples: Callable[..., Conversations]) -> None:
    rows = [
        {"messages": one, **{name: 10 * i + n for n, name in enumerate(NAMES)}}
        for i, one in enumerate(make_samples(3, seed=3))
    ]
    store = tmp_path / "c.duckdb"
    ingest_rows(store, rows)
    with Store(store) as opened:
        # no ingest keeps a column without a name, but a store may hold one
        opened.connection.execute("UPDATE dataset_samples SET attributes = replace(attributes, '\"0\":', '\"\":')")
    for n, name in enumerate(name if name != "0" else "" for name in NAMES):
        summary = score_difficulty("pool", store=store, columns={"overall": name})
        assert [row[3] for row in rows_of(store, summary.run_id)] == [n, 10 + n, 20 + n], name
    with pytest.raises(UsageError, match=r"no column `\$y`"):
        score_difficulty("pool", store=store, columns={"overall": "$y"})


COLUMNS = """
import json, sys
from diq.cli import main
main(["score", "difficulty", "pool", "--columns", sys.argv[1], "--store", sys.argv[2], "--json"])
print(json.dumps(sorted({name.split(".")[0] for name in sys.modules})))
"""


@pytest.mark.slow
@pytest.mark.parametrize("asked", ['overall=my "hard" level', "overall=$.b, knowledge = a, b"])
def test_columns_cost_no_model_library(asked: str, tmp_path: Path, make_samples: Callable[..., Conversations]) -> None:
    rows = [
        {"messages": one, 'my "hard" level': i, "$.b": 2 * i, "a, b": 3 * i}
        for i, one in enumerate(make_samples(4, seed=3))
    ]
    store = tmp_path / "c.duckdb"
    ingest_rows(store, rows)
    done = subprocess.run(
        [sys.executable, "-c", COLUMNS, asked, str(store)], capture_output=True, text=True, check=True
    )
    *answer, loaded = done.stdout.splitlines()
    assert json.loads("".join(answer))["n_scored"] == 4
    assert not {"torch", "transformers", "scipy", "sklearn", "pandas"} & set(json.loads(loaded))
    factors = (3, 2) if "knowledge" in asked else (None, 1)
    assert [row[1:4:2] for row in rows_of(store)] == [
        tuple(f if f is None else f * i for f in factors) for i in range(4)
    ]


@pytest.mark.slow
def test_bfloat16_is_close_and_another_run(tmp_path: Path, pool: Conversations, tiny_classifier_folder: Path) -> None:
    store = fill(tmp_path, pool)
    runs = [
        score_difficulty("pool", store=store, model=str(tiny_classifier_folder), dtype=dtype).run_id
        for dtype in ("float32", "bfloat16")
    ]
    assert runs[0] != runs[1]
    one, other = (np.asarray([row[1:4] for row in rows_of(store, run)], float) for run in runs)
    assert 0 < np.abs(one - other).max() < 0.2
    assert torch.finfo(torch.bfloat16).eps > 1e-3
