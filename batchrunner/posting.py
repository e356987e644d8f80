"""The short way to an endpoint: a request of ready bytes on one of the pool's connections.

aiohttp's `ClientSession.request` prepares for everything: cookies, redirects, forms, compression, middlewares, timers, a task
that writes the body. A batch sends prepared bytes to one origin, so it writes head and body in one piece and waits for what
comes. Only a reply that is not plain and whole gets a response object of aiohttp (`scripts/bench overhead` measures both).

Rules:

1. Only small bodies without a proxy come this way; everything else goes through the session.
2. Method, path and headers are checked by the transport before they come here: they are written as they are.
3. What goes wrong is raised as the session would raise it.
"""

import asyncio
from typing import Any

from aiohttp import ClientOSError, ClientRequest, ClientResponse, ClientSession
from aiohttp.client_reqrep import ConnectionKey
from multidict import CIMultiDict
from yarl import URL

from batchrunner.connections import NO_TIMER, Link
from batchrunner.core.whole import Whole
from batchrunner.pool import Pool
from batchrunner.wire import EXCHANGE, Exchange

LARGEST = 64 * 1024  # bytes of a body that is written in one piece
WITHOUT_BODY = frozenset({"HEAD", "CONNECT", "TRACE"})  # replies to these have none
_UNSIZED = frozenset({"GET", "HEAD", "OPTIONS", "TRACE"})  # without a body they need no length


class _Written:
    """What a response asks of the writer of a request that is on its way already."""

    output_size = 0


_WRITTEN: Any = _Written()


class Posting(ClientRequest):
    """As much of a request as a connector and a response ask for: the same for all requests to an origin."""

    def __init__(self, origin: URL, session: ClientSession) -> None:
        # Not aiohttp's own constructor: it spends most of its time on what this class is there to leave out.
        self.method = "POST"
        self.url = self.original_url = origin
        self.headers = CIMultiDict()
        self.proxy = self.proxy_auth = self.proxy_headers = None
        self.server_hostname = None
        self._ssl = True
        self._session = session

    def written(self, loop: asyncio.AbstractEventLoop) -> ClientResponse:
        """The response to a request whose bytes have been handed to the connection."""
        return ClientResponse(
            self.method,
            self.url,
            writer=None,
            continue100=None,
            timer=NO_TIMER,
            request_info=self.request_info,
            traces=[],
            loop=loop,
            session=self._session,
            stream_writer=_WRITTEN,
        )


class Post:
    """The short way to one origin, over a session's pool."""

    def __init__(self, origin: URL, session: ClientSession, pool: Pool, loop: asyncio.AbstractEventLoop) -> None:
        self._posting = Posting(origin, session)
        self._key: ConnectionKey = self._posting.connection_key
        self._pool = pool
        self._loop = loop

    async def send(self, message: bytes, exchange: Exchange, silent: bool) -> Whole | ClientResponse:
        """Send one request: its reply, or the response whose head has come. Raises what `ClientSession.request` raises.

        `silent`: the reply has no body, whatever its head says.
        """
        pool, key = self._pool, self._key
        link = None if exchange.attempt.fresh else pool.take(key, exchange)
        try:
            if link is None:
                link = await self._connect(exchange)
            reply = await self._ask(link, message, silent) or await self._respond(link)
        except OSError as error:
            if isinstance(error, ClientOSError | TimeoutError):
                raise
            raise ClientOSError(*error.args) from error
        if exchange.reused:
            pool.used()
        if isinstance(reply, Whole):
            pool.give(key, link)
        return reply

    async def _ask(self, link: Link, message: bytes, silent: bool) -> Whole | None:
        try:
            return await link.ask(message, silent)
        except BaseException:
            self._pool.drop(self._key, link)
            raise

    async def _connect(self, exchange: Exchange) -> Link:
        token = EXCHANGE.set(exchange)
        try:
            return await self._pool.make(self._posting)
        finally:
            EXCHANGE.reset(token)

    async def _respond(self, link: Link) -> ClientResponse:
        response = self._posting.written(self._loop)
        try:
            return await response.start(self._pool.lease(self._key, link))
        except BaseException:
            response.close()
            raise


def opening(method: str, url: URL, headers: "CIMultiDict[str]") -> bytes:
    """The request line and header fields (RFC 9112 sections 3 and 5), the last two excepted: those of `message`."""
    fields = "".join([f"{name}: {value}\r\n" for name, value in headers.items()])
    return f"{method} {url.raw_path_qs} HTTP/1.1\r\nHost: {url.host_port_subcomponent}\r\n{fields}".encode()


def message(opening: bytes, method: str, body: bytes) -> bytes:
    """The whole request: its head with the length of the body where there may be one, and the body."""
    if body or method not in _UNSIZED:
        return b"%bContent-Length: %d\r\n\r\n%b" % (opening, len(body), body)
    return opening + b"\r\n"
