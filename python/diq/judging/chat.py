"""Client of a server that speaks OpenAI's chat completions: a conversation in, a reply or the reason why none came out.

What a single request meets (a time-out, a 5xx, half a body, HTML) is that reply's problem. What every request would
meet (no server, a wrong key, an unknown model) is an error, and nothing more is asked. A failure that is told inside an
HTTP 200 is taken as if it were the status. The key is read from the environment, sent, and struck out of everything
that comes back.

A server is trusted with the questions and with nothing else: a reply has limits in bytes and in seconds, and no
redirect takes the questions to an address that the user did not name.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import re
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any
from urllib.parse import urljoin

import openai

from diq.base.errors import DiqError, RunFailedError, UsageError
from diq.base.sample import inline_reasoning
from diq.base.text import amount, first_line, short, without_secrets
from diq.judging.options import BASE_URL_VARIABLE, Server

log = logging.getLogger(__name__)

# seconds that everybody waits when a 429 outlasts the client's own retries, which end after some 20 seconds: limits are
# counted by the minute, and the client neither waits longer than 8 seconds by itself nor obeys a Retry-After above 120
RATE_PAUSES_S = (15.0, 30.0, 60.0, 120.0)
# a server that asks for more patience than this has a quota by the day, and waiting is the user's to decide
_LONGEST_PAUSE_S = 600.0
# before the second request of all, when the first one failed
_FIRST_PAUSE_S = 0.5
# what the client repeats besides 5xx
_TRANSIENT = (408, 409, 429)
# a failure inside an HTTP 200 that names no status is the upstream's
_UPSTREAM_FAILED = 502
# a refusal of what was asked, whoever asks: it may come before any question was answered
_MODERATED = re.compile(r"moderat|flagged|content.?(?:filter|policy)|safety|guardrail", re.IGNORECASE)
# fields beside the content in which servers with a reasoning parser give the thinking
_REASONING = ("reasoning_content", "reasoning", "thinking")
# share of replies that hold thinking alone above which something is wrong with the request or the server
_MANY_UNFINISHED = 0.1
# the name of the limit that OpenAI's newer models ask for, and that not every other server knows
_OTHER_LIMIT = "max_completion_tokens"
# what is sent to a server that needs no key; the client refuses to send none
_NO_KEY = "none"
# shorter keys are placeholders such as EMPTY, and striking them out would spoil replies
_SECRET_CHARACTERS = 6
# most bytes of a reply, unpacked: some room for what servers tell beside the text, and for each token its spelling as
# \uXXXX, in the content and in up to three fields of thinking
_ROOM_BYTES, _TOKEN_BYTES = 4 * 2**20, 64
# of the body of an error, whose first words are all that is told
_ERROR_BYTES = 2**20
# what a reply may be packed with; of others the client may unpack any number of bytes at once
_PACKED = ("", "identity", "gzip", "deflate")
# headers of a body as it was sent, which it no longer is when it has been unpacked
_FRAMING = (b"content-encoding", b"content-length", b"transfer-encoding")


@dataclass(frozen=True, slots=True)
class Reply:
    """What came of one question to the server.

    Attributes:
        content: the reply; empty where the model said nothing, None where no reply came. Where it holds nothing and
            the thinking came in a field of its own, the thinking as ``<think>...</think>``.
        reasoning: thinking that came in a field beside a content; empty without any.
        problem: why none came.
        is_refusal: whether the server answered that it will not take this question (HTTP 4xx, such as a prompt that is
            longer than the context, or a content filter).
        finish_reason: why the model stopped, as the server says it.
        prompt_tokens: as the server counts them; None where it does not.
        completion_tokens: as the server counts them; None where it does not.
        retries: requests that failed before the last one.
        seconds: from the first request to the reply.
        is_unfinished: whether it holds thinking and no content.
    """

    content: str | None = None
    reasoning: str = ""
    problem: str | None = None
    is_refusal: bool = False
    finish_reason: str | None = None
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    retries: int = 0
    seconds: float = 0.0
    is_unfinished: bool = False

    def whole(self) -> str:
        """Everything that the model said, its thinking in front."""
        return _with_thinking(self.reasoning, self.content or "")


class Chat:
    """An open client; an ``async with`` block closes its connections.

    The first question goes out alone and once: a server that is down, a wrong key or an unknown name is found with one
    request, however many questions wait.

    Args:
        server: whom to ask, and how.

    Raises:
        UsageError: the address or the key cannot be used.
    """

    def __init__(self, server: Server) -> None:
        self.server = server
        self._key = os.environ.get(server.api_key_variable, "").strip()
        if not server.url.startswith(("http://", "https://")):
            raise UsageError(
                f"the server's address `{server.shown_url}` does not begin with http:// or https://",
                "give it like --base-url http://localhost:8000/v1",
            )
        if not (self._key.isascii() and self._key.isprintable()):
            raise UsageError(
                f"the key in ${server.api_key_variable} holds characters that no request can carry",
                "set it to the key alone, without quotes or line breaks",
            )
        self._secrets = [one for one in (self._key, server.password) if len(one) >= _SECRET_CHARACTERS]
        self._client = openai.AsyncOpenAI(
            api_key=self._key or _NO_KEY,
            base_url=server.url,
            max_retries=server.retries,
            timeout=openai.Timeout(server.timeout, connect=min(10.0, server.timeout)),
            http_client=_WaryClient(server),
        )
        self._first = asyncio.Lock()
        self._reached = False
        self._limit = "max_tokens"
        self._resume_at = 0.0
        self._stop: DiqError | None = None
        self._n_replies = self._n_unfinished = self._denied_in_a_row = 0

    async def __aenter__(self) -> Chat:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._client.close()
        if self._n_unfinished > _MANY_UNFINISHED * self._n_replies:
            log.warning(
                "%d of %s hold thinking and no answer: raise --max-tokens where they were cut, else look at the "
                "server's reasoning parser",
                self._n_unfinished, amount(self._n_replies, "reply", "replies"),
            )  # fmt: skip

    async def ask(self, messages: Sequence[Mapping[str, str]]) -> Reply:
        """Ask once, with the retries that the server asks for.

        Args:
            messages: the conversation, ``{"role": ..., "content": ...}`` each.

        Raises:
            UsageError: the server refuses the key or knows no such model or path.
            RunFailedError: nobody answers at the address, the account has no quota left, or a server that answered
                before refuses everything.
        """
        started = time.monotonic()
        retries = self.server.retries
        failed = 0
        reply = None
        if not self._reached:
            async with self._first:
                if not self._reached:
                    try:
                        reply = await self._try(messages, retries=0, first=True)
                    except _TransientError as error:
                        failed = 1
                        if retries and error.retry_after_s <= _LONGEST_PAUSE_S:
                            self._resume_at = time.monotonic() + max(_FIRST_PAUSE_S, error.retry_after_s)
                        else:
                            reply = error.reply
                    self._reached = True
        if reply is None:
            reply = await self._patiently(messages, retries=retries - failed)
            reply = replace(reply, retries=reply.retries + failed)
        return replace(reply, seconds=time.monotonic() - started)

    async def _patiently(self, messages: Sequence[Mapping[str, str]], *, retries: int) -> Reply:
        """Ask, and wait while the server says that it is asked too often."""
        failed = 0
        for pause in (*(RATE_PAUSES_S if self.server.retries else ()), None):
            await asyncio.sleep(max(0.0, self._resume_at - time.monotonic()))
            try:
                reply = await self._try(messages, retries=retries)
                return replace(reply, retries=reply.retries + failed)
            except _TransientError as error:
                reply = replace(error.reply, retries=error.reply.retries + failed)
                wait = max(pause or 0.0, error.retry_after_s)
                if not error.is_rate_limit or pause is None or wait > _LONGEST_PAUSE_S:
                    return reply
                failed = reply.retries + 1
                if time.monotonic() >= self._resume_at:
                    log.warning("the server is asked too often (429): waiting %.0f s", wait)
                self._resume_at = max(self._resume_at, time.monotonic() + wait)
        raise AssertionError("the last round returns")

    async def _try(self, messages: Sequence[Mapping[str, str]], *, retries: int, first: bool = False) -> Reply:
        """One call of the client, its retries included.

        Raises:
            DiqError: every further request would fail as well.
            _TransientError: a later one may not.
        """
        if self._stop:
            raise self._stop
        server = self.server
        settings: dict[str, Any] = {self._limit: server.max_tokens}
        if server.temperature is not None:
            settings["temperature"] = server.temperature
        conversation: Any = list(messages)
        client = self._client.with_options(max_retries=retries)
        try:
            raw = await client.chat.completions.with_raw_response.create(
                model=server.model, messages=conversation, **settings
            )
        except openai.APIStatusError as error:
            self._stop = self._refusal(error)
            if self._stop:
                # the request in the chain of errors carries the key
                raise self._stop from None
            status = error.status_code
            kind = "error" if _IS_INSIDE in error.response.extensions else "HTTP"
            reply = Reply(problem=f"{kind} {status}: {self._words(error.response)}", retries=_retries(error))
            if status == 400 and self._limit == "max_tokens" and _OTHER_LIMIT in error.response.text:
                self._limit = _OTHER_LIMIT
                log.info("the server wants `%s` in the place of `max_tokens`", _OTHER_LIMIT)
                return await self._try(messages, retries=retries, first=first)
            if status in _TRANSIENT or status >= 500:
                raise _TransientError(reply, _retry_after_s(error.response), is_rate_limit=status == 429) from None
            return replace(reply, is_refusal=True)
        except openai.APIConnectionError as error:
            words = self._redact(first_line(error.__cause__ or error))
            if first and "Connect" in type(error.__cause__).__name__:
                self._stop = RunFailedError(
                    f"no server answers at {server.shown_url}: {words}",
                    f"start it, or name another address with --base-url or ${BASE_URL_VARIABLE}",
                )
                raise self._stop from None
            if _IS_LATE in error.request.extensions:
                problem = f"no whole reply within {server.longest_s:g} seconds: raise --timeout for a server so slow"
            elif isinstance(error, openai.APITimeoutError):
                problem = f"no reply within {server.timeout:g} seconds"
            else:
                problem = f"the connection broke: {words}"
            raise _TransientError(Reply(problem=problem, retries=_retries(error))) from None
        unfit = raw.http_response.extensions.get(_UNFIT)
        if unfit is not None:
            return Reply(problem=unfit, retries=raw.retries_taken)
        # struck out before anything is cut off, and once more where JSON had spelt it in another way
        reply = read_completion(self._redact(raw.http_response.content.decode(errors="replace")))
        if reply.content is None:
            return replace(reply, retries=raw.retries_taken)
        self._n_replies += 1
        self._n_unfinished += reply.is_unfinished
        self._denied_in_a_row = 0
        return replace(
            reply,
            content=self._redact(reply.content),
            reasoning=self._redact(reply.reasoning),
            retries=raw.retries_taken,
        )

    def _refusal(self, error: openai.APIStatusError) -> DiqError | None:
        """The error that every further request would meet as well; None where it may be this one's alone."""
        server, variable = self.server, self.server.api_key_variable
        goes_on = "what came is kept, and the same command goes on where it stopped"
        target = error.response.headers.get("location")
        if 300 <= error.status_code < 400 and target is not None:
            with contextlib.suppress(ValueError):
                # a path alone is one of the same server's
                target = urljoin(str(error.request.url), target)
            place = short(self._redact(without_secrets(target)), width=200)
            kind = RunFailedError if self._n_replies else UsageError
            return kind(
                f"the server at {server.shown_url} sends the questions on to {place} (HTTP {error.status_code}), and "
                "diq sends them nowhere but where it was told to",
                "if that is where they belong, name its address with --base-url",
            )
        if error.status_code == 403 and (self._n_replies or _MODERATED.search(error.response.text)):
            # a key that was accepted is no reason: this question is refused, unless all are from now on
            self._denied_in_a_row += 1
            if self._denied_in_a_row < max(10, 2 * server.concurrency):
                return None
            return RunFailedError(
                f"the server at {server.shown_url} refuses everything (HTTP 403, {self._denied_in_a_row} times in a "
                f"row): {self._words(error.response)}",
                f"look at the account of ${variable}; {goes_on}",
            )
        if error.status_code in (401, 403):
            known = "is set, but was not accepted" if self._key else "is not set"
            # servers print parts of a wrong key, so their words are left out
            return UsageError(
                f"the server at {server.shown_url} refused access (HTTP {error.status_code}): ${variable} {known}",
                f"set ${variable} to a key of this server, or name another variable with --api-key-variable",
            )
        if error.status_code == 402:
            return RunFailedError(
                f"the account at {server.shown_url} has to pay first (HTTP 402): {self._words(error.response)}", goes_on
            )
        if error.status_code == 404 and self._n_replies:
            return RunFailedError(
                f"the server at {server.shown_url} no longer answers as `{server.model}` (HTTP 404): "
                f"{self._words(error.response)}",
                goes_on,
            )
        if error.status_code == 404:
            return UsageError(
                f"the server at {server.shown_url} knows no model `{server.model}`, or has no such path (HTTP 404): "
                f"{self._words(error.response)}",
                "compare --model with the names in BASE_URL/models; most addresses end in /v1",
            )
        if error.code == "insufficient_quota":
            return RunFailedError(
                f"the account at {server.shown_url} has no quota left (HTTP 429)",
                goes_on,
            )
        return None

    def _words(self, response: Any) -> str:
        """What a server says of a failure, on one line."""
        try:
            body: Any = json.loads(response.content)
        except (ValueError, RecursionError):
            body = response.text
        failure = _failure_inside(body)
        if failure is not None:
            body = failure
        if isinstance(body, list) and body:
            body = body[0]
        for key in ("error", "message", "detail"):
            if isinstance(body, Mapping) and body.get(key):
                body = body[key]
        return short(self._redact(str(body or response.reason_phrase)), width=200)

    def _redact(self, text: str) -> str:
        for secret in self._secrets:
            text = text.replace(secret, "[key]")
        return text


class _TransientError(Exception):
    """A failure that the next request may be spared, after the client's own retries."""

    def __init__(self, reply: Reply, retry_after_s: float = 0.0, *, is_rate_limit: bool = False) -> None:
        super().__init__(reply.problem)
        self.reply, self.retry_after_s, self.is_rate_limit = reply, retry_after_s, is_rate_limit


# keys of what the client below writes beside a request or a response
_IS_LATE, _IS_INSIDE, _UNFIT = "diq_is_late", "diq_failure_inside", "diq_unfit"


class _WaryClient(openai.DefaultAsyncHttpxClient):
    """An HTTP client that reads no reply without end, in bytes or in seconds, and follows no redirect.

    Args:
        server: its timeout and number of tokens say what is too much.
    """

    def __init__(self, server: Server) -> None:
        super().__init__(follow_redirects=False, headers={"Accept-Encoding": "gzip"})
        self._longest_s, self._max_tokens = server.longest_s, server.max_tokens
        self._most_bytes = _ROOM_BYTES + _TOKEN_BYTES * server.max_tokens

    async def send(self, request: Any, *, stream: bool = False, **options: Any) -> Any:
        """Send a request and read its reply; ``stream`` changes nothing.

        Raises:
            ReadTimeout: of the library beneath, where the reply is not whole in time.
        """
        try:
            return await asyncio.wait_for(self._exchange(request, options), self._longest_s)
        except asyncio.TimeoutError:
            request.extensions[_IS_LATE] = True
            # openai repeats what the library beneath raises, which is httpx or in later releases httpx2
            beneath: Any = sys.modules[type(request).__module__.partition(".")[0]]
            raise beneath.ReadTimeout("the reply is not whole", request=request) from None

    async def _exchange(self, request: Any, options: Mapping[str, Any]) -> Any:
        response = await super().send(request, stream=True, **options)
        packed = str(response.headers.get("content-encoding", "")).strip().lower()
        most = self._most_bytes if response.is_success else _ERROR_BYTES
        body, unfit = bytearray(), None
        try:
            if packed not in _PACKED:
                unfit = f"the server sent a reply packed as {short(packed, width=40)}, which diq did not ask for"
            else:
                async with contextlib.aclosing(response.aiter_bytes()) as parts:
                    async for part in parts:
                        body += part
                        if len(body) > most:
                            del body[most:]
                            unfit = (
                                f"the server sent more than {most:,} bytes for a reply of at most "
                                f"{amount(self._max_tokens, 'token')}, and the rest was not read"
                            )
                            break
        finally:
            await response.aclose()
        extensions, status = {**response.extensions}, response.status_code
        if response.is_success and unfit is not None:
            extensions[_UNFIT] = unfit
        elif status == 200 and (failure := _failure_inside(_json_of(bytes(body)))) is not None:
            # a failure that is told inside a success is treated alike
            extensions[_IS_INSIDE], status = True, _status_of(failure)
        return type(response)(
            status,
            headers=[(name, value) for name, value in response.headers.raw if name.lower() not in _FRAMING],
            content=bytes(body),
            request=response.request,
            extensions=extensions,
        )


def _json_of(body: bytes) -> Any:
    """What a body holds; None where it is no JSON."""
    try:
        return json.loads(body)
    except (ValueError, RecursionError):
        return None


def _failure_inside(body: Any) -> dict[str, Any] | None:
    """The error in a body that has one in the place of an answer, or whose answer ended by one."""
    if not isinstance(body, dict):
        return None
    choices = body.get("choices")
    choice = choices[0] if isinstance(choices, list) and choices and isinstance(choices[0], dict) else None
    if choice is None:
        # as servers write it, and as older vLLM does
        found = body.get("error") or (body if body.get("object") == "error" else None)
    elif choice.get("finish_reason") == "error" or (choice.get("error") and not choice.get("finish_reason")):
        found = choice.get("error") or body.get("error") or {"message": "finish_reason error"}
    else:
        found = None
    if not found:
        return None
    return found if isinstance(found, dict) else {"message": str(found)}


def _status_of(failure: Mapping[str, Any]) -> int:
    """The HTTP status that an error stands for."""
    for name in ("code", "status"):
        value = str(failure.get(name))
        if re.fullmatch(r"[45]\d\d", value):
            return int(value)
    kind = f"{failure.get('code')} {failure.get('type')}"
    return 429 if re.search(r"rate.?limit|quota", kind, re.IGNORECASE) else _UPSTREAM_FAILED


def _with_thinking(reasoning: str, content: str, *, is_cut: bool = False) -> str:
    """Thinking in front of the content, as models write both into one text; not closed where it was cut."""
    if not reasoning:
        return content
    if is_cut:
        return f"<think>\n{reasoning}"
    message = {"role": "assistant", "content": content, "reasoning_content": reasoning}
    return str(inline_reasoning(message)["content"]).rstrip()


def read_completion(body: str) -> Reply:
    """Read the body of a chat completion, whatever it is: what is not one is a reply without content, and why."""
    try:
        found = json.loads(body)
    except (ValueError, RecursionError):
        return Reply(problem=f"the server sent no JSON: {short(body, width=100)}")
    choices = found.get("choices") if isinstance(found, dict) else None
    first = choices[0] if isinstance(choices, list) and choices else None
    choice = first if isinstance(first, dict) else {}
    message = choice.get("message")
    if not isinstance(message, dict):
        return Reply(problem=f"the server sent no choices: {short(json.dumps(found), width=100)}")
    usage = found.get("usage")
    finish_reason = short(_text(choice.get("finish_reason")), width=40) or None
    # a refusal takes the place of the content; the text is kept either way
    content = _text(message.get("content")) or _text(message.get("refusal"))
    if finish_reason == "content_filter":
        said = f" after: {short(content)}" if content.strip() else ""
        return Reply(problem=f"a content filter stopped the answer{said}", is_refusal=True, finish_reason=finish_reason)
    reasoning = next(filter(None, (_text(message.get(name)).strip() for name in _REASONING)), "")
    reasoning = reasoning or _thinking_parts(message.get("content")).strip()
    is_unfinished = bool(reasoning) and not content.strip()
    if is_unfinished:
        content, reasoning = _with_thinking(reasoning, "", is_cut=finish_reason == "length"), ""
    return Reply(
        content=content,
        reasoning="" if reasoning in content else reasoning,
        is_unfinished=is_unfinished,
        finish_reason=finish_reason,
        prompt_tokens=_count(usage, "prompt_tokens"),
        completion_tokens=_count(usage, "completion_tokens"),
    )


def _text(value: Any) -> str:
    """Text of a content: a string, or the parts of it in a list; empty for anything else."""
    if isinstance(value, list):
        return "".join(_text(part.get("text")) for part in value if isinstance(part, dict))
    return _clean(value) if isinstance(value, str) else ""


def _thinking_parts(value: Any) -> str:
    """Text of the parts of a content that are thinking."""
    parts = value if isinstance(value, list) else []
    return "".join(_text(part.get("thinking")) for part in parts if isinstance(part, dict))


def _clean(text: str) -> str:
    """The text without lone surrogates, which JSON can spell and UTF-8 cannot."""
    return text.encode("utf-8", "replace").decode()


def _count(usage: Any, name: str) -> int | None:
    value = usage.get(name) if isinstance(usage, dict) else None
    return value if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**31 else None


def _retries(error: openai.APIError) -> int:
    """Requests that failed before the last one, which carries their number."""
    return int(error.request.headers.get("x-stainless-retry-count", 0))


def _retry_after_s(response: Any) -> float:
    """Seconds that a server asks to wait; 0 where it does not say, or says it as a date."""
    try:
        return max(0.0, float(response.headers.get("retry-after", 0)))
    except ValueError:
        return 0.0
