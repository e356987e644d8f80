"""Connections to one endpoint: the pool that keeps them, and what aiohttp does not see of them.

Rules:

1. Nobody waits here for a place: the engine's own limit is the only one.
2. A reply is looked at first when it begins. One that is whole and plain is handed over as it is (`core.whole`); everything
   else goes to aiohttp's parser, which is not made before it is needed.
3. What is private in aiohttp and still needed stands here: the pool, its protocol, and the one retry that it makes unasked.
"""

import asyncio
import socket
import ssl
from collections.abc import Callable, Coroutine
from functools import partial
from time import monotonic
from typing import Any

import aiohttp
from aiohttp.client_proto import ResponseHandler
from aiohttp.client_reqrep import ClientRequest, ConnectionKey
from aiohttp.connector import Connection as Lease
from aiohttp.helpers import _EXC_SENTINEL, TimerNoop
from aiohttp.http_exceptions import HttpProcessingError
from aiohttp.tracing import Trace

from batchrunner.core.whole import Whole, whole
from batchrunner.network import Names
from batchrunner.wire import EXCHANGE

NEVER = aiohttp.ClientTimeout(total=None, connect=None, sock_connect=None, sock_read=None, ceil_threshold=1e9)
SIZES: dict[str, Any] = {
    "read_bufsize": 64 * 1024,
    "max_line_size": 32 * 1024,  # gateways send large cookies and policies
    "max_field_size": 32 * 1024,
    "max_headers": 256,
}
NO_TIMER = TimerNoop()
Take = Callable[[bytes], bool]
READING: dict[str, Any] = {
    "timer": NO_TIMER,
    "read_until_eof": True,
    "auto_decompress": True,
    "read_timeout": None,
    "timeout_ceil_threshold": 1e9,
    **SIZES,
}


class Mail:
    """What is to be sent in this turn of the loop: written at its end, in one go.

    A write wakes a server on the same machine, or a proxy there, which costs more than the writing. Between requests that leave
    one after another it stays awake.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._waiting: list[tuple[Line, bytes]] = []

    def put(self, line: "Line", message: bytes) -> None:
        """Send a message with the others of this turn."""
        if not self._waiting:
            self._loop.call_soon(self._send)
        self._waiting.append((line, message))

    def _send(self) -> None:
        waiting, self._waiting = self._waiting, []
        for line, message in waiting:
            if line.transport is not None:  # it may have been dropped meanwhile
                line.sent = True
                line.transport.write(message)


class Line(ResponseHandler):
    """aiohttp's side of a connection, with its blind spots removed and a short way through it."""

    def __init__(self, loop: asyncio.AbstractEventLoop, mail: Mail) -> None:
        super().__init__(loop)
        self.sent = False  # the request has left
        self._mail = mail
        self._asked: asyncio.Future[Whole | None] | None = None
        self._silent = False  # the reply has no body, whatever its head says
        self._flow: Flow | None = None

    def ask(self, message: bytes, silent: bool) -> "asyncio.Future[Whole | None]":
        """Send a request: its reply if that comes whole and plain, or None as soon as there is something for aiohttp to read."""
        if self.transport is None:
            raise aiohttp.ClientConnectionResetError("lost")
        self._parser = None
        self._silent = silent
        self.sent = False
        self._asked = asked = self._loop.create_future()
        self._mail.put(self, message)
        return asked

    def data_received(self, data: bytes) -> None:
        """Look at the beginning of a reply; the rest is aiohttp's. Bytes that nobody asked for cost the connection.

        What comes before the request has left is no reply to it, though somebody waits for one.
        """
        asked = self._asked
        if asked is not None and self.sent:
            self._begin(asked, data)
        elif self._parser is None and self.transport is not None:
            self.force_close()
            self.transport.close()
        else:
            super().data_received(data)
            if self._flow is not None:
                self._flow.run()

    async def pour(self, body: aiohttp.StreamReader, take: Take) -> None:
        """`pour`, while this connection has more to bring."""
        self._flow = flow = Flow(body, take, self._loop.create_future())
        try:
            flow.run()
            await flow.over
        finally:
            if self._flow is flow:  # another reply may be under way by now
                self._flow = None

    def _begin(self, asked: "asyncio.Future[Whole | None]", data: bytes) -> None:
        self._asked = None
        reply = whole(data)
        if reply is None:
            self.set_response_params(skip_payload=self._silent, **READING)
            super().data_received(data)
        if not asked.done():
            asked.set_result(reply)

    def resume_reading(self, resume_parser: bool = True) -> None:
        """Go on where reading was paused; readers call this after each piece they take, paused or not."""
        if self._reading_paused:
            super().resume_reading(resume_parser)

    def connection_lost(self, exc: BaseException | None) -> None:
        """Let a body know how it ended, and a stale connection be known as such.

        A reset breaks a body, framed or not. So do bytes that are not HTTP: aiohttp would leave its reader waiting.
        A reset before a head is a plain disconnect: aiohttp then says how much of a head it had.
        """
        body, broken, asked = self._payload, self.exception(), self._asked
        open_body = body if body is not None and not body.is_eof() else None
        if open_body is not None and exc is not None:
            open_body.set_exception(aiohttp.ClientPayloadError("reset"), exc)
        elif isinstance(exc, ConnectionResetError):
            exc = None
        super().connection_lost(exc)
        if open_body is not None and isinstance(broken, HttpProcessingError):
            open_body.set_exception(broken)
        if asked is not None and not asked.done():
            asked.set_result(None)
        if self._flow is not None:
            self._flow.run()

    def set_exception(self, exc: BaseException, exc_cause: BaseException = _EXC_SENTINEL) -> None:
        """Keep the cause of what went wrong also where nobody waits for it yet."""
        if exc_cause is not _EXC_SENTINEL and exc_cause is not exc:
            exc.__cause__ = exc_cause
        super().set_exception(exc, exc_cause)

    def close(self) -> None:
        """Never wait for a peer that does not read."""
        transport = self.transport
        if transport is not None and transport.get_write_buffer_size():
            self.abort()
            return
        body = self._payload
        super().close()
        _orphan(body)

    def abort(self) -> None:
        """Drop the connection at once."""
        body = self._payload
        super().abort()
        _orphan(body)


class Flow:
    """A body on its way from its connection to who takes it."""

    def __init__(self, body: aiohttp.StreamReader, take: Take, over: "asyncio.Future[None]") -> None:
        self.over = over
        self._body = body
        self._take = take
        self._running = False

    def run(self) -> None:
        """Hand on what has come. Taking a piece may bring the next, so it may be called from within itself."""
        if self._running or self.over.done():
            return
        self._running = True
        try:
            if self._ran_dry():
                self.over.set_result(None)
        except Exception as error:  # noqa: BLE001 - it is raised where the body is waited for
            self.over.set_exception(error)
        finally:
            self._running = False

    def _ran_dry(self) -> bool:
        while piece := self._body.read_nowait():
            if self._take(piece):
                return True
        return self._body.is_eof()


async def pour(response: aiohttp.ClientResponse, take: Take) -> None:
    """Hand every piece of a body to `take` until that says True or the body ends. Raises what broke it, and what `take` raises.

    Pieces are handed on as they come in, while the task sleeps: to wake it for each word of a stream would cost more than the
    word.
    """
    lease, body = response.connection, response.content
    line = lease and lease.protocol
    if isinstance(line, Line):
        await line.pour(body, take)
        return
    while piece := await body.readany():
        if take(piece):
            return


def _orphan(body: aiohttp.StreamReader | None) -> None:
    """Wake who still reads a body whose connection we have closed: aiohttp would let it wait for ever."""
    if body is not None and not body.is_eof() and body.exception() is None:
        body.set_exception(aiohttp.ClientPayloadError("closed"))


async def _nothing() -> Lease | None:
    return None


class Pool(aiohttp.TCPConnector):
    """Connections to one endpoint. It tells the exchange of the current task when a new one is made."""

    def __init__(self, keepalive: float, trust: ssl.SSLContext | bool) -> None:
        super().__init__(
            limit=0, keepalive_timeout=keepalive, ttl_dns_cache=120, resolver=Names(), ssl=trust, socket_factory=_socket
        )
        line: Callable[..., ResponseHandler] = Line
        self._factory = partial(line, self._loop, Mail(self._loop))
        self._keepalive = keepalive

    def take(self, key: ConnectionKey) -> Line | None:
        """A connection that is open and has not been idle for too long; None when a new one has to be made."""
        lines, now = self._conns.get(key), monotonic()
        while lines:
            line, since = lines.popleft()
            if line.is_connected() and now - since <= self._keepalive:
                self._acquired.add(line)
                return line  # type: ignore[return-value]  # this pool makes no others
            line.close()
        return None

    def give(self, key: ConnectionKey, line: Line) -> None:
        """Take a connection back whose reply has come to its end."""
        self._release(key, line)

    def drop(self, key: ConnectionKey, line: Line) -> None:
        """Close a connection in the middle of a request."""
        self._release(key, line, should_close=True)

    def lease(self, key: ConnectionKey, line: Line) -> Lease:
        """The connection as a response of aiohttp holds it; it comes back with the end of the response."""
        return Lease(self, key, line, self._loop)

    async def make(self, request: ClientRequest) -> Line:
        """A new connection, whose end is up to the caller: `give`, `drop` or `lease`."""
        lease = await self.connect(request, [], NEVER)
        line, lease._protocol = lease._protocol, None
        return line  # type: ignore[return-value]  # this pool makes no others

    def _get(self, key: ConnectionKey, traces: list[Trace]) -> Coroutine[Any, Any, Lease | None]:
        return _nothing() if EXCHANGE.get().attempt.fresh else super()._get(key, traces)

    async def _create_connection(
        self,
        req: ClientRequest,
        traces: list[Trace],
        timeout: aiohttp.ClientTimeout,  # noqa: ASYNC109 - aiohttp's signature
    ) -> ResponseHandler:
        exchange = EXCHANGE.get()
        exchange.connecting()
        line = await super()._create_connection(req, traces, timeout)
        exchange.made()
        return line


_SILENCE, _PROBE, _PROBES = 60, 30, 5  # a silent peer is asked after 60 s, and given up 150 s later
_OPTIONS = [
    (level, getattr(socket, name), value)
    for level, name, value in (
        (socket.SOL_SOCKET, "SO_KEEPALIVE", 1),
        (socket.IPPROTO_TCP, "TCP_KEEPIDLE", _SILENCE),
        (socket.IPPROTO_TCP, "TCP_KEEPALIVE", _SILENCE),  # the same on macOS
        (socket.IPPROTO_TCP, "TCP_KEEPINTVL", _PROBE),
        (socket.IPPROTO_TCP, "TCP_KEEPCNT", _PROBES),
        (socket.IPPROTO_TCP, "TCP_USER_TIMEOUT", 1000 * (_SILENCE + _PROBE * _PROBES)),
        (socket.IPPROTO_TCP, "TCP_NODELAY", 1),
    )
    if hasattr(socket, name)
]


def _socket(address: tuple[Any, ...]) -> socket.socket:
    """A socket that notices a peer which vanished without a word."""
    made = socket.socket(*address[:3])
    for option in _OPTIONS:
        made.setsockopt(*option)
    return made


def open_session(pool: Pool, proxy: str) -> aiohttp.ClientSession:
    """A session without cookies, redirects, timeouts, retries or settings of the environment."""
    session = aiohttp.ClientSession(
        connector=pool,
        cookie_jar=aiohttp.DummyCookieJar(),
        timeout=NEVER,
        proxy=proxy or None,
        trust_env=False,
        **SIZES,
    )
    session._retry_connection = False
    return session
