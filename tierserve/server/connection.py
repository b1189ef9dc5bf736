"""Connections: how many there may be, and how long a caller may take over sending a request and taking its answer.

aiohttp speaks HTTP and bounds the size of what stands before a body. What it leaves open is closed here: heads that
drip in, callers who don't take what they asked for, more connections than the process has descriptors for, and
refusals in plain text where OpenAI's clients expect JSON.
"""

import asyncio
import logging
import resource
import traceback
import uuid
from collections.abc import Callable
from contextlib import suppress
from http import HTTPStatus
from typing import Any, cast

from aiohttp import web
from aiohttp.http_exceptions import LineTooLong
from aiohttp.web_protocol import RequestPayloadError, _ErrInfo

from tierserve.config import ServerConfig
from tierserve.errors import Overloaded, RequestError
from tierserve.server.refusal import fault, refusal
from tierserve.telemetry.families.connections import ENDS

log = logging.getLogger(__name__)

# The rest of a body that was refused is read and dropped for so long: who is cut off while still sending does not
# see the refusal.
_LINGER_S = 5.0
# Of a body, what is kept for a handler that is not reading yet; twice as much stops the reading.
_READ_AHEAD_BYTES = 1 << 16
_WATCH_S = 0.5
# Callers who are told at once that there is no room, and how long they have to hear it; who comes when these places
# are taken as well is hung up on.
_TURNED_AWAY = 256
_TURN_AWAY_S = 1.0
_RETRY_AFTER_S = 1.0
_WARN_EVERY_S = 60.0
# Descriptors beside the connections: logs, the engines' sockets and pipes, shared memory.
_OTHER_DESCRIPTORS = 512
_FULL = "the server has as many connections open as it may: come again in a second"


class Connections:
    """All that are open, and the bounds on them. `count(status)` is told of refusals no handler sees."""

    def __init__(self, bounds: ServerConfig, count: Callable[[int], None]) -> None:
        self.bounds = bounds
        self.count = count
        self.open: set[Connection] = set()
        self.turned_away: set[TurnedAway] = set()
        self.cut_off = dict.fromkeys(ENDS, 0)
        self._warn_at = 0.0

    def renew(self, bounds: ServerConfig) -> None:
        """Other bounds from now on; those that aiohttp was given for good (headers, idle_s) stay."""
        _make_room(bounds.max_connections)
        self.bounds = bounds

    @property
    def full(self) -> bool:
        return len(self.open) >= self.bounds.max_connections

    async def watch(self) -> None:
        """Cut off whoever is late, until cancelled. One look at all of them costs less than a timer for each."""
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(min(_WATCH_S, self.bounds.head_s / 4, self.bounds.write_s / 4))
            now = loop.time()
            for connection in tuple(self.open):
                connection.end_if_late(now)

    def turn_away(self) -> "TurnedAway":
        self.count(HTTPStatus.SERVICE_UNAVAILABLE)
        self.cut_off["full"] += 1
        now = asyncio.get_running_loop().time()
        if now >= self._warn_at:
            self._warn_at = now + _WARN_EVERY_S
            log.warning(
                "%d connections are open, as many as server.max_connections lets in: turning others away",
                len(self.open),
            )
        return TurnedAway(self.turned_away)


class Connection(web.RequestHandler):
    """One caller's connection. Times are the loop's; None where nothing is waited for."""

    __slots__ = ("_connections", "_wire", "_head_since", "_stuck_since")

    def __init__(self, manager: web.Server, *, connections: Connections, **options: Any) -> None:
        super().__init__(manager, **options)
        self._connections = connections
        self._wire: asyncio.Transport | None = None  # aiohttp forgets its own as soon as it has asked it to close
        self._head_since: float | None = None  # since when a request's head has been coming in
        self._stuck_since: float | None = None  # since when what was written has not been taken

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._wire = cast(asyncio.Transport, transport)  # uvloop's are none by descent
        self._connections.open.add(self)
        super().connection_made(transport)

    def connection_lost(self, error: BaseException | None) -> None:
        self._connections.open.discard(self)
        super().connection_lost(error)

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        # aiohttp's handler waits for the next request, and what came did not wake it: it was a part of a head.
        if data and self._waiter is not None and not self._waiter.done():
            if self._head_since is None:
                self._head_since = self._loop.time()
            return
        self._head_since = None
        if self._messages and isinstance(broken := self._messages[-1][0], _ErrInfo) and self._current_request:
            # Framing that broke inside a body: aiohttp tells whoever asks next, and would let the body's reader wait.
            body = self._current_request.content
            if not body.is_eof() and body.exception() is None:
                body.set_exception(RequestPayloadError(_first_line(broken.message)))

    def pause_writing(self) -> None:
        self._stuck_since = self._loop.time()
        super().pause_writing()

    def resume_writing(self) -> None:
        self._stuck_since = None
        super().resume_writing()

    def end_if_late(self, now: float) -> None:
        """Of what waits to be written, 48 KiB must be taken within write_s: so much lies between full and not."""
        assert self._wire is not None
        bounds = self._connections.bounds
        if self._stuck_since is None and self._wire.is_closing():
            self._stuck_since = now  # closed by us, and its last bytes are not taken
        if self._stuck_since is not None and now - self._stuck_since > bounds.write_s:
            log.info("a caller took too little of an answer for %g s: cut off", bounds.write_s)
            self._cut_off("answer")
        elif self._head_since is not None and now - self._head_since > bounds.head_s:
            log.info("the head of a request was not complete after %g s: cut off", bounds.head_s)
            self._cut_off("head")

    def _cut_off(self, why: str) -> None:
        assert self._wire is not None
        self._connections.cut_off[why] += 1
        self._wire.abort()

    async def finish_response(
        self, request: web.BaseRequest, response: web.StreamResponse, started: float | None
    ) -> tuple[web.StreamResponse, bool]:
        if isinstance(response, web.HTTPException):  # from before the handlers: an `expect` nobody can meet
            response = self._told(refusal(response))
        return await super().finish_response(request, response, started)

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        error: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """What can't be read as HTTP, in OpenAI's form; a fault of ours without its text, which may quote a prompt."""
        if request.writer.output_size > 0:
            raise ConnectionError("an answer has begun, in which no other can be given")
        if status != HTTPStatus.BAD_REQUEST:
            frames = "".join(traceback.format_tb(error.__traceback__)) if error else ""
            log.error("answering failed: %s\n%s", type(error).__name__, frames)
            return self._told(fault())
        log.debug("not HTTP: %s", message)
        return self._told(refusal(_unreadable(error, message or "")))

    def _told(self, response: web.Response) -> web.Response:
        self._connections.count(response.status)
        response.headers["x-request-id"] = uuid.uuid4().hex
        response.force_close()
        return response


class TurnedAway(asyncio.Protocol):
    """A connection for which there is no room: it is told so once it asks something, and closed soon in any case."""

    def __init__(self, others: set["TurnedAway"]) -> None:
        self._others = others
        self._told = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._end = asyncio.get_running_loop().call_later(_TURN_AWAY_S, self._transport.abort)
        if len(self._others) >= _TURNED_AWAY:
            self._transport.abort()
        self._others.add(self)

    def data_received(self, data: bytes) -> None:
        if self._told:
            return
        self._told = True
        self._transport.write(_no_room())
        if self._transport.can_write_eof():
            self._transport.write_eof()  # and read on until the caller closes: to close first might lose the answer

    def connection_lost(self, error: BaseException | None) -> None:
        self._end.cancel()
        self._others.discard(self)


class Runner(web.AppRunner):
    """aiohttp's, whose connections are bounded. A caller that goes away cancels its handler, which frees its slot."""

    def __init__(self, app: web.Application, bounds: ServerConfig, count: Callable[[int], None], last_s: float) -> None:
        super().__init__(app, shutdown_timeout=last_s)
        self.connections = Connections(bounds, count)
        self._watch: asyncio.Task[None] | None = None

    async def setup(self) -> None:
        _make_room(self.connections.bounds.max_connections)
        await super().setup()
        self._watch = asyncio.create_task(self.connections.watch())

    async def cleanup(self) -> None:
        try:
            await super().cleanup()
        finally:
            if self._watch is not None:
                self._watch.cancel()
                with suppress(asyncio.CancelledError):
                    await self._watch

    async def _make_server(self) -> web.Server:
        made = await super()._make_server()
        return _Server(made, self.connections)


class _Server(web.Server):
    """The factory of connections."""

    def __init__(self, made: web.Server, connections: Connections) -> None:
        limits = connections.bounds.limits
        super().__init__(
            made.request_handler,
            request_factory=made.request_factory,
            handler_cancellation=True,
            access_log=None,
            keepalive_timeout=connections.bounds.idle_s,
            lingering_time=_LINGER_S,
            read_bufsize=_READ_AHEAD_BYTES,
            auto_decompress=False,  # compressed bodies are refused, see body.py
            max_line_size=limits.head_line_bytes,
            max_field_size=limits.head_line_bytes,
            max_headers=limits.headers,
        )
        self._bounded = connections

    def __call__(self) -> web.RequestHandler:
        if self._bounded.full:
            return self._bounded.turn_away()  # type: ignore[return-value]  # the loop takes any protocol
        return Connection(self, connections=self._bounded, loop=self._loop, **self._kwargs)


def _unreadable(error: BaseException | None, message: str) -> RequestError | web.HTTPException:
    if isinstance(error, LineTooLong) or "Too many headers" in message:
        return web.HTTPRequestHeaderFieldsTooLarge(
            text="the request's line or headers are larger, or more, than this server takes: shorten them "
            "(server.limits.head_line_bytes, server.limits.headers)"
        )
    return RequestError(f"the request can't be read as HTTP: {_first_line(message)}")


def _first_line(message: str) -> str:
    """aiohttp quotes and underlines the place on the lines after."""
    return (message.strip().splitlines() or ["it is broken"])[0].rstrip(":")


def _no_room() -> bytes:
    answer = refusal(Overloaded(_FULL, _RETRY_AFTER_S))
    assert isinstance(answer.body, bytes)
    headers = {**answer.headers, "content-length": str(len(answer.body)), "connection": "close"}
    lines = [f"HTTP/1.1 {answer.status} {answer.reason}", *(f"{name}: {value}" for name, value in headers.items())]
    return "\r\n".join([*lines, "", ""]).encode() + answer.body


def _make_room(connections: int) -> None:
    """Most systems let a process have 1,024 descriptors until it asks for more, up to a limit that it can't move."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = connections + _OTHER_DESCRIPTORS
    if soft == resource.RLIM_INFINITY or soft >= needed:
        return
    allowed = needed if hard == resource.RLIM_INFINITY else min(needed, hard)
    resource.setrlimit(resource.RLIMIT_NOFILE, (allowed, hard))
    if allowed < needed:
        log.warning(
            "server.max_connections is %d, and this process may have %d descriptors: lower it, or raise LimitNOFILE",
            connections,
            allowed,
        )
