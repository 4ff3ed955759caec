"""Asking against a real HTTP server: nothing is asked twice, whatever happens, and everything that came is kept."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import duckdb
import pytest

from chat_server import ScriptedServer, Step, asked_question, completion, difficulty_reply
from conftest import Forked, new_store, wait_until
from diq.base.errors import RunFailedError, StoreError, UsageError
from diq.judging import ask as asking
from diq.judging import chat
from diq.judging.ask import Answered, AskSummary, Item, ask_missing, find_run, make_items, missing_places, open_run
from diq.judging.options import Server
from diq.judging.rubrics import load_rubric
from diq.store.store import Store

RUBRIC = load_rubric("difficulty")
KEY = "sk-very-secret-0123456789"


@pytest.fixture(autouse=True)
def _fast(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("OPENAI_API_KEY", "OPENAI_BASE_URL", "HTTP_PROXY", "http_proxy"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(chat, "_FIRST_PAUSE_S", 0.0)
    monkeypatch.setattr(chat, "RATE_PAUSES_S", ())
    monkeypatch.setattr(asking, "COMMIT_SECONDS", 0.02)
    monkeypatch.setattr("openai._base_client.INITIAL_RETRY_DELAY", 0.01)


@pytest.fixture
def store(tmp_path: Path) -> Path:
    return new_store(tmp_path / "s.duckdb")


def levels(question: str) -> tuple[int, int, int]:
    """What the scripted model thinks of a question: a pure function of it."""
    rng = random.Random(question)
    return rng.randint(1, 5), rng.randint(1, 5), rng.randint(1, 5)


def rate(body: dict[str, Any], _: int = 0) -> str:
    return difficulty_reply(*levels(asked_question(body)))


def questions(n: int, prefix: str = "question") -> list[Item]:
    return make_items([(f"{prefix} {i}", None) for i in range(n)])


def ask(store: Path, server: Server, items: Sequence[Item], **more: Any) -> AskSummary:
    run_id = open_run(store, RUBRIC, server, kind="difficulty", method="annotation")
    return ask_missing(store, run_id, RUBRIC, items, server, **more)


def rows(store: Path, query: str) -> list[tuple[Any, ...]]:
    with duckdb.connect(str(store), read_only=True) as connection:
        return connection.execute(query).fetchall()


REPLIES = (
    "SELECT CAST(item_id AS VARCHAR), attempt, content, finish_reason, parsing, problem, prompt_tokens, "
    "completion_tokens, retries FROM replies ORDER BY ALL"
)
JUDGMENTS = "SELECT CAST(item_id AS VARCHAR), dimension, score, rationale FROM judgments ORDER BY ALL"


def test_every_reply_and_every_judgment_is_in_the_store(store: Path) -> None:
    items = questions(50)
    with ScriptedServer(rate) as server:
        summary = ask(store, Server("m", base_url=server.url, price_prompt=1.0, price_completion=10.0), items)
    assert (summary.n_items, summary.n_cached, summary.n_asked, summary.n_read) == (50, 0, 50, 50)
    assert (summary.n_requests, summary.n_retries, summary.n_unreadable, summary.n_no_reply) == (50, 0, 0, 0)
    assert (summary.prompt_tokens, summary.completion_tokens) == (5000, 1000)
    assert summary.cost == pytest.approx((5000 * 1 + 1000 * 10) / 1e6)
    assert summary.failures == []
    assert rows(store, REPLIES) == sorted(
        (item.item_id, 1, difficulty_reply(*levels(item.question)), "stop", "strict", None, 100, 20, 0)
        for item in items
    )
    expected = []
    for item in items:
        scores = dict(zip(("knowledge", "reasoning", "overall"), levels(item.question), strict=True))
        reading = RUBRIC.read(difficulty_reply(*levels(item.question)))
        assert reading.scores == scores
        expected += [(item.item_id, name, scores.get(name), words) for name, words in reading.rationales.items()]
    assert rows(store, JUDGMENTS) == sorted(expected)
    assert {one[1] for one in expected} == {"knowledge", "reasoning", "overall", "key_factors"}


def test_items_are_their_texts() -> None:
    items = make_items([("q", None), ("q", "a"), ("q", None), ("Q", None), ("ä\n\x00 \U0001f600", "")])
    assert len({item.item_id for item in items}) == 4
    assert items[0] == items[2]
    # fixed, so that another release asks for nothing again
    assert items[0].item_id == "8d42008f-446c-c5f8-50ab-edb08691bca4"


def test_the_same_call_asks_nothing_and_changes_nothing(store: Path) -> None:
    items = questions(20)
    with ScriptedServer(rate) as server:
        ask(store, Server("m", base_url=server.url), items)
        before = rows(store, REPLIES), rows(store, JUDGMENTS)
        again = ask(store, Server("m", base_url=server.url, concurrency=2, max_tokens=5, timeout=9), items)
        assert (again.n_items, again.n_cached, again.n_asked, again.n_requests) == (20, 20, 0, 0)
        assert server.n_requests == 20
        assert (rows(store, REPLIES), rows(store, JUDGMENTS)) == before
        # what is new among the old is asked alone
        more = ask(store, Server("m", base_url=server.url), [*questions(25), *items])
        assert (more.n_items, more.n_cached, more.n_asked) == (25, 20, 5)
        assert set(server.counts.values()) == {1}


def test_another_model_prompt_or_temperature_is_another_run_and_another_address_is_not(store: Path) -> None:
    base = {"kind": "difficulty", "method": "annotation"}
    one = Server("m", base_url="http://a/v1")
    run_id = open_run(store, RUBRIC, one, **base)
    assert find_run(store, RUBRIC, one, **base) == run_id
    assert open_run(store, RUBRIC, Server("m", base_url="http://b/v1", max_tokens=9, concurrency=1), **base) == run_id
    others = [
        open_run(store, RUBRIC, Server("n", base_url="http://a/v1"), **base),
        open_run(store, RUBRIC, Server("m", base_url="http://a/v1", temperature=0.5), **base),
        open_run(store, RUBRIC, Server("m", base_url="http://a/v1", temperature=None), **base),
        open_run(store, load_rubric("reasoning"), one, **base),
        open_run(store, RUBRIC, one, kind="judgment", method="annotation"),
    ]
    assert len({run_id, *others}) == 6
    assert find_run(store, RUBRIC, Server("never"), **base) is None


@pytest.mark.parametrize("repeat", [1, 3])
def test_items_that_repeat_are_asked_once(store: Path, repeat: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(asking, "BLOCK_ITEMS", 7)
    items = questions(20) * repeat
    random.Random(0).shuffle(items)
    with ScriptedServer(rate) as server:
        summary = ask(store, Server("m", base_url=server.url), items)
        assert set(server.counts.values()) == {1}
    assert (summary.n_items, summary.n_read) == (20, 20)


def test_the_order_of_asking_is_that_of_the_items(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(asking, "BLOCK_ITEMS", 3)
    items = questions(11)
    with ScriptedServer(rate) as server:
        ask(store, Server("m", base_url=server.url, concurrency=1), items)
        assert [asked_question(body) for body in server.bodies] == [item.question for item in items]


def troubled(body: dict[str, Any], before: int) -> Step | str:
    """A model and a server with every kind of trouble, each a pure function of the question and its asking."""
    question = asked_question(body)
    kind = int(question.split()[-1]) % 8
    fine = rate(body)
    if kind == 1 and before == 0:
        return Step(status=429, headers={"Retry-After": "0.01"})
    if kind == 2 and before < 2:
        return Step(status=500)
    if kind == 3:
        return Step(status=500, body={"error": "for good"})
    if kind == 4:
        return "I would rather talk about something else." if len(body["messages"]) == 1 else fine
    if kind == 5:
        return "no numbers here"
    if kind == 6:
        return "Here you are:\n" + fine.replace("Score:", "score -")
    if kind == 7:
        return Step(fine, cut=50) if before == 0 else fine
    return fine


@pytest.mark.parametrize("concurrency", [1, 8])
def test_every_trouble_ends_in_the_same_rows_at_any_concurrency(store: Path, concurrency: int) -> None:
    items = questions(40)
    with ScriptedServer(troubled) as server:
        summary = ask(store, Server("m", base_url=server.url, concurrency=concurrency, retries=3), items)
        assert server.most_open <= concurrency
        # 8 kinds, 5 of each: fine, 429, 500 twice, 500 for good, reminded, unreadable, lenient, cut
        counts = (summary.n_read, summary.n_unreadable, summary.n_no_reply, summary.n_lenient)
        assert counts == (30, 5, 5, 5)
        assert summary.n_asked == 40
        assert server.n_requests == summary.n_requests == 5 * (1 + 2 + 3 + 4 + 2 + 2 + 1 + 2)
        assert summary.n_retries == 5 * (1 + 2 + 3 + 1)
    assert set(summary.reasons.values()) == {5}
    assert len(summary.failures) == 10
    found = rows(store, REPLIES)
    by_item: dict[str, list[tuple[Any, ...]]] = {}
    for row in found:
        by_item.setdefault(row[0], []).append(row[1:])
    for i, item in enumerate(items):
        replies, kind = by_item[item.item_id], i % 8
        fine = difficulty_reply(*levels(item.question))
        if kind in (0, 1, 2, 7):
            retries = {0: 0, 1: 1, 2: 2, 7: 1}[kind]
            assert replies == [(1, fine, "stop", "strict", None, 100, 20, retries)]
        elif kind == 3:
            assert replies == [(1, None, None, None, "HTTP 500: for good", None, None, 3)]
        elif kind == 4:
            assert [one[:2] for one in replies] == [(1, "I would rather talk about something else."), (2, fine)]
            assert [one[3] for one in replies] == [None, "strict"]
        elif kind == 5:
            assert [one[:2] for one in replies] == [(1, "no numbers here"), (2, "no numbers here")]
            assert all(one[4] for one in replies)
        else:
            assert [one[3] for one in replies] == ["lenient"]
    scored = {row[0] for row in rows(store, JUDGMENTS)}
    assert scored == {item.item_id for i, item in enumerate(items) if i % 8 not in (3, 5)}


def test_the_second_asking_shows_the_reply_and_the_form(store: Path) -> None:
    def script(body: dict[str, Any], _: int) -> str:
        texts = [one["content"] for one in body["messages"]]
        if len(texts) == 3:
            assert texts[1:] == ["nonsense", RUBRIC.reminder()]
            assert [one["role"] for one in body["messages"]] == ["user", "assistant", "user"]
            return rate(body)
        return "nonsense"

    with ScriptedServer(script) as server:
        assert ask(store, Server("m", base_url=server.url, temperature=0.3), questions(3)).n_read == 3
        assert {body["temperature"] for body in server.bodies} == {0.3}


def test_an_empty_reply_is_asked_again_without_an_empty_turn(store: Path) -> None:
    def script(body: dict[str, Any], before: int) -> Step | str:
        assert [one["role"] for one in body["messages"]] == ["user"]
        if RUBRIC.reminder() in body["messages"][0]["content"]:
            return rate(body)
        return Step(body=completion(None, reasoning_content="thought for long") | {"usage": None})

    with ScriptedServer(script) as server:
        assert ask(store, Server("m", base_url=server.url), questions(3)).n_read == 3
        assert server.n_requests == 6
    assert rows(store, "SELECT DISTINCT content, problem FROM replies WHERE attempt = 1") == [
        ("<think>\nthought for long\n</think>", "the reply holds thinking or the material, and nothing after it")
    ]


def test_a_reply_that_was_cut_off_names_the_option(store: Path) -> None:
    cut = completion("<think>well, to begin with")
    cut["choices"][0]["finish_reason"] = "length"
    with ScriptedServer(lambda *_: Step(body=cut)) as server:
        summary = ask(store, Server("m", base_url=server.url, max_tokens=33), questions(1))
    assert "cut off at 33 tokens: raise --max-tokens" in summary.failures[0]["problem"]
    assert rows(store, "SELECT DISTINCT finish_reason FROM replies") == [("length",)]


def test_unreadable_replies_are_kept_and_asked_again_only_when_that_is_wanted(store: Path) -> None:
    readable = False

    def script(body: dict[str, Any], before: int) -> str:
        return rate(body) if readable else f"nonsense {before}"

    with ScriptedServer(script) as server:
        to = Server("m", base_url=server.url)
        first = ask(store, to, questions(4))
        assert (first.n_unreadable, server.n_requests) == (4, 8)
        assert first.failures[0]["reply"] == "nonsense 1"
        third = ask(store, to, questions(4))
        assert (third.n_cached, third.n_asked, server.n_requests) == (4, 0, 8)
        assert ask(store, to, questions(4), retry_unreadable=True).n_unreadable == 4
        assert set(server.counts.values()) == {4}
        readable = True
        last = ask(store, to, questions(4), retry_unreadable=True)
        assert (last.n_read, server.n_requests) == (4, 20)
        assert ask(store, to, questions(4), retry_unreadable=True).n_asked == 0
    # every text is still there
    kept = rows(store, "SELECT attempt, content FROM replies WHERE parsing IS NULL GROUP BY ALL ORDER BY ALL")
    assert kept == [(i + 1, f"nonsense {i}") for i in range(4)]
    assert rows(store, "SELECT DISTINCT attempt FROM replies WHERE parsing IS NOT NULL") == [(5,)]


def test_what_got_no_reply_is_asked_again_by_the_next_call(store: Path) -> None:
    up = False

    def script(body: dict[str, Any], _: int) -> Step | str:
        return rate(body) if up or "3" not in asked_question(body) else Step(status=500)

    with ScriptedServer(script) as server:
        to = Server("m", base_url=server.url, retries=1, concurrency=2)
        first = ask(store, to, questions(10))
        assert (first.n_read, first.n_no_reply) == (9, 1)
        assert rows(store, "SELECT content, problem FROM replies WHERE content IS NULL") == [
            (None, "HTTP 500: Internal Server Error")
        ]
        # still down: one row of the failure, not two
        assert ask(store, to, questions(10)).n_no_reply == 1
        assert len(rows(store, "FROM replies")) == 10
        up = True
        last = ask(store, to, questions(10))
        assert (last.n_cached, last.n_asked, last.n_read) == (9, 1, 1)
    assert len(rows(store, "FROM replies WHERE problem IS NULL")) == 10


def test_a_second_asking_without_a_reply_is_made_up_for_by_the_next_call(store: Path) -> None:
    up = False

    def script(body: dict[str, Any], _: int) -> Step | str:
        if len(body["messages"]) == 1:
            return "nonsense"
        assert body["messages"][1]["content"] == "nonsense"
        return rate(body) if up else Step(status=500)

    with ScriptedServer(script) as server:
        to = Server("m", base_url=server.url, retries=0)
        first = ask(store, to, questions(3))
        assert (first.n_unreadable, first.n_no_reply) == (0, 3)
        up = True
        second = ask(store, to, questions(3))
        assert (second.n_asked, second.n_requests, second.n_read) == (3, 3, 3)
    assert rows(store, "SELECT attempt, parsing, count(*) FROM replies GROUP BY ALL ORDER BY ALL") == [
        (1, None, 3),
        (2, "strict", 3),
    ]


def test_a_server_that_dies_in_the_middle_ends_the_run_and_the_next_call_goes_on(store: Path) -> None:
    items = questions(60)
    server = ScriptedServer(lambda body, before: Step(rate(body), delay_s=0.01)).__enter__()

    def die(what: str, done: int, total: int, note: str = "") -> None:
        if done >= 20 and not died.is_set():
            died.set()
            threading.Thread(target=server.stop).start()

    died = threading.Event()
    with pytest.raises(RunFailedError, match=r"stopped answering: (\d+) of (\d+) questions") as caught:
        ask(store, Server("m", base_url=server.url, concurrency=4, retries=1), items, progress=die)
    assert "goes on" in caught.value.hint
    ((kept,),) = rows(store, "SELECT count(*) FROM replies WHERE content IS NOT NULL")
    assert 20 <= kept < 60
    assert f" {kept} of " in caught.value.message
    with ScriptedServer(rate) as other:
        last = ask(store, Server("m", base_url=other.url), items)
        assert (last.n_cached, last.n_read) == (kept, 60 - kept)
        assert set(other.counts.values()) == {1}
    assert len(rows(store, "FROM replies")) == 60


def test_failures_in_a_row_end_it_and_successes_between_do_not(store: Path) -> None:
    with ScriptedServer(lambda *_: Step(status=400, body={"detail": "pinned to another model"})) as server:
        with pytest.raises(RunFailedError, match="pinned to another model"):
            ask(store, Server("m", base_url=server.url, concurrency=3), questions(100))
        assert server.n_requests <= 6 + 3
        # too few to count as a row, but not one has a reply
        with pytest.raises(RunFailedError, match=r"none of the 2 questions got a reply .* pinned to another model"):
            ask(store, Server("m", base_url=server.url), questions(2, "few"))

    def seldom(body: dict[str, Any], _: int) -> Step | str:
        return rate(body) if int(asked_question(body).split()[-1]) % 40 == 0 else Step(status=400)

    # a server that takes some questions may refuse many
    with ScriptedServer(seldom) as server:
        summary = ask(store, Server("m", base_url=server.url, concurrency=1), questions(100, "other"))
        assert (summary.n_read, summary.n_no_reply) == (3, 97)
    # but it may not fail at many
    failure = Step(status=500)
    with (
        ScriptedServer(lambda body, _: rate(body) if server.n_requests == 1 else failure) as server,
        pytest.raises(RunFailedError, match="1 of 6 questions have a reply, the last 5 have none"),
    ):
        ask(store, Server("m", base_url=server.url, concurrency=1, retries=0), questions(100, "third"))


def test_a_server_that_is_down_leaves_no_reply_behind(store: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}/v1"
    with pytest.raises(RunFailedError, match="no server answers"):
        ask(store, Server("m", base_url=url), questions(5))
    assert rows(store, "FROM replies") == []


def test_a_wrong_key_ends_it_after_one_request_and_is_nowhere_in_the_store(
    store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SOME_KEY", KEY)
    with ScriptedServer(rate, key="another") as server:
        with pytest.raises(UsageError, match=r"\$SOME_KEY is set"):
            ask(store, Server("m", base_url=server.url, api_key_variable="SOME_KEY"), questions(50))
        assert server.n_requests == 1
    with ScriptedServer(lambda *_: f"the key is {KEY}", key=KEY) as server:
        to = Server("m", base_url=server.url.replace("//", f"//user:{KEY}@"), api_key_variable="SOME_KEY")
        # the name and password of an address take the place of the key, so that this one is refused
        with pytest.raises(UsageError):
            ask(store, to, questions(2))
        summary = ask(store, Server("m", base_url=server.url, api_key_variable="SOME_KEY"), questions(2))
    assert KEY not in str(summary)
    assert KEY.encode() not in store.read_bytes()
    assert "[key]" in rows(store, "SELECT content FROM replies")[0][0]


@pytest.mark.parametrize("is_json", [True, False], ids=["json", "text"])
@pytest.mark.parametrize("status", [200, 400, 500])
def test_what_a_server_says_of_a_failure_is_kept_short_and_visible(
    store: Path, monkeypatch: pytest.MonkeyPatch, status: int, is_json: bool
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    # ESC, C1 and an override of direction, and a key early in a lot of text
    said = "\x1b]0;owned\x07\x1b[31m\x9b31m\u202e\n" + "x" * 20 + KEY + "y" * 300_000
    with ScriptedServer(
        lambda body, before: Step(status=status, body=hostile) if "question 3" in str(body) else rate(body)
    ) as server:
        hostile = {"error": {"message": said}} if is_json else said
        summary = ask(store, Server("m", base_url=server.url, retries=0, concurrency=1), questions(6))
    ((problem,),) = rows(store, "SELECT DISTINCT problem FROM replies WHERE problem IS NOT NULL")
    assert r"\x1b]0;owned\x07" in problem
    assert problem.isprintable()
    assert len(problem) < 250
    assert summary.reasons == {problem: 1}
    assert KEY[:10] not in f"{problem}{summary}"
    assert KEY[:10].encode() not in store.read_bytes()


def test_hostile_texts_are_stored(store: Path) -> None:
    reply = "\x00 \ud800 \u202e 'quotes' \"; DROP TABLE replies; --\r\n\ufffe"
    with ScriptedServer(lambda *_: reply) as server:
        ask(store, Server("m", base_url=server.url), make_items([("\x00{question}%s {{material}}", None)]))
    assert rows(store, "SELECT DISTINCT content FROM replies") == [(reply.replace("\ud800", "?"),)]


def test_also_runs_in_the_same_transaction_with_what_is_answered(store: Path) -> None:
    seen: list[Answered] = []

    def also(opened: Store, answered: list[Answered]) -> None:
        for one in answered:
            (found,) = opened.connection.execute(
                "SELECT count(*) FROM replies WHERE item_id = CAST(? AS UUID)", [one.item.item_id]
            ).fetchone()
            assert found >= 1
        seen.extend(answered)

    with ScriptedServer(troubled) as server:
        ask(store, Server("m", base_url=server.url, retries=3), questions(16), also=also)
    kinds = Counter(int(one.item.question.split()[-1]) % 8 for one in seen)
    assert kinds == {0: 2, 1: 2, 2: 2, 4: 2, 5: 2, 6: 2, 7: 2}
    assert all((one.reading is None) == (one.problem is not None) for one in seen)
    assert {int(one.item.question.split()[-1]) % 8 for one in seen if one.reading is None} == {5}


def test_an_error_in_the_writing_stops_the_asking_and_keeps_the_store_whole(store: Path) -> None:
    def also(opened: Store, answered: list[Answered]) -> None:
        raise StoreError("the disk is full")

    with ScriptedServer(lambda body, _: Step(rate(body), delay_s=0.02)) as server:
        with pytest.raises(StoreError, match="the disk is full"):
            ask(store, Server("m", base_url=server.url, concurrency=2), questions(500), also=also)
        assert server.n_requests < 500
    assert rows(store, "FROM replies") == rows(store, "FROM judgments") == []


@pytest.mark.slow
def test_the_store_is_free_for_readers_meanwhile(store: Path) -> None:
    seen: list[int] = []

    def look(what: str, done: int, total: int, note: str = "") -> None:
        code = "import duckdb, sys; print(duckdb.connect(sys.argv[1], read_only=True).sql('FROM replies').count('*'))"
        if done in (10, 20) and done not in seen:
            for _ in range(50):
                done_there = subprocess.run([sys.executable, "-c", code, str(store)], capture_output=True, check=False)
                if done_there.returncode == 0:
                    seen.append(done)
                    break
                time.sleep(0.05)

    with ScriptedServer(lambda body, _: Step(rate(body), delay_s=0.05)) as server:
        ask(store, Server("m", base_url=server.url, concurrency=1), questions(30), progress=look)
    assert seen == [10, 20]


def test_the_progress_counts_up_to_the_items_with_tokens_and_cost(store: Path) -> None:
    calls: list[tuple[str, int, int, str]] = []

    def note(what: str, done: int, total: int, note: str = "") -> None:
        calls.append((what, done, total, note))

    with ScriptedServer(rate) as server:
        ask(store, Server("m", base_url=server.url), questions(3))
        ask(store, Server("m", base_url=server.url, price_prompt=1e4), questions(9) * 2, progress=note)
    assert [done for _, done, _, _ in calls] == sorted(done for _, done, _, _ in calls)
    assert calls[-1] == ("asking", 9, 9, "720 tokens, cost 6.00")


def test_it_runs_where_an_event_loop_runs_already(store: Path) -> None:
    async def notebook() -> AskSummary:
        return ask(store, Server("m", base_url=server.url), questions(5))

    with ScriptedServer(rate) as server:
        assert asyncio.run(notebook()).n_read == 5


@pytest.mark.slow
def test_the_missing_places_are_what_is_asked(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(asking, "BLOCK_ITEMS", 3)
    with ScriptedServer(rate) as server:
        to = Server("m", base_url=server.url, concurrency=1)
        run_id = open_run(store, RUBRIC, to, kind="difficulty", method="annotation")
        assert list(missing_places(store, None, questions(10))) == list(range(10))
        ask(store, to, questions(4))
        items = [*questions(10), *questions(12)]
        places = list(missing_places(store, run_id, items))
        assert places == [4, 5, 6, 7, 8, 9, 20, 21]
        ask(store, to, items)
        assert [asked_question(body) for body in server.bodies[4:]] == [items[place].question for place in places]
        assert list(missing_places(store, run_id, items, retry_unreadable=True)) == []


def test_a_run_that_had_no_commit_between_keeps_everything(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(asking, "COMMIT_SECONDS", 1e6)
    with ScriptedServer(rate) as server:
        assert ask(store, Server("m", base_url=server.url), questions(30)).n_read == 30
    assert len(rows(store, "FROM replies")) == 30


def until_interrupted(url: str, path: Path, place: str) -> None:
    """The life of a process that asks 2000 questions, in a script or in a notebook, until somebody presses Ctrl-C."""
    server = Server("m", base_url=url, concurrency=4)
    run_id = open_run(path, RUBRIC, server, kind="difficulty", method="annotation")

    async def notebook() -> None:
        ask_missing(path, run_id, RUBRIC, questions(2000), server)

    try:
        if place == "script":
            ask_missing(path, run_id, RUBRIC, questions(2000), server)
        else:
            asyncio.new_event_loop().run_until_complete(notebook())
    except KeyboardInterrupt:
        print("stopped")


@pytest.mark.slow
@pytest.mark.parametrize("place", ["script", "notebook"])
def test_a_ctrl_c_keeps_what_arrived(store: Path, place: str) -> None:
    with ScriptedServer(lambda body, _: Step(rate(body), delay_s=0.05)) as server:
        process = Forked(until_interrupted, server.url, store, place, folder=store.parent)
        wait_until(lambda: server.n_requests >= 40 or not process.is_alive)
        os.kill(process.pid, signal.SIGINT)
        done = process.wait()
        assert (done.stdout, done.stderr, done.returncode) == ("stopped\n", "", 0)
        ((kept,),) = rows(store, "SELECT count(*) FROM replies")
        # only what was in flight is lost
        assert server.n_requests - 4 <= kept <= server.n_requests < 2000
