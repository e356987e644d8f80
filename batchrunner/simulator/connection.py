"""One client's connection to the embedded endpoint: it reads calls and plays scripts.

Rules:

1. One call is served at a time; pipelined ones wait in the buffer, in order.
2. All waiting is `call_later`; a client that leaves cancels it, and its call is over at once.
"""

import asyncio
import socket
import struct
from collections.abc import Iterator
from typing import Protocol, cast

from msgspec import Struct

from batchrunner.core.model import Route
from batchrunner.simulator.asks import Ask
from batchrunner.simulator.bodies import error_body
from batchrunner.simulator.incoming import MAX_BODY, MAX_HEAD, Call, MalformedError, awaits_permission, parse
from batchrunner.simulator.ledger import Ledger
from batchrunner.simulator.profile import Profile
from batchrunner.simulator.wire import End, Script

_RESETS = struct.pack("ii", 1, 0)  # SO_LINGER of a socket whose close is a reset
_MOST_PENDING = MAX_BODY + MAX_HEAD


class Job(Struct, eq=False):
    """One call being served, with what it shall meet."""

    call: Call
    connection: "Connection"
    ledger: Ledger
    route: Route
    ask: Ask | None  # None: echoed, or not to be understood
    key: bytes
    size: int  # of the question, as it would be without a stream
    sending: int
    fault: str
    latency: float
    placed: bool = False  # it holds one of the places of `max_concurrent`


class Host(Protocol):
    """Who decides what becomes of the calls."""

    profile: Profile

    def joined(self, connection: "Connection") -> None:
        """A client has connected."""

    def left(self, connection: "Connection") -> None:
        """A connection is gone."""

    def control(self, call: Call) -> bytes | None:
        """The reply to a call that is no question; None for any other."""

    def take(self, connection: "Connection", call: Call) -> Job:
        """Count a call in and draw what it shall meet."""

    def admit(self, job: Job) -> None:
        """Serve a call, let it wait for a place, or refuse it."""

    def script(self, job: Job) -> Script:
        """What the connection shall play for a call whose time has come."""

    def over(self, job: Job, good: bool) -> None:
        """A call is done, or its client has left."""


class Connection(asyncio.Protocol):
    """One client's connection."""

    transport: asyncio.Transport

    def __init__(self, host: Host) -> None:
        self._host = host
        self._loop = asyncio.get_running_loop()
        self._buffer: bytes | bytearray = b""
        self._job: Job | None = None
        self._good = False
        self._end = End.KEEP
        self._steps: Iterator[tuple[float, bytes]] = iter(())
        self._timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """See asyncio.Protocol."""
        self.transport = cast(asyncio.Transport, transport)  # uvloop's is none by inheritance
        self._host.joined(self)
        self._rest()

    def connection_lost(self, exc: Exception | None) -> None:
        """See asyncio.Protocol."""
        self._wake()
        if self._job:
            self._host.over(self._job, False)
            self._job = None
        self._host.left(self)

    def data_received(self, data: bytes) -> None:
        """See asyncio.Protocol."""
        if not self._buffer:
            self._buffer = data
        else:
            if isinstance(self._buffer, bytes):
                self._buffer = bytearray(self._buffer)
            self._buffer += data
        if self._job is None:
            self._wake()
            self.advance()
        elif len(self._buffer) > _MOST_PENDING:
            self.transport.abort()

    def advance(self) -> None:
        """Take the next calls out of the buffer, until one has to wait."""
        while self._job is None and self._buffer and not self.transport.is_closing():
            try:
                found = parse(self._buffer)
            except MalformedError as error:
                self._reject(str(error))
                return
            if found is None:
                if awaits_permission(self._buffer):
                    self.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
                return
            call, end = found
            self._buffer = self._buffer[end:]
            self._begin(call)

    def answer(self, latency: float) -> None:
        """Play the answer of the present call in `latency` seconds."""
        if latency > 0:
            self._timer = self._loop.call_later(latency, self._due)
        elif self._job:
            self.play(self._host.script(self._job))

    def play(self, script: Script) -> None:
        """Write a script, piece by piece."""
        self._steps, self._end, self._good = iter(script.steps), script.end, script.good
        self._step()

    def _begin(self, call: Call) -> None:
        if reply := self._host.control(call):
            self.transport.write(reply)
            self._rest()
        else:
            self._job = self._host.take(self, call)
            self._host.admit(self._job)

    def _due(self) -> None:
        self.answer(0.0)
        self.advance()

    def _step(self) -> None:
        for delay, piece in self._steps:
            if delay > 0:
                self._timer = self._loop.call_later(delay, self._late, piece)
                return
            self.transport.write(piece)
        if self._end is not End.HOLD:
            self._finish()

    def _late(self, piece: bytes) -> None:
        self.transport.write(piece)
        self._step()
        self.advance()

    def _finish(self) -> None:
        job, self._job = self._job, None
        assert job is not None
        self._host.over(job, self._good)
        if self._end is End.RESET:
            self.transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESETS)
            self.transport.abort()
        elif self._end is End.CLOSE or job.call.says(b"connection", b"close"):
            self.transport.close()
        else:
            self._rest()

    def _rest(self) -> None:
        """Nothing to do: the connection is closed when that lasts."""
        if self._host.profile.keep_alive and not self._buffer:
            self._timer = self._loop.call_later(self._host.profile.keep_alive, self.transport.close)

    def _wake(self) -> None:
        if self._timer:
            self._timer.cancel()
            self._timer = None

    def _reject(self, why: str) -> None:
        body = error_body(Route.HTTP, "invalid_request_error", why)
        self.transport.write(b"HTTP/1.1 400 Bad Request\r\ncontent-length: %d\r\n\r\n" % len(body) + body)
        self.transport.close()
