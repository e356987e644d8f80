"""A request of ours on one of aiohttp's connections, without what a batch does not need.

aiohttp's `ClientSession.request` prepares for everything: cookies, redirects, forms, compression, middlewares, timers, a task
that writes the body. A batch sends prepared bytes to one origin, so it takes a connection from the pool, writes head and body
in one piece, and leaves the answer to aiohttp. That is half of the session's work per request (`scripts/bench overhead`).

Rules:

1. Only small bodies without a proxy come this way; everything else goes through the session.
2. Method, path and headers are checked by the transport before they come here: they are written as they are.
3. What goes wrong is raised as the session would raise it.
"""

import asyncio
from typing import Any

from aiohttp import ClientOSError, ClientRequest, ClientResponse, ClientSession, TCPConnector
from aiohttp.helpers import TimerNoop
from multidict import CIMultiDict
from yarl import URL

from batchrunner.wire import NEVER, SIZES

LARGEST = 64 * 1024  # bytes of a body that is written in one piece
READING: dict[str, Any] = {
    "timer": TimerNoop(),
    "read_until_eof": True,
    "auto_decompress": True,
    "read_timeout": None,
    "timeout_ceil_threshold": 1e9,
    **SIZES,
}
_WITHOUT_BODY = frozenset({"HEAD", "CONNECT", "TRACE"})


class _Written:
    """What a response asks of the writer of a request that is on its way already."""

    output_size = 0


_WRITTEN: Any = _Written()


class Posting(ClientRequest):
    """As much of a request as a connector and a response ask for."""

    def __init__(self, method: str, url: URL, headers: "CIMultiDict[str]", session: ClientSession) -> None:
        # Not aiohttp's own constructor: it spends most of its time on what this class is there to leave out.
        self.method = method
        self.url = self.original_url = url
        self.headers = headers
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
            timer=READING["timer"],
            request_info=self.request_info,
            traces=[],
            loop=loop,
            session=self._session,
            stream_writer=_WRITTEN,
        )


async def post(
    session: ClientSession, method: str, url: URL, headers: "CIMultiDict[str]", body: bytes, loop: asyncio.AbstractEventLoop
) -> ClientResponse:
    """Send one request and return at the head of its response. Raises what `ClientSession.request` raises."""
    pool = session.connector
    assert isinstance(pool, TCPConnector)
    posting = Posting(method, url, headers, session)
    try:
        line = await pool.connect(posting, [], NEVER)
        try:
            return await _converse(line, posting, head(method, url, headers, len(body)) + body, loop)
        except BaseException:
            line.close()
            raise
    except OSError as error:
        if isinstance(error, ClientOSError | TimeoutError):
            raise
        raise ClientOSError(*error.args) from error


async def _converse(line: Any, posting: Posting, message: bytes, loop: asyncio.AbstractEventLoop) -> ClientResponse:
    protocol = line.protocol
    protocol.set_response_params(skip_payload=posting.method in _WITHOUT_BODY, **READING)
    protocol.transport.write(message)
    response = posting.written(loop)
    try:
        return await response.start(line)
    except BaseException:
        response.close()
        raise


def head(method: str, url: URL, headers: "CIMultiDict[str]", length: int) -> bytes:
    """The request line and header fields (RFC 9112 sections 3 and 5), with the length of the body where there may be one."""
    fields = "".join([f"{name}: {value}\r\n" for name, value in headers.items()])
    size = f"Content-Length: {length}\r\n" if length or method not in {"GET", "HEAD", "OPTIONS", "TRACE"} else ""
    return f"{method} {url.raw_path_qs} HTTP/1.1\r\nHost: {url.host_port_subcomponent}\r\n{fields}{size}\r\n".encode()
