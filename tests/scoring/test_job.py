"""The same scoring in two processes at once: one computes, the other waits, or goes on where a killed one stopped."""

from __future__ import annotations

import logging
import multiprocessing
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.connection import Connection
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any

import pytest

from conftest import PRELOADED, ingest_rows
from diq.influence.score import score_influence
from diq.store.store import Store
from influence.conftest import Conversations, fill
from influence.test_score import influence_rows
from influence.test_score_index import index_of


def score_elsewhere(pipe: Connection, store: Path, model: str, label: str, count: int, options: dict[str, Any]) -> None:
    """What another process does: it stops at a given report of its progress until it is told to go on."""
    import torch

    import diq.scoring.summary

    torch.set_num_threads(1)
    diq.scoring.summary.SHARD_SECONDS = 0.0
    left = count

    def progress(what: str, done: int, total: int) -> None:
        nonlocal left
        left -= what == label
        if left == 0:
            pipe.send("stopped")
            pipe.recv()

    summary = score_influence(
        "pool", model=model, store=store, device="cpu", batch_tokens=64, progress=progress, **options
    )
    pipe.send(summary.n_scored)


@dataclass
class Other:
    """The other process, and this end of its pipe."""

    process: ForkServerProcess
    pipe: Connection

    @property
    def pid(self) -> int:
        assert self.process.pid is not None
        return self.process.pid

    def go_on(self) -> None:
        self.pipe.send("go on")

    def scored(self) -> int:
        """Wait for its end; how many samples it scored."""
        found = self.pipe.recv()
        self.process.join()
        return int(found)

    def kill(self) -> None:
        self.process.kill()
        # until it is gone: what a dead process holds is free
        self.process.join()


@pytest.fixture
def filled(tmp_path: Path, make_samples: Callable[..., Conversations]) -> Path:
    return fill(tmp_path / "s.duckdb", make_samples(16, seed=1, longest=10), {"a": make_samples(3, seed=2)})


@contextmanager
def other_process(store: Path, model: Path, label: str, count: int, **options: Any) -> Iterator[Other]:
    """It holds what it computes when the block begins."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOADED)
    ours, theirs = context.Pipe()
    process = context.Process(target=score_elsewhere, args=(theirs, store, str(model), label, count, options))
    process.start()
    theirs.close()
    other = Other(process, ours)
    try:
        assert ours.recv() == "stopped"
        yield other
    finally:
        other.kill()
        ours.close()


@pytest.mark.slow
def test_who_asks_for_the_same_waits_and_finds_it_computed(
    filled: Path, tiny_llama_folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with other_process(filled, tiny_llama_folder, "scoring", 1) as child:
        told: list[tuple[str, int, int]] = []

        def progress(what: str, done: int, total: int) -> None:
            told.append((what, done, total))
            if len(told) == 1:
                child.go_on()

        with caplog.at_level(logging.WARNING, logger="diq"):
            summary = score_influence("pool", model=str(tiny_llama_folder), store=filled, progress=progress)
        assert child.scored() == 16
    assert f"process {child.pid} is computing these scores" in caplog.text
    assert told[0][0] == f"waiting for process {child.pid}"
    # it had committed a batch
    assert 0 < told[0][1] < told[0][2] == 16
    assert (summary.n_scored, summary.n_cached, summary.tokens) == (0, 16, 0)
    assert {what for what, _, _ in told} == {told[0][0]}
    assert len(influence_rows(filled)) == 16
    assert not list(filled.parent.glob(".*.lock"))


@pytest.mark.slow
def test_what_a_killed_process_leaves_is_computed_by_who_waits(filled: Path, tiny_llama_folder: Path) -> None:
    undisturbed = filled.with_name("u.duckdb")
    shutil.copy(filled, undisturbed)
    score_influence("pool", model=str(tiny_llama_folder), store=undisturbed, batch_tokens=64)
    with other_process(filled, tiny_llama_folder, "scoring", 3) as child:

        def progress(what: str, *_: int) -> None:
            if what.startswith("waiting"):
                child.kill()

        summary = score_influence(
            "pool", model=str(tiny_llama_folder), store=filled, batch_tokens=64, progress=progress
        )
    assert summary.n_scored > 0
    assert summary.n_cached > 0
    assert summary.n_scored + summary.n_cached == 16
    assert influence_rows(filled) == influence_rows(undisturbed)
    assert not list(filled.parent.glob(".*.lock"))


@pytest.mark.slow
def test_two_datasets_go_into_one_index_without_work_done_twice(
    filled: Path, tiny_llama_folder: Path, make_samples: Callable[..., Conversations]
) -> None:
    """The second half of the one is the first half of the other."""
    ingest_rows(filled, make_samples(16, seed=1, longest=10)[8:] + make_samples(8, seed=4, longest=10), "other")
    options: dict[str, Any] = {"model": str(tiny_llama_folder), "store": filled, "method": "projected", "dim": 64}
    with other_process(filled, tiny_llama_folder, "projecting", 1, method="projected", dim=64) as child:
        labels = []

        def progress(what: str, *_: int) -> None:
            labels.append(what)
            if len(labels) == 1:
                child.go_on()

        summary = score_influence("other", **options, progress=progress)
        assert child.scored() == 16
    assert labels[0] == f"waiting for process {child.pid}"
    # a run has one dot of a sample, whichever dataset holds it
    assert (summary.n_scored, summary.n_cached) == (8, 8)
    index, records = index_of(filled, summary.run_id)
    ids = [sample for record in records for sample in index.read(record).sample_ids]
    assert len(ids) == len(set(ids)) == 24
    with Store(filled, read_only=True) as store:
        assert {(row["dataset"], row["state"], row["n_scored"]) for row in store.rows("selection/coverage")} == {
            ("pool", "sealed", 16), ("other", "sealed", 16)
        }  # fmt: skip


@pytest.mark.slow
def test_two_stores_write_to_one_folder_of_gradients(filled: Path, tiny_llama_folder: Path) -> None:
    """Their locks are beside the stores, so they do not wait for each other: each takes the next free number."""
    second, model = filled.with_name("second.duckdb"), str(tiny_llama_folder)
    shutil.copy(filled, second)
    options: dict[str, Any] = {"method": "projected", "dim": 64, "index": filled.with_name("gradients")}
    with other_process(filled, tiny_llama_folder, "projecting", 2, **options) as child:
        run_id = score_influence("pool", model=model, store=second, batch_tokens=64, **options).run_id
        child.go_on()
        assert child.scored() == 16
    numbers = []
    for store in (filled, second):
        index, records = index_of(store, run_id)
        assert sorted(sample for one in records for sample in index.read(one).sample_ids) == sorted(
            row[1] for row in influence_rows(store)
        )
        numbers += [one.shard for one in records]
    assert len(numbers) == len(set(numbers)) > 3
    assert influence_rows(filled) == influence_rows(second)
