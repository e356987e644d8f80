"""Connections to one endpoint: how they are made, kept and given out.

Rules:

1. Nobody waits here for a place: the engine's own limit is the only one.
2. How long a connection may lie idle is the endpoint's to show (`core.keepalive`).
3. What is private in aiohttp's pool and still needed stands here, and the one retry that its session makes unasked.
"""

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
from aiohttp.tracing import Trace

from batchrunner.connections import SIZES, Link, Mail
from batchrunner.core.keepalive import Keepalive
from batchrunner.network import Names
from batchrunner.wire import EXCHANGE, Exchange

NEVER = aiohttp.ClientTimeout(total=None, connect=None, sock_connect=None, sock_read=None, ceil_threshold=1e9)


async def _nothing() -> Lease | None:
    return None


class Pool(aiohttp.TCPConnector):
    """Connections to one endpoint. It tells the exchange of the current task when a new one is made."""

    def __init__(self, keepalive: float, trust: ssl.SSLContext | bool) -> None:
        super().__init__(
            limit=0, keepalive_timeout=keepalive, ttl_dns_cache=120, resolver=Names(), ssl=trust, socket_factory=_socket
        )
        link: Callable[..., ResponseHandler] = Link
        self._factory = partial(link, self._loop, Mail(self._loop))
        self._keepalive = Keepalive(keepalive)

    def take(self, key: ConnectionKey, exchange: Exchange) -> Link | None:
        """A connection that is open and has not been idle for too long; None when a new one has to be made."""
        links, now = self._conns.get(key), monotonic()
        while links:
            link, since = links.popleft()
            if link.is_connected() and now - since <= self._keepalive.seconds:
                exchange.idle = now - since
                self._acquired.add(link)
                return link  # type: ignore[return-value]  # this pool makes no others
            link.close()
        return None

    def give(self, key: ConnectionKey, link: Link) -> None:
        """Take a connection back whose reply has come to its end."""
        self._release(key, link)

    def used(self) -> None:
        """A reply has come on a connection that was used again."""
        self._keepalive.used()

    def outlived(self, exchange: Exchange) -> None:
        """A connection that was used again was closed under this request."""
        self._keepalive.closed(exchange.idle, exchange.started, self._loop.time())
        self._follow()

    def _follow(self) -> None:
        self._keepalive_timeout = self._keepalive.seconds  # aiohttp's own, for what goes the long way

    def drop(self, key: ConnectionKey, link: Link) -> None:
        """Close a connection in the middle of a request."""
        self._release(key, link, should_close=True)

    def lease(self, key: ConnectionKey, link: Link) -> Lease:
        """The connection as a response of aiohttp holds it; it comes back with the end of the response."""
        return Lease(self, key, link, self._loop)

    async def make(self, request: ClientRequest) -> Link:
        """A new connection, whose end is up to the caller: `give`, `drop` or `lease`."""
        lease = await self.connect(request, [], NEVER)
        link, lease._protocol = lease._protocol, None
        return link  # type: ignore[return-value]  # this pool makes no others

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
        self._keepalive.made(self._loop.time())
        self._follow()
        link = await super()._create_connection(req, traces, timeout)
        exchange.made()
        return link


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
