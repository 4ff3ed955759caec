"""Asks a language model to rate texts by a rubric: what the store lacks, and nothing else.

An item is a text that is asked about; its id is a hash of the text, so equal texts are asked about once. Replies are
committed as they come, in groups: a killed run has lost what was in flight and what came since the last commit, and
asks for nothing twice.

A reply that cannot be read is asked for once more, with the reply and a reminder of the form; then it stays as a
failure with its text. Attempts with odd numbers are asked afresh, those with even numbers are second askings.
"""

from __future__ import annotations

import asyncio
import datetime
import logging
import threading
import time
from abc import ABC, abstractmethod
from collections import Counter, deque
from collections.abc import Callable, Coroutine, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa

from diq import _core
from diq.base.errors import RunFailedError
from diq.base.files import one_at_a_time, right_beside
from diq.base.fingerprint import canonical_json, run_fingerprint
from diq.base.progress import NotedProgress
from diq.base.summary import Summary
from diq.base.text import amount, counted, short
from diq.base.thinking import after_thinking
from diq.judging.chat import Chat, Reply
from diq.judging.options import Server
from diq.judging.rubrics import Reading, Rubric, UnreadableReplyError
from diq.store.connection import WAIT_S
from diq.store.store import Store, now

log = logging.getLogger(__name__)

# a reply waits this long for its commit at most; between two commits the file is free for other processes
COMMIT_SECONDS = 0.5
# items whose texts are in memory at once
BLOCK_ITEMS = 8192
# failures that a summary shows
_SHOWN_FAILURES = 20


@dataclass(frozen=True, slots=True)
class Item:
    """A text to ask about.

    Attributes:
        item_id: UUID text, a hash of question and answer.
        question: the question.
        answer: the answer; None where the question alone is rated.
    """

    item_id: str
    question: str
    answer: str | None


class Answered(NamedTuple):
    """An item whose reply was read, or could not be read even when it was asked for twice."""

    item: Item
    reading: Reading | None
    problem: str | None


@dataclass(repr=False, slots=True)
class AskSummary(Summary):
    """What a call asked and got.

    Attributes:
        run_id: run in the store.
        n_items: distinct items.
        n_cached: of them, those that needed no asking.
        n_asked: of them, those that were asked about now.
        n_read: of the asked, those whose reply was read.
        n_lenient: of the read, those whose reply had another form than the one that was asked for.
        n_unreadable: of the asked, those whose reply could not be read twice.
        n_no_reply: of the asked, those without a reply; the next call asks again.
        n_requests: requests that were sent.
        n_retries: of them, those that repeated a failed one.
        prompt_tokens: as the server counted them.
        completion_tokens: as the server counted them.
        cost: of these tokens; None without prices.
        seconds: wall time.
        reasons: how many items have no scores, by reason.
        failures: item_id, problem and start of the reply of the first of them.
    """

    run_id: int
    n_items: int = 0
    n_cached: int = 0
    n_asked: int = 0
    n_read: int = 0
    n_lenient: int = 0
    n_unreadable: int = 0
    n_no_reply: int = 0
    n_requests: int = 0
    n_retries: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cost: float | None = None
    seconds: float = 0.0
    reasons: dict[str, int] = field(default_factory=dict)
    failures: list[dict[str, Any]] = field(default_factory=list)


class LazyItems(ABC):
    """Many items, whose texts are read only where they are asked about."""

    @abstractmethod
    def __len__(self) -> int:
        """Number of items."""

    @abstractmethod
    def item_ids(self, first: int, last: int) -> list[str]:
        """Ids of the items at some places."""

    @abstractmethod
    def load(self, places: Sequence[int]) -> list[Item]:
        """The items at some places, in their order."""


class _ListedItems(LazyItems):
    """Items whose texts are in memory anyway."""

    def __init__(self, items: Sequence[Item]) -> None:
        self._items = items

    def __len__(self) -> int:
        return len(self._items)

    def item_ids(self, first: int, last: int) -> list[str]:
        return [item.item_id for item in self._items[first:last]]

    def load(self, places: Sequence[int]) -> list[Item]:
        return [self._items[place] for place in places]


def make_items(pairs: Sequence[tuple[str, str | None]]) -> list[Item]:
    """Items of ``(question, answer)`` pairs, in their order; equal pairs have the same id."""
    texts = [canonical_json({"answer": answer, "question": question}) for question, answer in pairs]
    ids = _core.sample_ids(texts)
    return [Item(item_id, question, answer) for item_id, (question, answer) in zip(ids, pairs, strict=True)]


def open_run(store: Path, rubric: Rubric, server: Server, *, kind: str, method: str) -> int:
    """The run of a rubric and a model: the same prompt, model and temperature are the same run, on whatever server."""
    model_id, settings, fingerprint = _identity(rubric, server, kind, method)
    environment = {
        "base_url": server.shown_url,
        "max_tokens": server.max_tokens,
        "concurrency": server.concurrency,
        "timeout_s": server.timeout,
        "retries": server.retries,
        "price_prompt": server.price_prompt,
        "price_completion": server.price_completion,
        "openai": version("openai"),
    }
    with Store(store, wait_s=WAIT_S) as opened, opened.transaction():
        opened.add_model(
            model_id=model_id, name=server.model, source=server.shown_url, architecture=None, n_parameters=None
        )
        return opened.open_run(
            kind=kind,
            method=method,
            model_id=model_id,
            fingerprint=fingerprint,
            settings=settings,
            environment=environment,
        )


def find_run(store: Path, rubric: Rubric, server: Server, *, kind: str, method: str) -> int | None:
    """The run that ``open_run`` would open, if there is one; writes nothing."""
    _, _, fingerprint = _identity(rubric, server, kind, method)
    with Store(store, read_only=True, wait_s=WAIT_S) as opened:
        known = opened.row("store/get_run_by_fingerprint", fingerprint=fingerprint)
    return None if known is None else int(known["run_id"])


def _identity(rubric: Rubric, server: Server, kind: str, method: str) -> tuple[str, dict[str, Any], str]:
    model_id = f"api:{server.model}"
    settings = {
        "rubric": rubric.name,
        "version": rubric.version,
        "digest": rubric.digest,
        "temperature": server.temperature,
    }
    return model_id, settings, run_fingerprint(kind, method, model_id, settings)


def ask_missing(
    store: Path,
    run_id: int,
    rubric: Rubric,
    items: Sequence[Item] | LazyItems,
    server: Server,
    *,
    also: Callable[[Store, list[Answered]], None] | None = None,
    retry_unreadable: bool = False,
    progress: NotedProgress | None = None,
) -> AskSummary:
    """Ask about the items that the run has no readable reply to, in their order.

    Items without a reply from an earlier call are asked about again. Those whose reply could not be read twice are not,
    unless that is wanted.

    Args:
        store: the store file; it is open only for moments.
        run_id: what ``open_run`` returned.
        rubric: what to ask.
        items: may repeat.
        server: whom to ask.
        also: called in the transaction that writes replies, with the items whose last reply is in it, from another
            thread.
        retry_unreadable: ask again about items whose reply could not be read.
        progress: called with the items done and to do, and a note of tokens and cost.

    Raises:
        UsageError: the server refuses the key, or knows no such model or path.
        RunFailedError: the server is down, stopped answering, or never did; what came is in the store. Or another
            process asks the same.
    """
    refusal = RunFailedError(
        f"another process asks `{server.model}` the questions of run {run_id}, and each would be paid twice",
        "wait for it: the same command then asks for the rest",
    )
    with one_at_a_time(right_beside(store, f"ask-{run_id}"), refusal):
        asking = _Asking(store, run_id, rubric, _lazy(items), server, also, retry_unreadable, progress)
        try:
            _run(asking.work())
        finally:
            # also after an error or a Ctrl-C: what came is kept
            asking.commit()
        return asking.finish()


def missing_places(
    store: Path, run_id: int | None, items: Sequence[Item] | LazyItems, *, retry_unreadable: bool = False
) -> Iterator[int]:
    """Places of the items that ``ask_missing`` would ask about; run_id is None where there is no such run yet."""
    for block in _distinct_blocks(_lazy(items)):
        for item_id in _missing(store, run_id, list(block), retry_unreadable):
            yield block[item_id]


# what is missing ---------------------------------------------------------------------------------------------------


class _Attempt(NamedTuple):
    """How to ask about an item: number of the attempt, and for a second asking the reply that could not be read."""

    attempt: int
    unreadable: str | None


def _lazy(items: Sequence[Item] | LazyItems) -> LazyItems:
    return items if isinstance(items, LazyItems) else _ListedItems(items)


def _distinct_blocks(items: LazyItems) -> Iterator[dict[str, int]]:
    """Ids and first places of the items without repetitions, in their order, some thousands at once."""
    seen: set[str] = set()
    for first in range(0, len(items), BLOCK_ITEMS):
        block: dict[str, int] = {}
        for place, item_id in enumerate(items.item_ids(first, first + BLOCK_ITEMS), start=first):
            if item_id not in seen:
                block.setdefault(item_id, place)
        seen |= block.keys()
        yield block


def _missing(store: Path, run_id: int | None, item_ids: list[str], retry_unreadable: bool) -> dict[str, _Attempt]:
    """The items that must be asked about, in their order."""
    last: dict[str, dict[str, Any]] = {}
    if run_id is not None:
        with Store(store, read_only=True, wait_s=WAIT_S) as opened:
            last = {
                row["item_id"]: row for row in opened.rows("judging/last_replies", run_id=run_id, item_ids=item_ids)
            }
    found = {}
    for item_id in item_ids:
        row = last.get(item_id)
        if row is None:
            found[item_id] = _Attempt(1, None)
        elif not row["was_read"] and row["attempt"] % 2:
            found[item_id] = _Attempt(row["attempt"] + 1, row["content"])
        elif not row["was_read"] and retry_unreadable:
            found[item_id] = _Attempt(row["attempt"] + 1, None)
    return found


def _conversation(rubric: Rubric, item: Item, unreadable: str | None) -> list[dict[str, str]]:
    """What is sent: the prompt, and for a second asking the unreadable reply and a reminder."""
    messages = rubric.messages(item.question, item.answer)
    if unreadable is None:
        return messages
    # models are not shown their earlier thinking
    unreadable = after_thinking(unreadable)
    if not unreadable.strip():
        # servers refuse an empty turn of the assistant, and templates two turns of the user in a row
        *before, last = messages
        return [*before, {"role": "user", "content": f"{last['content']}\n\n{rubric.reminder()}"}]
    return [
        *messages,
        {"role": "assistant", "content": unreadable},
        {"role": "user", "content": rubric.reminder()},
    ]


# asking ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Row:
    """A reply before it is in the store, and what was read from it; it is final where nothing follows in this call."""

    item: Item
    attempt: int
    reply: Reply
    reading: Reading | None
    problem: str | None
    is_final: bool
    answered_at: datetime.datetime


class _Asking:
    """One call of ``ask_missing``."""

    def __init__(
        self,
        store: Path,
        run_id: int,
        rubric: Rubric,
        items: LazyItems,
        server: Server,
        also: Callable[[Store, list[Answered]], None] | None,
        retry_unreadable: bool,
        progress: NotedProgress | None,
    ) -> None:
        self._store, self._run_id, self._rubric, self._server = store, run_id, rubric, server
        self._also, self._retry_unreadable, self._progress = also, retry_unreadable, progress
        self._items, self._blocks = items, _distinct_blocks(items)
        self._n_places = 0  # of the items, those whose block was read
        self._summary = AskSummary(run_id)
        self._reasons: Counter[str] = Counter()
        self._came = 0  # replies, also those that could not be read
        self._uncounted = 0  # replies whose tokens the server does not count
        self._started = time.monotonic()
        self._todo: deque[tuple[Item, _Attempt]] = deque()
        self._loading = asyncio.Lock()
        self._arrived: list[_Row] = []
        # one opening of the store at a time: DuckDB refuses a reader and a writer of one file within a process
        self._opening = threading.Lock()
        self._failing: Counter[str] = Counter()  # reasons of the failures in a row

    async def work(self) -> None:
        """Ask about everything that is missing, ``concurrency`` at once, and commit what comes."""
        async with Chat(self._server) as chat:
            workers = {asyncio.create_task(self._ask_on(chat)) for _ in range(self._server.concurrency)}
            # it ends only by an error, such as a full disk
            committer = asyncio.create_task(self._commit_on())
            working = set(workers)
            try:
                while working:
                    done, _ = await asyncio.wait({*working, committer}, return_when=asyncio.FIRST_COMPLETED)
                    for one in done:
                        one.result()
                    working -= done
            finally:
                for one in (*workers, committer):
                    one.cancel()
                await asyncio.gather(*workers, committer, return_exceptions=True)

    async def _ask_on(self, chat: Chat) -> None:
        while (todo := await self._next()) is not None:
            self._summary.n_asked += 1
            item, attempt = todo
            again = await self._ask(chat, item, attempt)
            if again is not None:
                await self._ask(chat, item, again)
            self._report()

    async def _next(self) -> tuple[Item, _Attempt] | None:
        """What to ask next; the texts are read from the store block by block."""
        async with self._loading:
            while not self._todo:
                todo = await asyncio.to_thread(self._load)
                if todo is None:
                    return None
                self._todo.extend(todo)
                self._report()
            return self._todo.popleft()

    def _load(self) -> list[tuple[Item, _Attempt]] | None:
        with self._opening:
            block = next(self._blocks, None)
            if block is None:
                return None
            missing = _missing(self._store, self._run_id, list(block), self._retry_unreadable)
            items = self._items.load([block[item_id] for item_id in missing])
        self._n_places = min(self._n_places + BLOCK_ITEMS, len(self._items))
        self._summary.n_items += len(block)
        self._summary.n_cached += len(block) - len(missing)
        return list(zip(items, missing.values(), strict=True))

    async def _ask(self, chat: Chat, item: Item, attempt: _Attempt) -> _Attempt | None:
        """Ask once; returns the second asking where the reply cannot be read."""
        reply = await chat.ask(_conversation(self._rubric, item, attempt.unreadable))
        reading, problem = self._read(reply)
        again = None
        if reply.content is not None and reading is None and attempt.attempt % 2:
            again = _Attempt(attempt.attempt + 1, reply.content)
        self._arrived.append(_Row(item, attempt.attempt, reply, reading, problem, again is None, now()))
        self._count(self._arrived[-1])
        return again

    def _read(self, reply: Reply) -> tuple[Reading | None, str | None]:
        if reply.content is None:
            return None, reply.problem
        try:
            return self._rubric.read(reply.content), None
        except UnreadableReplyError as error:
            problem = str(error)
        if reply.finish_reason == "length":
            problem = f"{problem} (the reply was cut off at {self._server.max_tokens} tokens: raise --max-tokens)"
        return None, problem

    def _count(self, row: _Row) -> None:
        found, reply, server = self._summary, row.reply, self._server
        found.n_requests += 1 + reply.retries
        found.n_retries += reply.retries
        found.prompt_tokens += reply.prompt_tokens or 0
        found.completion_tokens += reply.completion_tokens or 0
        found.n_read += row.reading is not None
        found.n_lenient += row.reading is not None and row.reading.parsing == "lenient"
        if reply.content is None:
            found.n_no_reply += 1
            # a server that took other questions is not down because it refuses some
            if not (reply.is_refusal and self._came):
                self._failing[reply.problem or ""] += 1
        else:
            self._came += 1
            found.n_unreadable += row.reading is None and row.is_final
            self._failing.clear()
            self._uncounted += reply.prompt_tokens is None
        if row.problem is not None and row.is_final:
            self._reasons[row.problem] += 1
            if len(found.failures) < _SHOWN_FAILURES:
                start = None if reply.content is None else short(reply.content)
                found.failures.append({"item_id": row.item.item_id, "problem": row.problem, "reply": start})
        if self._failing.total() >= max(5, 2 * server.concurrency):
            raise RunFailedError(
                f"the server at {server.shown_url} stopped answering: {found.n_read + found.n_unreadable} of "
                f"{amount(found.n_asked, 'question')} have a reply, the last {self._failing.total()} have none: "
                f"{counted(self._failing)}",
                "look at the server; what came is kept, and the same command goes on where it stopped",
            )

    def _report(self) -> None:
        if self._progress:
            found = self._summary
            tokens = found.prompt_tokens + found.completion_tokens
            cost = self._server.cost(found.prompt_tokens, found.completion_tokens)
            note = f"{tokens:,} tokens" + ("" if cost is None else f", cost {cost:,.2f}")
            done = found.n_cached + found.n_read + found.n_unreadable + found.n_no_reply
            n_repeated = self._n_places - found.n_items
            self._progress("asking", done, len(self._items) - n_repeated, note)

    # writing -------------------------------------------------------------------------------------------------------

    async def _commit_on(self) -> None:
        pause = COMMIT_SECONDS
        while True:
            await asyncio.sleep(pause)
            started = time.monotonic()
            await asyncio.to_thread(self.commit)
            # commits take longer in a larger store; it stays free most of the time
            pause = max(COMMIT_SECONDS, 4 * (time.monotonic() - started))

    def commit(self) -> None:
        """Write what arrived and is not written; safe to call from any thread."""
        with self._opening:
            rows = self._arrived[:]
            if not rows:
                return
            final = [
                Answered(row.item, row.reading, row.problem)
                for row in rows
                if row.is_final and row.reply.content is not None
            ]
            replies, judgments = _replies_table(self._run_id, rows), _judgments_table(self._run_id, rows)
            with Store(self._store, wait_s=WAIT_S) as opened, opened.transaction():
                opened.insert("judging/delete_absent_replies", replies)
                opened.insert("judging/insert_replies", replies)
                opened.insert("judging/insert_judgments", judgments)
                if self._also and final:
                    self._also(opened, final)
            # what arrived meanwhile stands behind them
            del self._arrived[: len(rows)]

    def finish(self) -> AskSummary:
        """The summary, after the last commit.

        Raises:
            RunFailedError: not one item has a reply.
        """
        found = self._summary
        if found.n_no_reply == found.n_items > 0 == self._came:
            raise RunFailedError(
                f"none of the {amount(found.n_items, 'question')} got a reply from {self._server.shown_url}: "
                f"{counted(self._reasons)}",
                "the same command asks them again",
            )
        found.cost = self._server.cost(found.prompt_tokens, found.completion_tokens)
        found.seconds = time.monotonic() - self._started
        found.reasons = dict(self._reasons.most_common())
        if self._uncounted:
            replies = amount(self._uncounted, "reply", "replies")
            log.warning("the server did not count the tokens of %s: they are missing in the sums", replies)
        return found


def _replies_table(run_id: int, rows: Sequence[_Row]) -> pa.Table:
    return pa.table(
        {
            "run_id": pa.array([run_id] * len(rows), pa.int64()),
            "item_id": pa.array([row.item.item_id for row in rows], pa.string()),
            "attempt": pa.array([row.attempt for row in rows], pa.uint8()),
            "content": pa.array([row.reply.content for row in rows], pa.string()),
            "finish_reason": pa.array([row.reply.finish_reason for row in rows], pa.string()),
            "parsing": pa.array([row.reading.parsing if row.reading else None for row in rows], pa.string()),
            "problem": pa.array([row.problem for row in rows], pa.string()),
            "prompt_tokens": pa.array([row.reply.prompt_tokens for row in rows], pa.int32()),
            "completion_tokens": pa.array([row.reply.completion_tokens for row in rows], pa.int32()),
            "retries": pa.array([row.reply.retries for row in rows], pa.int32()),
            "seconds": pa.array([row.reply.seconds for row in rows], pa.float64()),
            "answered_at": pa.array([row.answered_at for row in rows], pa.timestamp("us")),
        }
    )


def _judgments_table(run_id: int, rows: Sequence[_Row]) -> pa.Table:
    """One row a dimension: scores with the model's words, and the dimensions that have words alone."""
    found = [
        (row.item.item_id, dimension, row.reading.scores.get(dimension), row.reading.rationales.get(dimension))
        for row in rows
        if row.reading
        for dimension in dict.fromkeys([*row.reading.scores, *row.reading.rationales])
    ]
    return pa.table(
        {
            "run_id": pa.array([run_id] * len(found), pa.int64()),
            "item_id": pa.array([one[0] for one in found], pa.string()),
            "dimension": pa.array([one[1] for one in found], pa.string()),
            "score": pa.array([one[2] for one in found], pa.uint8()),
            "rationale": pa.array([one[3] for one in found], pa.string()),
        }
    )


def _run(work: Coroutine[Any, Any, None]) -> None:
    """Run a coroutine to its end or to a Ctrl-C, also where an event loop runs already, as in a notebook."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        is_beside = False
    else:
        is_beside = True
    if not is_beside:
        asyncio.run(work)
        return
    running: list[tuple[asyncio.AbstractEventLoop, asyncio.Task[None]]] = []

    async def known() -> None:
        task = asyncio.current_task()
        assert task is not None
        running.append((asyncio.get_running_loop(), task))
        await work

    with ThreadPoolExecutor(1) as pool:
        done = pool.submit(asyncio.run, known())
        try:
            done.result()
        except KeyboardInterrupt:
            # the block waits for the thread, which would ask to the end
            for loop, task in running:
                loop.call_soon_threadsafe(task.cancel)
            raise
