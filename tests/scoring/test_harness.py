"""What every scoring shares: blocks, batches over known samples too, reasons, transactions, and memory a sample."""

from __future__ import annotations

import tracemalloc
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pytest

from conftest import fill_store, ingest_rows
from diq.base.errors import RunFailedError
from diq.base.sample import Message
from diq.models.tokens import TokenFile, Tokens
from diq.scoring.harness import Batch, Scorer, score_missing, score_samples
from diq.scoring.job import RunModel, ScoreJob, open_run, read_dataset
from diq.scoring.summary import ScoreSummary
from diq.store.store import Store


class Lengths(Scorer):
    """A model whose score of a sample is the number of letters of its question; `no` has none."""

    model = RunModel("id", "lengths", "test", None, None)
    token_budget = 30
    insert = "difficulty/insert_difficulty_scores"

    def __init__(self) -> None:
        self.environment: dict[str, Any] = {}
        self.texts: list[str] = []
        self.read_texts: list[list[str]] = []
        self.batches: list[tuple[list[str], list[str]]] = []
        self.written: list[int] = []

    def read(self, conversations: Sequence[Sequence[Message]]) -> tuple[npt.NDArray[np.int64], dict[int, str]]:
        self.texts = [messages[0]["content"] for messages in conversations]
        self.read_texts.append(self.texts)
        refused = {i: "it says no" for i, text in enumerate(self.texts) if text == "no"}
        return np.asarray([0 if i in refused else len(text) for i, text in enumerate(self.texts)]), refused

    def score(self, batches: Iterator[Batch]) -> Iterator[tuple[Batch, list[int]]]:
        # results may come in any order
        for batch in reversed(list(batches)):
            self.batches.append(([self.texts[i] for i in batch.rows], [self.texts[i] for i in batch.wanted]))
            yield batch, [len(self.texts[i]) for i in batch.wanted]

    def rows(self, run_id: int, ids: pa.Array, result: list[int]) -> pa.Table:
        return self.table(run_id, ids, result, [None] * len(result))

    def refused(self, run_id: int, ids: pa.Array, reasons: Sequence[str]) -> pa.Table:
        return self.table(run_id, ids, [None] * len(reasons), reasons)

    def table(
        self, run_id: int, ids: pa.Array, levels: Sequence[int | None], reasons: Sequence[str | None]
    ) -> pa.Table:
        n, empty = len(ids), ("knowledge", "reasoning", "knowledge_level", "reasoning_level", "overall_level")
        return pa.table(
            {
                "run_id": pa.array([run_id] * n),
                "sample_id": ids,
                "overall": pa.array(levels, pa.float64()),
                "reason": pa.array(reasons, pa.string()),
                **{name: pa.nulls(n, pa.float64()) for name in empty},
            }
        )

    def write(self, store: Path, pending: Sequence[pa.Table]) -> None:
        self.written.append(sum(len(one) for one in pending))
        super().write(store, pending)


def job_of(store: Path, **change: Any) -> ScoreJob:
    options: dict[str, Any] = {
        "store": store,
        "data": read_dataset(store, "pool"),
        "kind": "difficulty",
        "method": "lengths",
        "model_id": "id",
        "settings": {},
        "missing": "difficulty/samples_missing_difficulty",
        "reasons": "store/difficulty_reasons",
        "label": "counting",
    }
    return ScoreJob(**{**options, **change})


def levels(store: Path) -> list[tuple[int, float | None, str | None]]:
    with Store(store, read_only=True) as opened:
        return opened.connection.execute(
            "SELECT d.position, f.overall, f.reason FROM difficulty_scores AS f JOIN dataset_samples AS d "
            "USING (sample_id) ORDER BY 1"
        ).fetchall()


def ask(store: Path, texts: Sequence[str]) -> None:
    """Ingest these prompts."""
    ingest_rows(store, [[{"role": "user", "content": one}, {"role": "assistant", "content": "a"}] for one in texts])


TEXTS = ["x" * (i % 11 + 1) + str(i) for i in range(20)]


def test_blocks_without_a_missing_sample_are_not_read_and_the_batches_are_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("diq.scoring.summary.READ_ROWS", 5)
    store = tmp_path / "s.duckdb"
    # rows that repeat others have positions too
    ask(store, [*TEXTS[:7], TEXTS[0], TEXTS[1], *TEXTS[7:]])
    first = Lengths()
    summary = score_missing(job_of(store), lambda: nullcontext(first))
    assert (summary.n_scored, summary.n_cached, summary.tokens) == (20, 0, sum(map(len, TEXTS)))
    assert first.read_texts == [TEXTS[i : i + 5] for i in range(0, 20, 5)]
    expected = levels(store)
    assert [level for _, level, _ in expected] == [len(text) for text in TEXTS]
    with Store(store) as opened:
        lost = [position for position, *_ in expected if position in (6, 9, 17)]
        opened.connection.execute(
            "DELETE FROM difficulty_scores WHERE sample_id IN "
            f"(SELECT sample_id FROM dataset_samples WHERE position IN ({', '.join(map(str, lost))}))"
        )
    again = Lengths()
    summary = score_missing(job_of(store), lambda: nullcontext(again))
    assert (summary.n_scored, summary.n_cached) == (3, 17)
    assert again.read_texts == [TEXTS[5:10], TEXTS[15:20]]
    # a batch with a missing sample is planned as it was, whatever is known of it
    assert {tuple(rows) for rows, _ in again.batches} <= {tuple(rows) for rows, _ in first.batches}
    assert sorted(text for _, wanted in again.batches for text in wanted) == sorted([TEXTS[6], TEXTS[7], TEXTS[15]])
    assert levels(store) == expected


@pytest.mark.parametrize("block_reads", [1, None])
def test_a_shard_is_one_transaction_and_an_error_keeps_those_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, block_reads: int | None
) -> None:
    monkeypatch.setattr("diq.scoring.summary.SHARD_SECONDS", 0.0)
    store = tmp_path / "s.duckdb"
    ask(store, [*TEXTS, "no"])

    class Failing(Lengths):
        def score(self, batches: Iterator[Batch]) -> Iterator[tuple[Batch, list[int]]]:
            yield next(super().score(batches))
            raise RunFailedError("the model broke")

    failing, whole, seen = Failing(), Lengths(), []
    failing.block_reads = whole.block_reads = block_reads
    with pytest.raises(RunFailedError, match="the model broke"):
        score_missing(job_of(store), lambda: nullcontext(failing))
    # the sample that is refused, and one batch
    assert failing.written == [1, len(failing.batches[0][0])]
    with Store(store, read_only=True) as opened:
        assert [row["state"] for row in opened.rows("selection/coverage")] == ["open"] * 3
    assert not [one for one in tmp_path.iterdir() if one.suffix == ".lock"]
    summary = score_missing(job_of(store, progress=lambda *told: seen.append(told)), lambda: nullcontext(whole))
    assert (summary.n_scored, summary.n_cached, summary.reasons) == (
        21 - sum(failing.written), sum(failing.written), {"it says no": 1}
    )  # fmt: skip
    assert [level for _, level, _ in levels(store)] == [*map(len, TEXTS), None]
    what, done, total = seen[-1]
    # samples, or tokens where all are known beforehand
    assert (what, done) == ("counting", total)
    assert total == (summary.tokens if block_reads is None else summary.n_scored)


@pytest.mark.slow
def test_memory_grows_by_less_than_a_hundred_bytes_a_sample(tmp_path: Path) -> None:
    """A sample as an object, its id as text and its place in a dict take 246; lists of its tokens' places 80 more."""

    class OnDisk(Lengths):
        block_reads = None
        token_budget = 4096

        def read(self, conversations: Sequence[Sequence[Message]]) -> tuple[npt.NDArray[np.int64], dict[int, str]]:
            for i in range(len(conversations)):
                self.tokens.append(Tokens(np.full(3 + i % 5, 7, np.int32), 1))
            return 3 + np.arange(len(conversations)) % 5, {}

        def score(self, batches: Iterator[Batch]) -> Iterator[tuple[Batch, list[int]]]:
            next(batches)
            self.held = tracemalloc.get_traced_memory()[0]
            return iter(())

    held = []
    for n in (20_000, 60_000):
        store = tmp_path / f"{n}.duckdb"
        fill_store(store, dots={}, difficulty=np.ones(n))
        job, scorer = job_of(store), OnDisk()
        run_id = open_run(job, scorer.model, {})
        tracemalloc.start()
        with TokenFile() as scorer.tokens:
            score_samples(job, run_id, scorer, ScoreSummary(run_id, "pool", n))
        tracemalloc.stop()
        held.append(scorer.held)
    assert 30 < (held[1] - held[0]) / 40_000 < 100
