"""The embedded endpoint's sockets: connections that read calls and play scripts.

Rules:

1. One call of a connection is served at a time; pipelined calls wait in its buffer, in order.
2. All waiting is `call_later`; a client that leaves cancels it and frees its place at once.
3. The same question is the same request, whether it asks for a stream or not.
4. Control paths (/stats, /reset, /v1/models) and the Batch API (`batches`) meet no fault, no limit and no counter.
"""

import asyncio
import socket
import struct
import time
from collections import deque
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import Any, Self, cast

import msgspec
from msgspec import Struct

from batchrunner.core.asking import asking
from batchrunner.core.model import Route
from batchrunner.simulator.answers import STREAMS, Answer, answer, echo
from batchrunner.simulator.asks import Ask, read_ask, route_of
from batchrunner.simulator.batches import Batches
from batchrunner.simulator.bodies import CREATED, error_body
from batchrunner.simulator.incoming import MAX_BODY, MAX_HEAD, Call, MalformedError, awaits_permission, parse
from batchrunner.simulator.ledger import Ledger
from batchrunner.simulator.limits import Limits
from batchrunner.simulator.profile import Dice, Profile
from batchrunner.simulator.wire import JSON, WRITERS, End, Script, Turn, bodiless, framed, refusal

_RESETS = struct.pack("ii", 1, 0)  # SO_LINGER of a socket whose close is a reset
_MOST_PENDING = MAX_BODY + MAX_HEAD
_MODEL = {"id": "simulated", "object": "model", "created": CREATED, "owned_by": "batchrunner"}


class _Job(Struct, eq=False):
    """One call being served, with what it shall meet."""

    call: Call
    connection: "_Connection"
    ledger: Ledger
    route: Route
    ask: Ask | None  # None: echoed, or not to be understood
    key: bytes
    size: int  # of the question, as it would be without a stream
    sending: int
    fault: str
    latency: float
    placed: bool = False  # it holds one of the places of `max_concurrent`


class Simulator:
    """An OpenAI-compatible server on 127.0.0.1: `async with Simulator(profile) as sim: sim.url`.

    `port` 0 takes a free one. `url` is the base URL, "http://127.0.0.1:PORT/v1".
    """

    def __init__(self, profile: Profile | None = None, port: int = 0) -> None:
        self.profile = profile or Profile()
        self.port = port
        self.ledger = Ledger()
        self.connections: set[_Connection] = set()
        self._dice = Dice(self.profile)
        self._queue: deque[_Job] = deque()
        self._places = 0  # taken
        self._limits = Limits(self.profile.rate)
        self._batches = Batches(lambda key: self._dice.throw(key, 1, False).fault)
        self._empty = asyncio.Event()

    @property
    def url(self) -> str:
        """The base URL of the server."""
        return f"http://127.0.0.1:{self.port}/v1"

    def stats(self) -> dict[str, Any]:
        """What came in and went out since the start or the last reset; also at GET /stats."""
        return {**self.ledger.stats(), "open": len(self.connections)}

    async def __aenter__(self) -> Self:
        self._loop = asyncio.get_running_loop()
        self._server = await self._loop.create_server(lambda: _Connection(self), "127.0.0.1", self.port, backlog=4096)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._server.close()
        for connection in self.connections:
            connection.transport.abort()
        if self.connections:
            self._empty.clear()
            await self._empty.wait()
        await self._server.wait_closed()

    def joined(self, connection: "_Connection") -> None:
        """A client has connected."""
        self.connections.add(connection)
        self.ledger.connections += 1

    def left(self, connection: "_Connection") -> None:
        """A connection is gone."""
        self.connections.discard(connection)
        if not self.connections:
            self._empty.set()

    def control(self, call: Call) -> bytes | None:
        """The reply to a control path or of the Batch API; None for any other call."""
        if batched := self._batches.reply(call):
            return framed(self._turn(Answer(Route.HTTP), "req_batch"), batched.status, JSON, batched.body)
        match call.method, call.path.removeprefix("/v1"):
            case "GET", "/stats":
                said: Any = self.stats()
            case "GET", "/models":
                said = {"object": "list", "data": [_MODEL]}
            case "POST", "/reset":
                self.ledger = Ledger()
                said = {"reset": True}
            case _:
                return None
        return framed(self._turn(Answer(Route.HTTP), "req_control"), 200, JSON, msgspec.json.encode(said))

    # --- the life of a call -------------------------------------------------------------------------------------------

    def take(self, connection: "_Connection", call: Call) -> _Job:
        """Count a call in and draw what it shall meet."""
        route = route_of(call.method, call.path)
        try:
            ask = None if route is Route.HTTP else read_ask(call.body)
        except (msgspec.MsgspecError, RecursionError):
            ask = None
        said = asking(call.body, stream=False) if ask and ask.stream else call.body
        key = call.key_of(said)
        sending = self.ledger.arrive(key)
        draw = self._dice.throw(key, sending, bool(ask and ask.stream and route in STREAMS))
        return _Job(call, connection, self.ledger, route, ask, key, len(said), sending, draw.fault, draw.latency)

    def admit(self, job: _Job) -> None:
        """Serve a call, let it wait for a place, or refuse it."""
        profile = self.profile
        if profile.rate and (wait := self._limits.early(self._loop.time())) > 0:
            job.connection.play(self._refused(job, "limit.rate", 429, "rate_limit_exceeded", wait))
        elif not profile.max_concurrent or self._places < profile.max_concurrent:
            self._serve(job)
        elif len(self._queue) < profile.queue:
            self._queue.append(job)
        else:
            job.connection.play(self._refused(job, "limit.full", 503, "server_is_overloaded", profile.wait))

    def script(self, job: _Job) -> Script:
        """What the connection shall play for a call whose time has come."""
        if job.route is Route.HTTP:
            said = echo(job.call.method, job.call.target, job.call.headers, job.call.body)
        elif job.ask is None:
            return self._refused(job, "", 400, "invalid_request_error", 0.0)
        else:
            said = answer(job.route, job.ask, job.key, job.size)
        turn = self._turn(said, f"req_{job.key.hex()}{job.sending}")
        turn.gzip = job.fault == "cut.gzip" and job.call.says(b"accept-encoding", b"gzip")
        script = bodiless(turn) if job.call.method == "HEAD" else WRITERS[job.fault](turn)
        job.ledger.reply(job.route.value, script.status, job.fault)
        return script

    def over(self, job: _Job, good: bool) -> None:
        """A call is done, or its client has left."""
        job.ledger.leave(job.key, good)
        if job.placed:
            self._places -= 1
            if self._queue:
                self._loop.call_soon(self._fill)
        elif job in self._queue:
            self._queue.remove(job)

    def _serve(self, job: _Job) -> None:
        job.placed = True
        self._places += 1
        job.connection.answer(job.latency)

    def _fill(self) -> None:
        """Give free places to waiting calls."""
        while self._queue and self._places < self.profile.max_concurrent:
            job = self._queue.popleft()
            self._serve(job)
            job.connection.advance()

    def _refused(self, job: _Job, limit: str, status: int, kind: str, wait: float) -> Script:
        said = f"retry-after-ms: {wait * 1e3:.0f}\r\n" if wait else ""
        job.ledger.reply(job.route.value, status, limit)
        turn = self._turn(Answer(job.route), f"req_{job.key.hex()}{job.sending}")
        return refusal(turn, status, kind, "The simulated endpoint cannot take this request.", said)

    def _turn(self, answer: Answer, request_id: str) -> Turn:
        now = time.time()
        return Turn(answer, request_id, self._limits.headers(self._loop.time(), now, answer.route), now, self.profile)


class _Connection(asyncio.Protocol):
    """One client's connection."""

    transport: asyncio.Transport

    def __init__(self, simulator: Simulator) -> None:
        self.simulator = simulator
        self._loop = asyncio.get_running_loop()
        self._buffer: bytes | bytearray = b""
        self._job: _Job | None = None
        self._good = False
        self._end = End.KEEP
        self._steps: Iterator[tuple[float, bytes]] = iter(())
        self._timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """See asyncio.Protocol."""
        self.transport = cast(asyncio.Transport, transport)  # uvloop's is none by inheritance
        self.simulator.joined(self)
        self._rest()

    def connection_lost(self, exc: Exception | None) -> None:
        """See asyncio.Protocol."""
        self._wake()
        if self._job:
            self.simulator.over(self._job, False)
            self._job = None
        self.simulator.left(self)

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
            self.play(self.simulator.script(self._job))

    def play(self, script: Script) -> None:
        """Write a script, piece by piece."""
        self._steps, self._end, self._good = iter(script.steps), script.end, script.good
        self._step()

    def _begin(self, call: Call) -> None:
        if reply := self.simulator.control(call):
            self.transport.write(reply)
            self._rest()
        else:
            self._job = self.simulator.take(self, call)
            self.simulator.admit(self._job)

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
        self.simulator.over(job, self._good)
        if self._end is End.RESET:
            self.transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESETS)
            self.transport.abort()
        elif self._end is End.CLOSE or job.call.says(b"connection", b"close"):
            self.transport.close()
        else:
            self._rest()

    def _rest(self) -> None:
        """Nothing to do: the connection is closed when that lasts."""
        if self.simulator.profile.keep_alive and not self._buffer:
            self._timer = self._loop.call_later(self.simulator.profile.keep_alive, self.transport.close)

    def _wake(self) -> None:
        if self._timer:
            self._timer.cancel()
            self._timer = None

    def _reject(self, why: str) -> None:
        body = error_body(Route.HTTP, "invalid_request_error", why)
        self.transport.write(b"HTTP/1.1 400 Bad Request\r\ncontent-length: %d\r\n\r\n" % len(body) + body)
        self.transport.close()


async def serve(port: int, profile: Profile, ready: Callable[[], object]) -> None:
    """Be an endpoint on 127.0.0.1:`port` until cancelled; `ready` is called when it is one. OSError when the port is taken.

    OverflowError: there is no such port.
    """
    async with Simulator(profile, port):
        ready()
        await asyncio.get_running_loop().create_future()
