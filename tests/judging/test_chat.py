"""The client against a real HTTP server that fails as it is told: what is repeated, what is a problem, what ends it."""

from __future__ import annotations

import asyncio
import itertools
import json
import logging
import socket
import time
import tracemalloc
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from chat_server import ScriptedServer, Step, completion
from diq.base.errors import DiqError, RunFailedError, UsageError
from diq.judging import chat
from diq.judging.chat import Chat, Reply, read_completion
from diq.judging.options import Server

KEY = "sk-very-secret-0123456789"


@pytest.fixture(autouse=True)
def _no_key(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("OPENAI_API_KEY", "OPENAI_BASE_URL", "HTTP_PROXY", "http_proxy"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(chat, "_FIRST_PAUSE_S", 0.0)
    monkeypatch.setattr("openai._base_client.INITIAL_RETRY_DELAY", 0.01)


def ask(server: Server, questions: Sequence[str] = ("why?",)) -> list[Reply]:
    """Ask one question after the other."""

    async def work() -> list[Reply]:
        async with Chat(server) as client:
            return [await client.ask([{"role": "user", "content": one}]) for one in questions]

    return asyncio.run(work())


@contextmanager
def steps(*what: Step | str, **more: Any) -> Iterator[ScriptedServer]:
    """A server that does one thing after the other, and the last one from then on."""
    with ScriptedServer(lambda _, before: what[min(before, len(what) - 1)], **more) as server:
        yield server


def test_a_reply_and_what_is_sent() -> None:
    with steps("because") as server:
        (reply,) = ask(Server("m", base_url=server.url, max_tokens=77))
    assert (reply.content, reply.problem, reply.finish_reason, reply.retries) == ("because", None, "stop", 0)
    assert (reply.prompt_tokens, reply.completion_tokens) == (100, 20)
    assert reply.seconds > 0
    assert server.bodies == [
        {"model": "m", "messages": [{"role": "user", "content": "why?"}], "max_tokens": 77, "temperature": 0.0}
    ]


def test_no_temperature_is_sent_where_none_is_wanted() -> None:
    with steps("because") as server:
        ask(Server("m", base_url=server.url, temperature=None))
    assert "temperature" not in server.bodies[0]


def test_the_limit_is_sent_under_the_name_that_the_model_takes(caplog: pytest.LogCaptureFixture) -> None:
    def script(body: dict[str, Any], _: int) -> Step | str:
        if "max_tokens" in body:
            return Step(status=400, body={"error": {"message": "no 'max_tokens', use 'max_completion_tokens'"}})
        return "because"

    with ScriptedServer(script) as server, caplog.at_level(logging.INFO, logger="diq"):
        assert [one.content for one in ask(Server("m", base_url=server.url, max_tokens=9), ["a", "b"])] == [
            "because"
        ] * 2
    assert [body.get("max_completion_tokens") for body in server.bodies] == [None, 9, 9]
    assert "max_completion_tokens" in caplog.text
    # a server that wants neither is asked once with each
    neither = Step(status=400, body={"detail": "max_tokens and max_completion_tokens are not known"})
    with steps(neither) as server:
        assert ask(Server("m", base_url=server.url))[0].is_refusal
        assert server.n_requests == 2


@pytest.mark.parametrize(
    "failure",
    [
        Step(status=429, headers={"Retry-After": "0.02"}),
        Step(status=500),
        Step(status=503, body="<html>overloaded</html>"),
        Step(status=408),
        Step("half an answer", cut=40),
        Step("nothing at all", cut=0),
        Step("too late", delay_s=2.0),
    ],
    ids=["429", "500", "503", "408", "half", "cut", "late"],
)
@pytest.mark.parametrize("first", [True, False], ids=["first", "later"])
def test_what_may_pass_is_repeated(failure: Step, first: bool) -> None:
    with ScriptedServer(
        lambda body, before: failure if "why" in body["messages"][0]["content"] and before < 2 else "because"
    ) as server:
        asked = ["why?"] if first else ["hello", "why?"]
        reply = ask(Server("m", base_url=server.url, retries=3, timeout=0.5), asked)[-1]
    assert (reply.content, reply.problem, reply.retries) == ("because", None, 2)
    assert server.counts["why?"] == 3


@pytest.mark.parametrize(
    ("failure", "problem"),
    [
        (Step(status=500, body={"error": {"message": "out of\nmemory"}}), "HTTP 500: out of memory"),
        (Step(status=502, body="<html>bad gateway</html>"), "HTTP 502: <html>bad gateway</html>"),
        (Step("half an answer", cut=40), "the connection broke: "),
        (Step("too late", delay_s=2.0), "no reply within 0.3 seconds"),
        (Step(status=429, body={"message": "slow down"}), "HTTP 429: slow down"),
    ],
    ids=["500", "502", "half", "late", "429"],
)
def test_a_lasting_failure_is_this_replys_problem_alone(
    failure: Step, problem: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(chat, "RATE_PAUSES_S", ())
    with ScriptedServer(lambda body, _: failure if "why" in str(body) else "because") as server:
        good, bad, after = ask(Server("m", base_url=server.url, retries=2, timeout=0.3), ["hello", "why?", "again"])
    assert (good.content, after.content) == ("because", "because")
    assert bad.content is None
    assert bad.problem is not None
    assert bad.problem.startswith(problem)
    assert bad.retries == 2
    assert server.counts["why?"] == 3


def ended_by(reason: str, text: str = "", **more: Any) -> dict[str, Any]:
    """A completion that ended for a reason; ``more`` stands in its choice."""
    made = completion(text)
    made["choices"][0] |= {"finish_reason": reason, **more}
    return made


@pytest.mark.parametrize(
    "body",
    [
        {"error": {"message": "Provider returned error", "code": 502}},
        {"error": {"message": "slow down", "code": 429}},
        {"error": {"message": "slow down", "code": "rate_limit_exceeded"}},
        {"error": {"message": "busy", "code": "503"}},
        {"error": {"message": "busy"}},
        {"error": "busy", "choices": []},
        {"object": "error", "message": "busy", "code": 500},
        ended_by("error", error={"code": 502, "message": "Upstream idle timeout"}),
        ended_by("error", "half an ans"),
        ended_by("error") | {"error": {"code": 504, "message": "late"}},
        {"choices": [{"error": {"code": 500, "message": "broken"}}]},
    ],
    ids=str,
)
@pytest.mark.parametrize("first", [True, False], ids=["first", "later"])
def test_a_failure_inside_a_200_is_repeated_like_one(body: dict[str, Any], first: bool) -> None:
    with ScriptedServer(
        lambda asked, before: Step(body=body) if "why" in str(asked["messages"]) and before < 2 else "because"
    ) as server:
        asked = ["why?"] if first else ["hello", "why?"]
        reply = ask(Server("m", base_url=server.url, retries=3), asked)[-1]
    assert (reply.content, reply.problem, reply.retries) == ("because", None, 2)
    assert server.counts["why?"] == 3


@pytest.mark.parametrize(
    ("body", "problem", "is_refusal"),
    [
        (ended_by("error", error={"code": 502, "message": "idle"}), "error 502: idle", False),
        (ended_by("error", "half an ans"), "error 502: finish_reason error", False),
        ({"error": {"message": "too long", "code": 400}}, "error 400: too long", True),
        (ended_by("content_filter"), "a content filter stopped the answer", True),
        (ended_by("content_filter", "The ans"), "a content filter stopped the answer after: The ans", True),
    ],
    ids=str,
)
def test_a_lasting_failure_inside_a_200_is_no_reply(body: dict[str, Any], problem: str, is_refusal: bool) -> None:
    with ScriptedServer(lambda asked, _: Step(body=body) if "why" in str(asked["messages"]) else "because") as server:
        _, bad, after = ask(Server("m", base_url=server.url, retries=1), ["hello", "why?", "again"])
    assert (bad.content, bad.problem, bad.is_refusal) == (None, problem, is_refusal)
    assert after.content == "because"
    assert server.counts["why?"] == (1 if is_refusal else 2)


FLAGGED = Step(status=403, body={"error": {"code": 403, "message": "your input was flagged", "metadata": {}}})


def test_a_403_after_a_success_refuses_one_question_with_the_servers_words() -> None:
    for refused in (FLAGGED, Step(status=403, body={"detail": "not in your region"})):
        with ScriptedServer(lambda body, _, step=refused: step if "why" in str(body) else "because") as server:
            _, bad, after = ask(Server("m", base_url=server.url), ["hello", "why?", "again"])
        assert (bad.content, bad.is_refusal, after.content) == (None, True, "because")
        assert bad.problem in ("HTTP 403: your input was flagged", "HTTP 403: not in your region")
    # words of moderation are no matter of the key, even at first
    with ScriptedServer(lambda body, _: FLAGGED if "why" in str(body) else "because") as server:
        bad, after = ask(Server("m", base_url=server.url), ["why?", "hello"])
    assert (bad.is_refusal, after.content) == (True, "because")


def test_a_403_at_first_is_the_keys_and_many_in_a_row_end_it() -> None:
    with steps(Step(status=403, body={"detail": "no"})) as server, pytest.raises(UsageError, match="refused access"):
        ask(Server("m", base_url=server.url))
    with ScriptedServer(lambda body, _: "because" if "hello" in str(body) else FLAGGED) as server:
        with pytest.raises(RunFailedError, match=r"refuses everything \(HTTP 403, 10 times in a row\): .*flagged"):
            ask(Server("m", base_url=server.url, concurrency=1), ["hello", *(f"why {i}?" for i in range(30))])
        assert server.n_requests == 11


@pytest.mark.parametrize(
    ("status", "message"), [(402, "has to pay first .*: top up"), (404, "no longer answers as `m` .*: top up")]
)
def test_402_and_404_in_the_middle_end_it_and_say_that_it_goes_on(status: int, message: str) -> None:
    stop = Step(status=status, body={"error": {"message": "top up", "code": status}})
    for step in (stop, Step(body=stop.body)):
        with ScriptedServer(lambda body, _, step=step: "because" if "hello" in str(body) else step) as server:
            with pytest.raises(RunFailedError, match=message) as caught:
                ask(Server("m", base_url=server.url), ["hello", "why?", "again"])
            assert server.n_requests == 2
        assert "goes on where it stopped" in caught.value.hint


def test_thinking_in_a_field_of_its_own_is_kept(caplog: pytest.LogCaptureFixture) -> None:
    cut = completion(None, reasoning_content="so far")
    cut["choices"][0]["finish_reason"] = "length"
    bodies = [completion(None, reasoning="all of it"), cut, completion("because", reasoning="before")]
    with ScriptedServer(lambda body, _: Step(body=bodies[int(body["messages"][0]["content"])])) as server:
        found = ask(Server("m", base_url=server.url), ["0", "1", "2"])
    # what was cut is not closed, as in an output that holds both
    assert [one.content for one in found] == ["<think>\nall of it\n</think>", "<think>\nso far", "because"]
    assert found[2].whole() == "<think>\nbefore\n</think>\n\nbecause"
    assert [one.whole() for one in found[:2]] == [one.content for one in found[:2]]
    assert "2 of 3 replies hold thinking and no answer" in caplog.text


def test_a_request_that_the_server_calls_bad_is_not_repeated() -> None:
    wrong = Step(status=400, body={"error": {"message": "the prompt is longer than the context"}})
    with ScriptedServer(lambda body, _: wrong if "why" in str(body) else "because") as server:
        bad, good = ask(Server("m", base_url=server.url), ["why?", "hello"])
    assert (bad.problem, bad.is_refusal, bad.retries) == ("HTTP 400: the prompt is longer than the context", True, 0)
    assert good.content == "because"
    assert server.counts["why?"] == 1


def test_a_long_phase_of_429_is_waited_for(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setattr(chat, "RATE_PAUSES_S", (0.05, 0.1))
    with (
        ScriptedServer(
            lambda body, before: Step(status=429) if "why" in str(body) and before < 5 else "because"
        ) as one,
        caplog.at_level(logging.WARNING, logger="diq"),
    ):
        # two requests a round: the client repeats once, then there is a pause
        reply = ask(Server("m", base_url=one.url, retries=1), ["hello", "why?"])[-1]
    assert (reply.content, reply.retries) == ("because", 5)
    assert one.counts["why?"] == 6
    assert [record.getMessage() for record in caplog.records].count(
        "the server is asked too often (429): waiting 0 s"
    ) == 2


def test_a_quota_of_a_day_is_not_waited_for() -> None:
    with steps("because", Step(status=429, headers={"Retry-After": "86400"}, body={"message": "tomorrow"})) as server:
        assert ask(Server("m", base_url=server.url), ["why?", "why?"])[1] == Reply(
            problem="HTTP 429: tomorrow", seconds=pytest.approx(0, abs=60)
        )
    assert server.n_requests == 2
    empty = Step(status=429, body={"error": {"message": "pay", "code": "insufficient_quota"}})
    with steps(empty) as server, pytest.raises(RunFailedError, match="no quota left"):
        ask(Server("m", base_url=server.url, retries=0))
    assert server.n_requests == 1


def test_no_retries_means_one_request() -> None:
    for failure in (Step(status=429), Step(status=500)):
        with steps(failure) as server:
            first, second = ask(Server("m", base_url=server.url, retries=0), ["why?", "hello"])
        assert first.content is second.content is None
        assert server.counts == {"why?": 1, "hello": 1}


HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"
MEGABYTE = b" " * 2**20


def plain() -> Iterator[bytes]:
    """A body of 96 MB, of which 10 GB are promised."""
    yield HEAD + b"Content-Length: 10737418240\r\n\r\n"
    yield from itertools.repeat(MEGABYTE, 96)


def chunked() -> Iterator[bytes]:
    """96 MB of a body without a length and without an end."""
    yield HEAD + b"Transfer-Encoding: chunked\r\n\r\n"
    yield from itertools.repeat(b"100000\r\n" + MEGABYTE + b"\r\n", 96)


def failing() -> Iterator[bytes]:
    """An error that says 96 MB."""
    yield HEAD.replace(b"200 OK", b"400 X") + b"Content-Length: 10737418240\r\n\r\n"
    yield from itertools.repeat(b"\x1b[31mno" + MEGABYTE, 96)


def packed(name: str) -> Iterator[bytes]:
    """96 MB of spaces in a hundred kB, sent though nobody asked for it."""
    packer = zlib.compressobj(9, zlib.DEFLATED, 31)
    body = b"".join([*(packer.compress(MEGABYTE) for _ in range(96)), packer.flush()])
    yield HEAD + f"Content-Encoding: {name}\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body


@pytest.mark.parametrize(
    ("pieces", "problem"),
    [
        (
            plain,
            "the server sent more than 4,202,304 bytes for a reply of at most 125 tokens, and the rest was not read",
        ),
        (chunked, "the server sent more than 4,202,304 bytes"),
        (lambda: packed("gzip"), "the server sent more than 4,202,304 bytes"),
        # one packed thing in another is a thousand times a thousand
        (lambda: packed("gzip, gzip"), "the server sent a reply packed as gzip, gzip, which diq did not ask for"),
        (failing, r"HTTP 400: \x1b[31mno"),
    ],
    ids=["plain", "chunked", "gzip", "gzip of gzip", "error"],
)
def test_a_reply_without_end_is_one_problem_and_takes_no_memory(
    pieces: Callable[[], Iterator[bytes]], problem: str
) -> None:
    hostile = Step(raw=pieces)
    with ScriptedServer(lambda body, _: hostile if "why" in str(body) else "because") as server:
        tracemalloc.start()
        try:
            _, bad, after = ask(Server("m", base_url=server.url, max_tokens=125, retries=2), ["hello", "why?", "again"])
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
    assert bad.problem is not None
    assert bad.problem.startswith(problem)
    assert len(bad.problem) < 300
    assert (bad.content, after.content) == (None, "because")
    # it is not asked for again, and what was not read stayed with the server, but for what sockets hold
    assert server.counts["why?"] == 1
    assert server.n_raw_bytes < 32 * 2**20
    assert peak < 32 * 2**20


def test_a_long_reply_that_fits_its_tokens_is_taken() -> None:
    # all of it in the spelling that takes most room
    long = "\u4e2d" * 400_000
    with steps(Step(body=completion(long, reasoning=f"so {long}"))) as server:
        (reply,) = ask(Server("m", base_url=server.url, max_tokens=400_000))
    is_whole = (reply.content, reply.reasoning) == (long, f"so {long}")
    assert is_whole, reply.problem


def dripping(head: bytes, drop: bytes) -> Step:
    """Something every 50 ms, for ever."""

    def pieces() -> Iterator[bytes]:
        yield head
        while True:
            time.sleep(0.05)
            yield drop

    return Step(raw=pieces)


@pytest.mark.parametrize(
    "slow",
    [
        dripping(HEAD + b"Content-Length: 1000000\r\n\r\n", b" "),
        dripping(HEAD, b"X-More: x\r\n"),
        dripping(b"", b"HTTP/1.1 100 Continue\r\n\r\n"),
    ],
    ids=["body", "headers", "continue"],
)
def test_a_reply_that_drips_has_a_last_second(slow: Step) -> None:
    with ScriptedServer(lambda body, _: slow if "why" in str(body) else "because") as server:
        _, bad, after = ask(Server("m", base_url=server.url, timeout=0.5, retries=1), ["hello", "why?", "again"])
    assert (bad.content, bad.retries, after.content) == (None, 1, "because")
    assert bad.problem == "no whole reply within 1.5 seconds: raise --timeout for a server so slow"
    # it is repeated like any request that took too long
    assert server.counts["why?"] == 2


def test_a_reply_that_takes_longer_than_the_timeout_but_shows_signs_is_taken() -> None:
    def pieces() -> Iterator[bytes]:
        body = json.dumps(completion("because")).encode()
        yield HEAD + f"Content-Length: {len(body) + 10}\r\n\r\n".encode()
        for _ in range(10):
            time.sleep(0.12)
            yield b"\n"
        yield body

    with steps(Step(raw=pieces)) as server:
        assert ask(Server("m", base_url=server.url, timeout=0.8, retries=0))[0].content == "because"


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_no_question_goes_where_a_server_sends_it(status: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    with steps("an answer of another") as other:
        place = f"{other.url.replace('://', f'://me:{KEY}@')}/chat/completions"
        redirect = Step(status=status, headers={"Location": f"{place}?key={KEY}#\x1b[31m"})
        with steps(redirect) as server:
            error = ends(Server("m", base_url=server.url), UsageError)
            assert server.n_requests == 1
        with steps("because", redirect) as later, pytest.raises(RunFailedError) as caught:
            ask(Server("m", base_url=later.url), ["why?", "why?"])
    assert error.message == (
        f"the server at {server.url} sends the questions on to {other.url}/chat/completions (HTTP {status}), and diq "
        "sends them nowhere but where it was told to"
    )
    assert "--base-url" in error.hint
    assert caught.value.message == error.message.replace(server.url, later.url)
    assert other.n_requests == 0


def test_a_redirect_to_another_path_of_the_same_server_is_told_with_its_address() -> None:
    with steps(Step(status=307, headers={"Location": "/api/v1/chat/completions"})) as server:
        error = ends(Server("m", base_url=server.url), UsageError)
    assert f"on to {server.url.removesuffix('/v1')}/api/v1/chat/completions (HTTP 307)" in error.message
    assert server.n_requests == 1


def ends(server: Server, kind: type[DiqError]) -> DiqError:
    """The error that ends it, asked by eight at once."""

    async def work() -> None:
        async with Chat(server) as client:
            await asyncio.gather(*(client.ask([{"role": "user", "content": str(i)}]) for i in range(8)))

    with pytest.raises(kind) as caught:
        asyncio.run(work())
    assert "\n" not in caught.value.message
    return caught.value


@pytest.mark.parametrize(("key", "known"), [(KEY, "is set"), (None, "is not set"), ("", "is not set")])
def test_a_wrong_key_names_the_variable_and_never_the_value(
    key: str | None, known: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if key is not None:
        monkeypatch.setenv("OTHER_KEY", key)
    with steps("because", key="the right one") as server:
        error = ends(Server("m", base_url=server.url, api_key_variable="OTHER_KEY"), UsageError)
        assert f"$OTHER_KEY {known}" in error.message
        assert KEY not in repr((error.message, error.hint, error.args, error.__cause__))
    # seven others waited and were not sent
    assert server.n_requests == 1


def test_a_key_that_is_refused_in_the_middle_ends_it_too() -> None:
    with ScriptedServer(lambda _, before: "because" if before == 0 else Step(status=401)) as server:
        with pytest.raises(UsageError, match="401"):
            ask(Server("m", base_url=server.url), ["why?", "why?", "hello"])
        assert server.n_requests == 2


def test_the_right_key_works_with_the_line_break_of_a_file(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", f"{KEY}\n")
    with steps("because", key=KEY) as server:
        assert ask(Server("m", base_url=server.url))[0].content == "because"


def test_a_key_that_no_header_can_hold_is_refused_without_showing_it(monkeypatch: pytest.MonkeyPatch) -> None:
    for value in (f"{KEY}\n{KEY}", f"“{KEY}”"):
        monkeypatch.setenv("OPENAI_API_KEY", value)
        with pytest.raises(UsageError, match="OPENAI_API_KEY") as caught:
            ask(Server("m", base_url="http://127.0.0.1:1/v1"))
        assert KEY not in str(caught.value)


@pytest.mark.slow
def test_a_server_that_repeats_the_key_has_it_struck_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    # also where a message is cut off within the key
    texts = [f"{'x' * n}{KEY}" for n in (0, 70, 80, 90, 180, 190)]
    for step in (
        *(Step(text) for text in texts),
        *(Step(body=text) for text in texts),
        *(Step(body={"error": text}) for text in texts),
        *(Step(status=400, body={"detail": text}) for text in texts),
        *(Step(status=400, body=[{"error": {"message": text}}]) for text in texts),
        Step(body={"choices": [{"message": {"content": "x"}, "finish_reason": KEY}]}),
    ):
        with steps(step) as server:
            (reply,) = ask(Server("m", base_url=server.url))
        assert KEY[:6] not in repr(reply)


def test_an_unknown_model_and_a_wrong_path_end_it(monkeypatch: pytest.MonkeyPatch) -> None:
    with steps("because", model="good") as server:
        error = ends(Server("bad", base_url=server.url), UsageError)
        assert "`bad`" in error.message
        assert "no model bad" in error.message
        assert server.n_requests == 1
        error = ends(Server("good", base_url=server.url.removesuffix("/v1")), UsageError)
        assert "no such path" in error.message
        assert "/v1" in error.hint
        assert server.n_requests == 2


def test_nobody_at_the_address_ends_it_at_once() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}/v1"
    error = ends(Server("m", base_url=url, retries=6), RunFailedError)
    assert url in error.message
    assert "--base-url" in error.hint


def test_a_server_that_goes_away_later_is_a_problem_of_its_replies() -> None:
    async def work() -> list[Reply]:
        async with Chat(Server("m", base_url=server.url, retries=1)) as client:
            first = await client.ask([{"role": "user", "content": "why?"}])
            await asyncio.to_thread(server.stop)
            return [first, await client.ask([{"role": "user", "content": "why?"}])]

    server = ScriptedServer(lambda *_: "because").__enter__()
    first, second = asyncio.run(work())
    assert first.content == "because"
    assert second.content is None
    assert second.problem is not None
    assert second.problem.startswith("the connection broke")


@pytest.mark.parametrize("url", ["localhost:8000/v1", "", "ftp://host/v1", "file:///etc/passwd"])
def test_an_address_that_is_none_is_refused(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_BASE_URL", url or "nonsense")
    with pytest.raises(UsageError, match="http://"):
        ask(Server("m", base_url=url or None))


def test_the_address_comes_from_the_option_then_the_environment_then_openai(monkeypatch: pytest.MonkeyPatch) -> None:
    assert Server("m").url == "https://api.openai.com/v1"
    monkeypatch.setenv("OPENAI_BASE_URL", "http://one/v1")
    assert Server("m").url == "http://one/v1"
    assert Server("m", base_url="http://two/v1").url == "http://two/v1"
    assert Server("m", base_url=f"http://me:{KEY}@two:81/v1?key={KEY}").shown_url == "http://two:81/v1"


@pytest.mark.parametrize(
    "wrong",
    [
        {"concurrency": 0},
        {"max_tokens": 0},
        {"retries": -1},
        {"timeout": 0.0},
        {"timeout": float("nan")},
        {"temperature": -0.1},
        {"temperature": float("nan")},
        {"price_prompt": -1.0},
    ],
    ids=str,
)
def test_numbers_out_of_range_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match=next(iter(wrong))):
        Server("m", **wrong)


def test_costs_are_by_the_million() -> None:
    assert Server("m").cost(10, 10) is None
    assert Server("m", price_prompt=2.0).cost(500_000, 10**9) == 1.0
    assert Server("m", price_prompt=2.0, price_completion=8.0).cost(10**6, 250_000) == 4.0


@pytest.mark.parametrize(
    ("body", "content"),
    [
        (completion("because"), "because"),
        (completion(None), ""),
        (completion(""), ""),
        (completion(None, reasoning_content="all of it"), "<think>\nall of it\n</think>"),
        (completion("", reasoning="all of it"), "<think>\nall of it\n</think>"),
        (completion("because", reasoning="not shown"), "because"),
        (completion([{"type": "thinking", "thinking": [{"type": "text", "text": "so"}]}]), "<think>\nso\n</think>"),
        (completion("<think>so</think>\nbecause", reasoning_content="so"), "<think>so</think>\nbecause"),
        (completion(None, refusal="I will not"), "I will not"),
        (completion([{"type": "text", "text": "be"}, {"type": "text", "text": "cause"}, 3]), "because"),
        (completion("\ud800 half a pair"), "? half a pair"),
        ({"choices": [{"message": {"content": "because"}}]}, "because"),
    ],
)
def test_contents(body: Any, content: str) -> None:
    reply = read_completion(json.dumps(body))
    assert (reply.content, reply.problem) == (content, None)


@pytest.mark.parametrize(
    ("body", "problem"),
    [
        ("", "no JSON"),
        ("<!doctype html><html>hello</html>", "no JSON: <!doctype html>"),
        ('{"choices": [{"message": {"content": "hal', "no JSON"),
        ("\ufffd\ufffd\x00", "no JSON"),
        ("[" * 100_000, "no JSON"),
        ("null", "no choices: null"),
        ("{}", "no choices"),
        ("[1]", "no choices"),
        ('{"choices": []}', "no choices"),
        ('{"choices": null}', "no choices"),
        ('{"choices": [null]}', "no choices"),
        ('{"choices": {"0": 1}}', "no choices"),
        ('{"choices": [{"text": "of another endpoint"}]}', "no choices"),
    ],
)
def test_what_is_no_completion_is_a_problem(body: str, problem: str) -> None:
    with ScriptedServer(lambda *_: Step(body=body)) as server:
        found = read_completion(body)
        assert found.content is None
        assert found.problem is not None
        assert problem in found.problem
        # and it comes through the client as that reply's problem, without a repetition
        assert ask(Server("m", base_url=server.url))[0].problem == found.problem
        assert server.n_requests == 1


@pytest.mark.parametrize(
    "usage", [None, [], {}, {"prompt_tokens": "7"}, {"prompt_tokens": -1}, {"prompt_tokens": True}]
)
def test_tokens_that_are_not_counted_are_none(usage: Any) -> None:
    reply = read_completion(json.dumps(completion("x") | {"usage": usage}))
    assert (reply.content, reply.prompt_tokens, reply.completion_tokens) == ("x", None, None)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["choices", "message", "content", "usage", "finish_reason", "prompt_tokens"]), inner
        )
    ),
    max_leaves=12,
)


@settings(max_examples=300, deadline=None)
@given(JSON | st.builds(lambda message: {"choices": [{"message": message}]}, JSON))
def test_no_body_raises(value: Any) -> None:
    reply = read_completion(json.dumps(value))
    assert (reply.content is None) == (reply.problem is not None)
    for text in (reply.content, reply.problem, reply.finish_reason):
        (text or "").encode()
