"""A connection: a request goes out on it, and the reply comes in.

Rules:

1. A reply is looked at first when it begins. One that is whole and plain is handed over as it is (`core.whole`); everything
   else goes to aiohttp's parser, which is not made before it is needed.
2. A reply belongs to the request that has left last, or to none: what else comes, and when, costs the connection.
3. What goes on with every request is done for a handful of them at once (`Mail`), what goes on with every packet without waking
   a task (`Flow`).
4. What is private in aiohttp's protocol and still needed stands here.
"""

import asyncio
from collections.abc import Callable
from typing import Any

import aiohttp
from aiohttp.client_proto import ResponseHandler
from aiohttp.helpers import _EXC_SENTINEL, TimerNoop
from aiohttp.http_exceptions import HttpProcessingError

from batchrunner.core.whole import Whole, end_of, whole

SIZES: dict[str, Any] = {
    "read_bufsize": 64 * 1024,
    "max_line_size": 32 * 1024,  # gateways send large cookies and policies
    "max_field_size": 32 * 1024,
    "max_headers": 256,
}
NO_TIMER = TimerNoop()
HANDFUL = 8  # messages that leave together
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
    """What is to be sent in this turn of the loop: written at its end, or a handful at a time, in one go.

    A write wakes a server on the same machine, or a proxy there, which costs more than the writing. Between requests that leave
    one after another it stays awake. But where a thousand answers come in one turn, their successors must not leave together:
    they would come back together for ever after, and each would wait for all of them every time.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._waiting: list[tuple[Link, bytes]] = []

    def put(self, link: "Link", message: bytes) -> None:
        """Send a message with the next few of this turn."""
        if not self._waiting:
            self._loop.call_soon(self._send)
        self._waiting.append((link, message))
        if len(self._waiting) >= HANDFUL:
            self._send()

    def _send(self) -> None:
        waiting, self._waiting = self._waiting, []
        for link, message in waiting:
            if link.transport is not None:  # it may have been dropped meanwhile
                link.sent = True
                link.transport.write(message)


class Link(ResponseHandler):
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
        if reply is None and (end := end_of(data)) < len(data):
            self.force_close()
            data = data[:end]
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
    link = lease and lease.protocol
    if isinstance(link, Link):
        await link.pour(body, take)
        return
    while piece := await body.readany():
        if take(piece):
            return


def _orphan(body: aiohttp.StreamReader | None) -> None:
    """Wake who still reads a body whose connection we have closed: aiohttp would let it wait for ever."""
    if body is not None and not body.is_eof() and body.exception() is None:
        body.set_exception(aiohttp.ClientPayloadError("closed"))
