"""Stores with two scored tasks, and the page over one of them, served as `diq explore` serves it."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from conftest import ingest_rows, write_jsonl

TASKS = ("medqa", "pub'qa")


def make_store(store: Path, texts: list[str], *, seed: int = 0, **columns: Any) -> Path:
    """A store with a dataset `pool` of two sources and scores of both kinds; ``columns`` replace drawn ones.

    Args:
        texts: the questions.
        columns: `overall`, or the dots of a task by its name; None leaves the scores out.
    """
    from diq.samples.ingest import ingest

    rng = np.random.default_rng(seed)
    n = len(texts)
    rows = [{"question": text, "answer": f"answer {i}"} for i, text in enumerate(texts)]
    half = (n + 1) // 2
    for part in (rows[:half], rows[half:]):
        if part:
            ingest_rows(store, part)
    drawn: dict[str, Any] = {
        "overall": rng.integers(1, 6, n).astype(float),
        **{task: rng.standard_t(2, n).round(3) for task in TASKS},
    } | columns
    for name, column in drawn.items():
        if column is None:
            continue
        key, options = "overall", {}
        if name != "overall":
            key, options = "dot", {"model": "mo<b>del", "validation_set": name}
        rows = [{"position": i, key: float(x)} for i, x in enumerate(column) if np.isfinite(x)]
        ingest(
            write_jsonl(store.with_name(f"scores-{len(list(store.parent.iterdir()))}.jsonl"), rows),
            dataset="pool",
            scores=True,
            store=store,
            **options,
        )
    return store


class Page:
    """A server over a store, and a client that has its token; ``wait`` until all samples are read."""

    def __init__(self, store: Path, *, wait: bool = True, **given: Any) -> None:
        from diq.explorer.columns import choose
        from diq.explorer.server import Server
        from diq.explorer.session import Session

        asked = {"dataset": None, "model": None, "difficulty": "overall", "run": None, "difficulty_run": None} | given
        self.store = store
        self.session = Session(choose(store, **asked))
        self.server = Server(self.session)
        self._thread = threading.Thread(target=self.server.run)
        self._thread.start()
        self.origin = f"http://127.0.0.1:{self.server.port}"
        self.client = httpx.Client(base_url=self.origin, headers={"x-diq-token": self.server.token}, timeout=60)
        if wait:
            self.wait()

    def wait(self) -> None:
        """Wait until all samples are read, or cannot be."""
        while self.facts().get("reading"):
            time.sleep(0.01)

    def facts(self) -> dict[str, Any]:
        """What the page is told before it asks."""
        return self.client.get("/api/facts").json()  # type: ignore[no-any-return]

    def ask(self, name: str, /, **body: Any) -> Any:
        """The answer to a question that is not refused."""
        answer = self.client.post(f"/api/{name}", json=body)
        assert answer.status_code == 200, answer.text
        return answer.json()

    def refusal(self, name: str, /, **body: Any) -> str:
        """What a refused question is told."""
        answer = self.client.post(f"/api/{name}", json=body)
        assert answer.status_code == 400, answer.text
        return f"{answer.json()['error']}; {answer.json()['hint']}"

    def view(self, **body: Any) -> tuple[dict[str, Any], dict[str, Any]]:
        """The facts of a view, and its counts by column (and `plane`)."""
        import orjson

        answer = self.client.post("/api/view", json=body)
        assert answer.status_code == 200, answer.text
        size = int.from_bytes(answer.content[:4], "little")
        facts = orjson.loads(answer.content[4 : 4 + size])
        counts, found = np.frombuffer(answer.content[4 + size :], "<u4"), {}
        names = self.client.get("/api/facts").json()["names"]
        for column in facts["columns"]:
            rows = len(column["edges"]) if "edges" in column else len(names[column["key"]])
            found[column["key"]], counts = counts[: 4 * rows].reshape(rows, 4), counts[4 * rows :]
        edges = {column["key"]: column.get("edges") for column in facts["columns"]}
        found["plane"] = counts.reshape(len(edges[facts["height"]]) - 1, len(edges["difficulty"]) - 1, 4)
        return facts, found

    def close(self) -> None:
        """Stop the server."""
        self.client.close()
        self.server.stop()
        self._thread.join()


@pytest.fixture(scope="session")
def pool(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store of 600 samples; a tenth lacks a dot of the second task, some lack difficulty."""
    rng = np.random.default_rng(3)
    dots = rng.standard_t(2, 600).round(3)
    dots[::10] = np.nan
    level = rng.integers(1, 6, 600).astype(float)
    level[5:20] = np.nan
    texts = [f"question {i} about topic {i % 7}" for i in range(600)]
    return make_store(tmp_path_factory.mktemp("pool") / "s.duckdb", texts, overall=level, **{TASKS[1]: dots})


@pytest.fixture
def serve() -> Iterator[Callable[..., Page]]:
    """Serves pages over stores, until the test ends."""
    opened: list[Page] = []

    def make(store: Path, **given: Any) -> Page:
        opened.append(Page(store, **given))
        return opened[-1]

    yield make
    for one in opened:
        one.close()


@pytest.fixture
def gate(monkeypatch: pytest.MonkeyPatch) -> threading.Event:
    """Has pages over hundreds of samples show a part first, and read the others when the event is set."""
    from diq.explorer import session

    opened, read = threading.Event(), session.read_table

    def gated(choice: Any, progress: Any = None, *, part: float = 1.0) -> Any:
        if part == 1.0:
            opened.wait()
        return read(choice, progress, part=part)

    monkeypatch.setattr(session, "_FIRST_LOOK", 60)
    monkeypatch.setattr(session, "read_table", gated)
    return opened
