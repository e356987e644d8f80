"""One exchange on the wire: its phase, its deadlines, its connection.

Rules:

1. One clock per exchange. A timer is set once and, when it rings early, set again: never one per chunk.
2. Our deadline cancels the task and takes the cancellation back, as `asyncio.timeout` does;
   a cancellation from outside always gets through.
3. What is private in aiohttp and still needed stands here: the pool, its protocol, and the one retry that it makes unasked.
"""

import asyncio
import socket
import ssl
from collections.abc import Callable, Coroutine
from contextvars import ContextVar
from functools import partial
from typing import Any, Protocol

import aiohttp
from aiohttp.client_proto import ResponseHandler
from aiohttp.client_reqrep import ClientRequest, ConnectionKey
from aiohttp.connector import Connection as Lease
from aiohttp.http_exceptions import HttpProcessingError
from aiohttp.tracing import Trace
from multidict import CIMultiDictProxy

from batchrunner.core.model import Attempt, Deadlines, Phase, Timing
from batchrunner.core.stream import Assembled
from batchrunner.network import Names

Review = Callable[[Attempt, Phase, float], float]

EARLY = 0.001  # uvloop rings on whole milliseconds, up to half of one too soon
NEVER = aiohttp.ClientTimeout(total=None, connect=None, sock_connect=None, sock_read=None, ceil_threshold=1e9)

_LIMIT: dict[Phase, tuple[str, Callable[[Deadlines], float]]] = {
    Phase.CONNECT: ("connect", lambda deadlines: deadlines.connect),
    Phase.FIRST_BYTE: ("first byte", lambda deadlines: deadlines.first_byte),
    Phase.BODY: ("idle", lambda deadlines: deadlines.idle),
}


class Streamed(Protocol):
    """An answer that comes event by event (`reception.Stream`)."""

    @property
    def over(self) -> bool:
        """Whether it is at its end."""

    def feed(self, chunk: bytes) -> bool:
        """Take some bytes; True when the model has got on."""

    def finish(self) -> Assembled:
        """What has come so far."""


class Exchange:
    """One attempt while it is on the wire: where it stands, how long it may stand there, what has come so far.

    It begins as if on a reused connection; `connecting` corrects that when a new one is made. A stream has begun with its
    first sign of progress, not with its head, which many servers send before the model is free.
    """

    __slots__ = (
        "_cancels",
        "_granted",
        "_loop",
        "_review",
        "_rings",
        "_settled",
        "_task",
        "_timer",
        "_total",
        "attempt",
        "body",
        "connected",
        "gap",
        "head",
        "late",
        "phase",
        "response",
        "reused",
        "since",
        "started",
        "stream",
    )

    def __init__(self, attempt: Attempt, review: Review, loop: asyncio.AbstractEventLoop) -> None:
        task = asyncio.current_task()
        assert task is not None
        deadlines = attempt.deadlines
        now = loop.time()
        self.attempt = attempt
        self.phase = Phase.FIRST_BYTE
        self.started = self.connected = self.since = now
        self.head = 0.0  # when the answer began
        self.gap = 0.0
        self.reused = True
        self.response: aiohttp.ClientResponse | None = None
        self.body: bytearray | None = None  # what has come of a body that did not come with its head
        self.stream: Streamed | None = None
        self.late = ""  # the clock that ran out
        self._loop = loop
        self._review = review
        self._task = task
        self._cancels = task.cancelling()
        self._settled = False
        self._granted = 0.0  # the reviewer's own end of this phase
        self._total = now + deadlines.total
        self._rings = now + min(deadlines.connect, deadlines.first_byte, deadlines.total)
        self._timer = loop.call_at(self._rings, self._ring)

    def connecting(self) -> None:
        """No pooled connection would do."""
        self.phase = Phase.CONNECT
        self.reused = False

    def made(self) -> None:
        """The new connection is there; the server's time begins."""
        self.phase = Phase.FIRST_BYTE
        self.connected = self.since = self._loop.time()
        self._total = self.since + self.attempt.deadlines.total
        self._granted = 0.0
        self._advance()

    def begun(self, response: aiohttp.ClientResponse, stream: Streamed | None = None) -> None:
        """The reply head has come, perhaps that of a stream; again when it turns out to be none."""
        self.response = response
        self.stream = stream
        if stream is None:
            self._answering()

    def _answering(self) -> None:
        self.phase = Phase.BODY
        self.head = self.since = self._loop.time()
        self._granted = 0.0

    def listen(self) -> bytearray:
        """The body is still to come: its clocks begin. It is to be gathered here."""
        self._advance()
        self.body = bytearray()
        return self.body

    def progress(self) -> None:
        """The answer has got on."""
        if self.phase is not Phase.BODY:  # the first word of a stream
            self._answering()
            self._advance()
            return
        now = self._loop.time()
        self.gap = max(self.gap, now - self.since)
        self.since = now
        if self._granted:  # that was for the silence just ended
            self._granted = 0.0
            self._advance()

    def timing(self) -> Timing:
        """What was spent where, up to now."""
        now, started = self._loop.time(), self.started
        connect = 0.0 if self.reused else (now if self.phase is Phase.CONNECT else self.connected) - started
        gap = max(self.gap, now - self.since) if self._inside else 0.0
        return Timing(connect, self.head - started if self.head else 0.0, now - started, gap, self.reused)

    @property
    def _inside(self) -> bool:
        """Whether the answer has begun and not come all at once."""
        return self.body is not None or (self.stream is not None and self.phase is Phase.BODY)

    def stop(self) -> bool:
        """End the clock. True: our own deadline cancelled the task, and nobody else did."""
        self._timer.cancel()
        if not self.late or self._settled:
            return False
        self._settled = True
        return self._task.uncancel() <= self._cancels

    def _advance(self) -> None:
        """See to it that the timer rings no later than patience now ends."""
        due, _, _ = self._due()
        if due < self._rings:
            self._timer.cancel()
            self._set(due)

    def _set(self, due: float) -> None:
        self._rings = due
        self._timer = self._loop.call_at(due, self._ring)

    def _due(self) -> tuple[float, str, float]:
        """When patience ends, by which clock, and since when that clock runs."""
        name, limit = _LIMIT[self.phase]
        due = max(self.since + limit(self.attempt.deadlines), self._granted)
        if self.phase is Phase.CONNECT or due <= self._total:
            return due, name, self.since
        return self._total, "total", self.connected

    def _ring(self) -> None:
        due, name, since = self._due()
        now = self._loop.time()
        if now + EARLY < due:
            self._set(due)
            return
        more = 0.0
        try:
            more = self._review(self.attempt, self.phase, max(now, due) - since)
        finally:  # a reviewer that fails must not leave the attempt without a clock
            self._decide(name, now, more)

    def _decide(self, name: str, now: float, more: float) -> None:
        if more <= 0:
            self.late = name
            self._task.cancel()
            return
        if name == "total":
            self._total = now + more
        else:
            self._granted = now + more
        self._set(self._due()[0])


EXCHANGE: ContextVar[Exchange] = ContextVar("exchange")


class Line(ResponseHandler):
    """aiohttp's side of a connection, with its blind spots removed."""

    def connection_lost(self, exc: BaseException | None) -> None:
        """Let a body know how it ended, and a stale connection be known as such.

        A reset breaks a body, framed or not. So do bytes that are not HTTP: aiohttp would leave its reader waiting.
        A reset before a head is a plain disconnect: aiohttp then says how much of a head it had.
        """
        body, broken = self._payload, self.exception()
        open_body = body if body is not None and not body.is_eof() else None
        if open_body is not None and exc is not None:
            open_body.set_exception(aiohttp.ClientPayloadError("reset"), exc)
        elif isinstance(exc, ConnectionResetError):
            exc = None
        super().connection_lost(exc)
        if open_body is not None and isinstance(broken, HttpProcessingError):
            open_body.set_exception(broken)

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


def _orphan(body: aiohttp.StreamReader | None) -> None:
    """Wake who still reads a body whose connection we have closed: aiohttp would let it wait for ever."""
    if body is not None and not body.is_eof() and body.exception() is None:
        body.set_exception(aiohttp.ClientPayloadError("closed"))


async def _nothing() -> Lease | None:
    return None


class Pool(aiohttp.TCPConnector):
    """Connections to one endpoint. It tells the exchange of the current task when a new one is made.

    Nobody waits here for a place: the engine's own limit is the only one.
    """

    def __init__(self, keepalive: float, trust: ssl.SSLContext | bool) -> None:
        super().__init__(
            limit=0, keepalive_timeout=keepalive, ttl_dns_cache=120, resolver=Names(), ssl=trust, socket_factory=_socket
        )
        line: type[ResponseHandler] = Line
        self._factory = partial(line, loop=self._loop)

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


SIZES: dict[str, Any] = {
    "read_bufsize": 64 * 1024,
    "max_line_size": 32 * 1024,  # gateways send large cookies and policies
    "max_field_size": 32 * 1024,
    "max_headers": 256,
}


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


def plain(headers: "CIMultiDictProxy[str]") -> dict[str, str]:
    """Header names in lower case; the values of a repeated one joined by a comma (RFC 9110 §5.3)."""
    joined: dict[str, str] = {}
    for name, value in headers.items():
        name = name.lower()
        joined[name] = f"{joined[name]}, {value}" if name in joined else value
    return joined
