"""One run of the real engine against modelled servers, on virtual time, and everything that can be counted about it.

Rules:

1. Engine, scheduler, meter and policies are the real ones, wired by `batch`; only source, transport and sink are ours.
2. The transport obeys deadlines as the real one does: at the first it asks `review`, and waits on or gives up.
3. A kill is false when the server would have answered.
"""

import asyncio
from collections.abc import AsyncIterator, Mapping
from math import inf
from pathlib import Path
from random import Random
from typing import Any

from msgspec import Struct

from batchrunner.batch import _engine, _Lanes
from batchrunner.core.endpoints import Endpoint
from batchrunner.core.limit import Limit
from batchrunner.core.model import Attempt, Cause, Fault, Phase, Reply, Request, Result, Timing
from batchrunner.hooks import Hooks
from batchrunner.meter import Meter
from batchrunner.origins import resolve
from batchrunner.settings import Settings
from batchrunner.wire import Review
from tests.simulation.servers import Call, Nature, Refusal, Server
from tests.virtual import MemorySink, run_virtual

ROUND_TRIP = 0.02  # seconds that a refusal takes
PER_TOKEN = 0.02  # seconds of work that one token of an answer stands for
OPENING = 0.2  # of the time of a stream until its first word
PAUSE = 0.05  # seconds between two words of a stream
_BODY = (
    b'{"id":"x","choices":[{"index":0,"message":{"content":"yes"},"finish_reason":"stop"}],'
    b'"usage":{"prompt_tokens":9,"completion_tokens":%d}}'
)
_BUSY = b'{"error":{"message":"too busy"}}'


class Stage(Struct):
    """What a scenario sets up: requests with lines from 0, servers by name in order of preference, and the ideal in seconds.

    `options` are those of the command line that belong to the scenario; all others are at their defaults. `models` says for
    each server which models it serves, and as what; with none it serves all.
    """

    requests: list[Request]
    servers: Mapping[str, Nature]
    ideal: float
    options: Mapping[str, int | str] = {}
    models: Mapping[str, Mapping[str, str]] = {}


class Sent(Struct, gc=False):
    """One sending, as seen from outside. `end` is "answered", "cut", "refused", "killed" or "wronged": killed in vain."""

    line: int
    server: str
    began: float
    ended: float
    end: str
    status: int = 200


class Run(Struct):
    """What happened. All times in seconds since the start."""

    stage: Stage
    sent: list[Sent]
    results: list[Result]
    makespan: float

    @property
    def rows(self) -> int:
        return len(self.stage.requests)

    @property
    def lost(self) -> int:
        """Lines without exactly one result that is a success."""
        good = {result.request.line for result in self.results if result.ok}
        return self.rows - len(good) + len([result for result in self.results if result.request.line in good]) - len(good)

    @property
    def slower(self) -> float:
        """Makespan as a multiple of the ideal."""
        return self.makespan / self.stage.ideal

    @property
    def busy(self) -> float:
        """Seconds between the first request that the servers saw and their last answer."""
        return max(sent.ended for sent in self.sent) - min(sent.began for sent in self.sent)

    @property
    def extra(self) -> float:
        """Sendings beyond one a line, as a share."""
        return len(self.sent) / self.rows - 1.0

    def those(self, end: str) -> list[Sent]:
        return [sent for sent in self.sent if sent.end == end]

    @property
    def wronged(self) -> float:
        """False kills as a share of the lines."""
        return len(self.those("wronged")) / self.rows

    def throttled(self, since: float = 2.0) -> float:
        """429s as a share of all sendings that began after the first seconds."""
        late = [sent for sent in self.sent if sent.began >= since]
        return sum(sent.status == 429 for sent in late) / max(1, len(late))

    def latency(self, quantile: float) -> float:
        """Of the answers."""
        spent = sorted(sent.ended - sent.began for sent in self.sent if sent.end == "answered")
        return spent[int(quantile * (len(spent) - 1))] if spent else inf


class _Wire:
    """One server behind the engine's Transport protocol."""

    def __init__(self, name: str, server: Server, log: list[Sent]) -> None:
        self._name = name
        self._server = server
        self._log = log
        self._loop = asyncio.get_running_loop()
        self._start = self._loop.time()
        self._calls: dict[int, asyncio.Future[str]] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._rings = inf

    async def send(self, attempt: Attempt, review: Review) -> Reply | Fault:
        began, line = self._loop.time(), attempt.request.line
        if way := self._server.nature.way(line):
            await asyncio.sleep(way)
        self._turn()
        call = self._server.arrive(line, attempt.number, self._loop.time() - self._start)
        if isinstance(call, Refusal):
            await asyncio.sleep(ROUND_TRIP)
            self._note(line, began, "refused", call.status)
            return _refused(call)
        future = self._calls[id(call)] = self._loop.create_future()
        self._arm()
        clock = _Deadline(self._loop, attempt, review, future, call)
        try:
            end = await future
        except asyncio.CancelledError:
            self._away(call)
            raise
        finally:
            clock.stop()
            del self._calls[id(call)]
        return self._ended(call, began, end, clock)

    def _ended(self, call: Call, began: float, end: str, clock: "_Deadline") -> Reply | Fault:
        spent = self._loop.time() - began
        if end == "killed":
            self._away(call)
            end = "killed" if call.seconds == inf else "wronged"
        self._note(call.line, began, end, 200 if end == "answered" else 0)
        first = clock.begun or (spent if end == "answered" else 0.0)
        timing = Timing(0.0, first, spent, PAUSE if clock.begun else 0.0, True)
        if end == "answered":
            flags = ("streamed",) if clock.begun else ()
            return Reply(200, call.headers, _BODY % max(1, int(call.seconds / PER_TOKEN)), timing, flags)
        cause = Cause.DISCONNECTED if end == "cut" else Cause.TIMEOUT
        return Fault(cause, clock.phase, end, timing, 200 if clock.begun else 0)

    def _away(self, call: Call) -> None:
        self._server.leave(call, self._loop.time() - self._start)
        self._arm()

    def _note(self, line: int, began: float, end: str, status: int) -> None:
        self._log.append(Sent(line, self._name, began - self._start, self._loop.time() - self._start, end, status))

    def _arm(self) -> None:
        due = self._server.due()
        if due == self._rings:
            return
        if self._timer:
            self._timer.cancel()
        self._rings = due
        self._timer = self._loop.call_at(self._start + due, self._ring) if due < inf else None

    def _ring(self) -> None:
        self._rings, self._timer = inf, None
        self._turn()
        self._arm()

    def _turn(self) -> None:
        for call, end in self._server.advance(self._loop.time() - self._start):
            future = self._calls.get(id(call))
            if future and not future.done():
                future.set_result(end)


class _Deadline:
    """The phase clock of one attempt. A stream begins after `OPENING` of its time, and then speaks until it falls silent."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        attempt: Attempt,
        review: Review,
        future: "asyncio.Future[str]",
        call: Call | None = None,
    ) -> None:
        self._loop, self._attempt, self._review, self._future = loop, attempt, review, future
        self._since = loop.time()
        self.phase = Phase.FIRST_BYTE
        self.begun = 0.0  # after so many seconds
        deadlines = attempt.deadlines
        self._timers = [loop.call_later(min(deadlines.first_byte, deadlines.total), self._ring)]
        spoken = min(call.seconds, call.silent) if call and attempt.stream else inf
        if call and spoken < inf:
            self._timers.append(loop.call_later(OPENING * spoken, self._begin, OPENING * spoken))
            if call.silent < inf:
                self._timers.append(loop.call_later(call.silent, self._hush))

    def _begin(self, seconds: float) -> None:
        self.phase, self.begun = Phase.BODY, seconds
        self._timers[0].cancel()

    def _hush(self) -> None:
        self._since = self._loop.time()
        self._timers[0] = self._loop.call_later(self._attempt.deadlines.idle, self._ring)

    def _ring(self) -> None:
        more = self._review(self._attempt, self.phase, self._loop.time() - self._since)
        if more > 0.0:
            self._timers[0] = self._loop.call_later(more, self._ring)
        elif not self._future.done():
            self._future.set_result("killed")

    def stop(self) -> None:
        for timer in self._timers:
            timer.cancel()


def _refused(refusal: Refusal) -> Reply | Fault:
    timing = Timing(0.0, ROUND_TRIP, ROUND_TRIP, 0.0, True)
    if not refusal.status:
        return Fault(Cause.REFUSED, Phase.CONNECT, "refused", timing)
    headers = {"retry-after": refusal.retry_after} if refusal.retry_after else {}
    return Reply(refusal.status, headers, _BUSY, timing)


class _Job(MemorySink):
    """Source and sink in memory, in the shape `batch` wants."""

    def __init__(self, requests: list[Request]) -> None:
        super().__init__()
        self._requests = requests

    async def source(self, *_: Any) -> AsyncIterator[list[Request | Result]]:
        for at in range(0, len(self._requests), 50):
            yield list(self._requests[at : at + 50])


def _endpoint(name: str, settings: Settings, models: Mapping[str, str]) -> Endpoint:
    return Endpoint(name, f"http://{name}/v1", Limit(settings.concurrency), models=models, pacing=settings.pacing)


def run(stage: Stage, seed: int, options: Mapping[str, int | str] = {}) -> Run:
    """Bring a stage to its end in virtual time. `options` are a contender's; the stage's own go before them."""
    job, log = _Job(stage.requests), list[Sent]()
    settings = resolve({**options, **stage.options}, {}, Path("/nowhere")).settings

    async def main() -> float:
        loop = asyncio.get_running_loop()
        began = loop.time()
        wires: dict[str, Any] = {name: _Wire(name, Server(nature), log) for name, nature in stage.servers.items()}
        endpoints = [_endpoint(name, settings, stage.models.get(name, {})) for name in stage.servers]
        meter = Meter(began, len(stage.requests))
        engine = _engine(settings, job, meter, _Lanes(endpoints, wires, None), Hooks(), (), None)  # type: ignore[arg-type]
        engine._chance = Random(seed).random
        await engine.run()
        return loop.time() - began

    return Run(stage, log, job.results, run_virtual(main))
