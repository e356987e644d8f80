"""The embedded endpoint itself: what becomes of each call that a client makes.

Rules:

1. A call is served when there is a place for it; until then it waits, as far as there is room, or is refused.
2. The same question is the same request, whether it asks for a stream or not.
3. Control paths (/stats, /reset, /v1/models) and the Batch API (`batches`) meet no fault, no limit and no counter.
"""

import asyncio
import time
from collections import deque
from collections.abc import Callable
from types import TracebackType
from typing import Any, Self

import msgspec

from batchrunner.core.asking import asking
from batchrunner.core.model import Route
from batchrunner.simulator.answers import STREAMS, Answer, answer, echo
from batchrunner.simulator.asks import read_ask, route_of
from batchrunner.simulator.batches import Batches
from batchrunner.simulator.bodies import CREATED
from batchrunner.simulator.connection import Connection, Job
from batchrunner.simulator.incoming import Call
from batchrunner.simulator.ledger import Ledger
from batchrunner.simulator.limits import Limits
from batchrunner.simulator.profile import Dice, Profile
from batchrunner.simulator.wire import JSON, WRITERS, Script, Turn, bodiless, framed, refusal

_MODEL = {"id": "simulated", "object": "model", "created": CREATED, "owned_by": "batchrunner"}


class Simulator:
    """An OpenAI-compatible server on 127.0.0.1: `async with Simulator(profile) as sim: sim.url`.

    `port` 0 takes a free one. `url` is the base URL, "http://127.0.0.1:PORT/v1".
    """

    def __init__(self, profile: Profile | None = None, port: int = 0) -> None:
        self.profile = profile or Profile()
        self.port = port
        self.ledger = Ledger()
        self.connections: set[Connection] = set()
        self._dice = Dice(self.profile)
        self._queue: deque[Job] = deque()
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
        self._server = await self._loop.create_server(lambda: Connection(self), "127.0.0.1", self.port, backlog=4096)
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

    def joined(self, connection: Connection) -> None:
        """A client has connected."""
        self.connections.add(connection)
        self.ledger.connections += 1

    def left(self, connection: Connection) -> None:
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

    def take(self, connection: Connection, call: Call) -> Job:
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
        return Job(call, connection, self.ledger, route, ask, key, len(said), sending, draw.fault, draw.latency)

    def admit(self, job: Job) -> None:
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

    def script(self, job: Job) -> Script:
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

    def over(self, job: Job, good: bool) -> None:
        """A call is done, or its client has left."""
        job.ledger.leave(job.key, good)
        if job.placed:
            self._places -= 1
            if self._queue:
                self._loop.call_soon(self._fill)
        elif job in self._queue:
            self._queue.remove(job)

    def _serve(self, job: Job) -> None:
        job.placed = True
        self._places += 1
        job.connection.answer(job.latency)

    def _fill(self) -> None:
        """Give free places to waiting calls."""
        while self._queue and self._places < self.profile.max_concurrent:
            job = self._queue.popleft()
            self._serve(job)
            job.connection.advance()

    def _refused(self, job: Job, limit: str, status: int, kind: str, wait: float) -> Script:
        said = f"retry-after-ms: {wait * 1e3:.0f}\r\n" if wait else ""
        job.ledger.reply(job.route.value, status, limit)
        turn = self._turn(Answer(job.route), f"req_{job.key.hex()}{job.sending}")
        return refusal(turn, status, kind, "The simulated endpoint cannot take this request.", said)

    def _turn(self, answer: Answer, request_id: str) -> Turn:
        now = time.time()
        return Turn(answer, request_id, self._limits.headers(self._loop.time(), now, answer.route), now, self.profile)


async def serve(port: int, profile: Profile, ready: Callable[[], object]) -> None:
    """Be an endpoint on 127.0.0.1:`port` until cancelled; `ready` is called when it is one. OSError when the port is taken.

    OverflowError: there is no such port.
    """
    async with Simulator(profile, port):
        ready()
        await asyncio.get_running_loop().create_future()
