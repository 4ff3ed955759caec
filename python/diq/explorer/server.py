"""The local server of the page: 127.0.0.1 alone, a token, and nothing from outside.

A page of another site can make a browser send requests here, so every request is checked before it is looked at: the
name that it asks for (rebinding of names), where it comes from, and a token that only who started the page has. The
token comes in the address once, and then in a cookie that no other site's page can have sent.
"""

from __future__ import annotations

import logging
import secrets
import socket
import threading
import urllib.parse
from collections.abc import Awaitable, Callable, Iterator
from importlib.resources import files
from typing import Any

import numpy as np
import numpy.typing as npt
import orjson
import uvicorn
from anyio import to_thread
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from diq.base.errors import DiqError, RunFailedError, UsageError
from diq.explorer import saving, texts
from diq.explorer.requests import Look, PageOf, read_look, read_name, read_page, read_positions, written_look
from diq.explorer.session import Session

log = logging.getLogger(__name__)

HOST = "127.0.0.1"
_MOST_BYTES = 1 << 18
_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self' data:; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'"
)
_HEADERS = {
    "content-security-policy": _POLICY,
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "cache-control": "no-store",
}
_TYPES = {
    "html": "text/html; charset=utf-8",
    "js": "text/javascript; charset=utf-8",
    "css": "text/css; charset=utf-8",
    "svg": "image/svg+xml",
}


class Guard:
    """Refuses every request that does not come from the page itself.

    Args:
        app: what answers the others.
        port: that the server listens on.
        token: that the address of the page holds.
    """

    def __init__(self, app: ASGIApp, port: int, token: str) -> None:
        self._app = app
        self._token = token
        self._hosts = {f"{HOST}:{port}", f"localhost:{port}"}
        self.cookie = f"diq_explore_{port}"

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request, or refuse it."""
        if scope["type"] != "http":
            return
        request = Request(scope, receive)
        given = request.query_params.get("token") if request.url.path == "/" else None
        refusal = self._refusal(request, given)

        async def with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = [(name.encode(), value.encode()) for name, value in _HEADERS.items()]
                if given is not None and refusal is None:
                    cookie = f"{self.cookie}={self._token}; HttpOnly; SameSite=Strict; Path=/"
                    headers.append((b"set-cookie", cookie.encode()))
                message["headers"] = [*message["headers"], *headers]
            await send(message)

        answer = self._app if refusal is None else Response(f"{refusal}\n", 403, media_type="text/plain")
        await answer(scope, receive, with_headers)

    def _refusal(self, request: Request, given: str | None) -> str | None:
        headers = request.headers
        if headers.get("host") not in self._hosts or len(headers.getlist("host")) != 1:
            return "This page answers at its own address alone."
        origin = headers.get("origin")
        if origin is not None and origin not in {f"http://{host}" for host in self._hosts}:
            return "This page answers to itself alone."
        if headers.get("sec-fetch-site", "same-origin") not in ("same-origin", "none") and given is None:
            return "This page answers to itself alone."
        token = given or headers.get("x-diq-token") or request.cookies.get(self.cookie) or ""
        # compared in constant time, as bytes: the comparison of texts takes no other letters than ASCII
        if not secrets.compare_digest(token.encode("utf-8", "replace"), self._token.encode()):
            return "The address lacks its token: open the one that `diq explore` printed."
        return None


def _answer(value: Any, status: int = 200) -> Response:
    return Response(orjson.dumps(value), status, media_type="application/json")


def _refused(error: DiqError) -> Response:
    return _answer({"error": error.message, "hint": error.hint}, 400)


async def _read(request: Request) -> dict[str, Any]:
    """The object that a request holds.

    Raises:
        UsageError: it is too large, no JSON or no object.
    """
    if request.headers.get("content-type", "").partition(";")[0].strip() != "application/json":
        raise UsageError("the request is not JSON")
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > _MOST_BYTES:
            raise UsageError("the request is too large")
    try:
        value = orjson.loads(bytes(body))
    except orjson.JSONDecodeError:
        raise UsageError("the request is not JSON") from None
    if not isinstance(value, dict):
        raise UsageError("the request is no object")
    return value


def _question(answer: Callable[[dict[str, Any]], Response]) -> Callable[[Request], Awaitable[Response]]:
    """A route whose answer is made in a thread; what a user can cause is told, with its hint."""

    async def route(request: Request) -> Response:
        try:
            # who stops the page does not wait for an answer that is being made
            return await to_thread.run_sync(answer, await _read(request), abandon_on_cancel=True)
        except DiqError as error:
            return _refused(error)

    return route


def _routes(session: Session) -> list[Route]:
    def look_of(body: dict[str, Any]) -> Look:
        # the table first: before it is there, no column is known
        names = session.answers.names
        return read_look(body, session.choice.numbers, names, session.choice.set_names)

    def page_of(body: dict[str, Any]) -> PageOf:
        return read_page(body, [*session.choice.numbers, *session.answers.names])

    def look(body: dict[str, Any]) -> Response:
        # what the page remembers of itself is checked like whatever else it asks
        page = page_of(body)
        order = {"sort": page.sort or "position", "descending": page.descending}
        return _answer({"look": written_look(look_of(body)), "order": order})

    def view(body: dict[str, Any]) -> Response:
        facts, counts = session.view(look_of(body), quick=body.get("quick") is True)
        return Response(_packed(facts, counts), media_type="application/octet-stream")

    def table(body: dict[str, Any]) -> Response:
        return _answer({"rows": session.answers.page(look_of(body), page_of(body))})

    def starts(body: dict[str, Any]) -> Response:
        found = texts.starts(session, read_positions(body))
        return _answer({"starts": {str(position): text for position, text in found.items()}})

    def one_position(body: dict[str, Any]) -> int:
        positions = read_positions(body)
        if len(positions) != 1:
            raise UsageError("name one position")
        return positions[0]

    def sample(body: dict[str, Any]) -> Response:
        position = one_position(body)
        scores = session.answers.described(look_of(body), [position])[0]
        return _answer(texts.sample(session, position) | {"scores": scores})

    def tokens(body: dict[str, Any]) -> Response:
        return _answer(texts.tokens(session, one_position(body), look_of(body)))

    def selections(_: dict[str, Any]) -> Response:
        return _answer({"selections": session.selections()})

    def filtered(body: dict[str, Any]) -> Response:
        session.check_whole()
        look = look_of(body)
        return _answer({"sql": saving.as_sql(session, look), "command": saving.command(session, look, read_name(body))})

    def save(body: dict[str, Any]) -> Response:
        return _answer(saving.save(session, look_of(body), read_name(body)))

    def export(body: dict[str, Any]) -> Response:
        session.check_whole()
        lines = saving.exported(session, look_of(body))
        # what is wrong from the start is told in place of a file
        first = next(lines, b"")
        headers = {"content-disposition": 'attachment; filename="brushed.jsonl"'}
        return StreamingResponse(_unbroken(first, lines), media_type="application/x-ndjson", headers=headers)

    async def facts(_: Request) -> Response:
        return _answer(await run_in_threadpool(session.facts))

    async def static(request: Request) -> Response:
        # only names that are there: no path is ever joined
        name = request.path_params.get("name", "index.html")
        if name not in pages:
            return Response("There is no such file.\n", 404, media_type="text/plain")
        return Response(pages[name], media_type=_TYPES[name.rpartition(".")[2]])

    pages = {one.name: one.read_bytes() for one in (files("diq.explorer") / "static").iterdir() if one.is_file()}
    questions: dict[str, Callable[[dict[str, Any]], Response]] = {
        "look": look,
        "view": view,
        "table": table,
        "starts": starts,
        "sample": sample,
        "tokens": tokens,
        "selections": selections,
        "filter": filtered,
        "save": save,
        "export": export,
    }
    return [
        Route("/", static),
        Route("/static/{name}", static),
        Route("/api/facts", facts),
        *(Route(f"/api/{name}", _question(answer), methods=["POST"]) for name, answer in questions.items()),
    ]


def _packed(facts: dict[str, Any], counts: npt.NDArray[np.uint32]) -> bytes:
    """The length of the facts, the facts as JSON, and the counts behind them, all on whole words of 4 bytes."""
    head = orjson.dumps(facts)
    head += b" " * (-len(head) % 4)
    return len(head).to_bytes(4, "little") + head + bytes(counts.astype("<u4", copy=False).tobytes())


class _BrokenOffError(Exception):
    """An answer that has begun cannot go on: the connection ends before it does, and no browser takes that for all."""


def _unbroken(first: bytes, lines: Iterator[bytes]) -> Iterator[bytes]:
    yield first
    try:
        yield from lines
    except DiqError as error:
        log.warning("an export broke off: %s", error.told)
        raise _BrokenOffError from error


class Server:
    """A page that is being served.

    Args:
        session: what it shows.
        port: of 127.0.0.1; 0 takes a free one.

    Raises:
        RunFailedError: the port is in use, or not allowed.
    """

    def __init__(self, session: Session, port: int = 0) -> None:
        self.session = session
        self.token = secrets.token_urlsafe(32)
        self._socket = _listen(port)
        self.port = int(self._socket.getsockname()[1])
        app = Starlette(routes=_routes(session))
        self._server = uvicorn.Server(
            uvicorn.Config(
                Guard(app, self.port, self.token),
                log_config=None,
                log_level="error",
                access_log=False,
                lifespan="off",
                ws="none",
                server_header=False,
                proxy_headers=False,
                timeout_graceful_shutdown=1,
            )
        )
        self._loading = threading.Thread(target=session.load, name="diq-explore-load", daemon=True)

    @property
    def address(self) -> str:
        """The address of the page, with its token."""
        return f"http://{HOST}:{self.port}/?{urllib.parse.urlencode({'token': self.token})}"

    def run(self) -> None:
        """Read the scores and answer until the process is told to stop."""
        self._loading.start()
        logger = logging.getLogger("uvicorn.error")
        logger.addFilter(self._is_wanted)
        try:
            self._server.run(sockets=[self._socket])
        finally:
            logger.removeFilter(self._is_wanted)
            self._socket.close()

    def _is_wanted(self, record: logging.LogRecord) -> bool:
        # answers that are cut off by the end are no errors, and what broke off was told
        broken = record.exc_info is not None and isinstance(record.exc_info[1], _BrokenOffError)
        return not (self._server.should_exit or broken)

    def stop(self) -> None:
        """Have :meth:`run` return; from another thread."""
        self._server.should_exit = True


def _listen(port: int) -> socket.socket:
    listening = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    # a port that was in use a moment ago is free
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listening.bind((HOST, port))
        # listening, so that no other server takes the port as well, and a browser that is faster than the server waits
        listening.listen(64)
    except OSError as error:
        listening.close()
        raise RunFailedError(
            f"port {port} of {HOST} cannot be listened on: {error.strerror}",
            "name another with --port, or leave it out: a free one is taken",
        ) from error
    return listening
