"""Runs of the real engine on virtual time in which something is the matter, and what the diagnosis makes of them.

Rules:

1. Engine, scheduler, meter, trail and diagnosis are the real ones. Only the way to the server and the server are ours.
2. What a sending meets is drawn from its line and number alone.
"""

import asyncio
from collections.abc import Callable, Sequence
from math import exp, inf
from pathlib import Path
from random import Random
from typing import Any

from msgspec import Struct

from batchrunner.batch import _engine, _Lanes
from batchrunner.core.cost import Prices
from batchrunner.core.endpoints import Endpoint
from batchrunner.core.limit import Limit
from batchrunner.core.model import Attempt, Cause, Fault, Phase, Reply, Request, Timing
from batchrunner.core.trail import Finding, Moment
from batchrunner.hooks import Hooks
from batchrunner.meter import Meter
from batchrunner.origins import resolve
from batchrunner.view import Run
from batchrunner.wire import Review
from tests.simulation.world import _Deadline, _Job
from tests.virtual import chat, run_virtual

CONNECTING = 0.02
_BODY = (
    b'{"id":"x","choices":[{"index":0,"message":{"content":"yes"},"finish_reason":"stop"}],'
    b'"usage":{"prompt_tokens":%d,"completion_tokens":%d}}'
)


class Fate(Struct):
    """What one sending meets: an answer after so many seconds, or a status, or a fault at that age."""

    seconds: float
    status: int = 200
    cause: Cause | None = None
    phase: Phase = Phase.FIRST_BYTE
    body: bytes = b'{"error":{"message":"planted"}}'  # of an answer that is none
    connect: float = CONNECTING


class Present(Struct):
    """What a fate may depend on."""

    attempt: Attempt
    now: float  # seconds since the start
    load: int  # sendings in service, this one included
    chance: Random  # of this sending alone
    usual: float  # seconds that this line takes when all is well


Course = Callable[[Present], Fate]


class Patient:
    """One endpoint: `course` decides what each sending meets."""

    def __init__(self, course: Course, seed: int, median: float = 1.0, sigma: float = 0.5) -> None:
        self._course = course
        self._seed = seed
        self._median, self._sigma = median, sigma
        self._loop = asyncio.get_running_loop()
        self._start = self._loop.time()
        self._load = 0

    async def send(self, attempt: Attempt, review: Review) -> Reply | Fault:
        chance = Random(f"{self._seed} {attempt.request.line} {attempt.number}")
        usual = self._median * exp(self._sigma * Random(f"{self._seed} {attempt.request.line}").gauss(0.0, 1.0))
        self._load += 1
        began = self._loop.time()
        try:
            fate = self._course(Present(attempt, began - self._start, self._load, chance, usual))
            killed = await self._wait(fate.seconds, attempt, review)
        finally:
            self._load -= 1
        spent = self._loop.time() - began
        if killed:
            return Fault(Cause.TIMEOUT, Phase.FIRST_BYTE, "first byte", self._timing(attempt, spent, answered=False))
        if fate.cause:
            return Fault(fate.cause, fate.phase, "planted", self._timing(attempt, spent, answered=False))
        timing = self._timing(attempt, spent, connect=fate.connect)
        if fate.status != 200:
            return Reply(fate.status, {}, fate.body, timing)
        tokens = max(1, int(usual * 50))
        return Reply(200, {}, _BODY % (int(attempt.request.prompt_tokens), tokens), timing)

    def _timing(self, attempt: Attempt, spent: float, answered: bool = True, connect: float = CONNECTING) -> Timing:
        fresh = attempt.fresh or attempt.request.line % 20 == 0
        connect = min(spent, connect) if fresh else 0.0
        return Timing(connect, spent if answered else 0.0, spent, 0.0, not fresh)

    async def _wait(self, seconds: float, attempt: Attempt, review: Review) -> bool:
        """True when our own deadline came first."""
        over: asyncio.Future[str] = self._loop.create_future()
        clock = _Deadline(self._loop, attempt, review, over)
        timer = self._loop.call_later(seconds, lambda: over.done() or over.set_result("answered")) if seconds < inf else None
        try:
            return await over == "killed"
        finally:
            clock.stop()
            if timer:
                timer.cancel()


def rows(count: int, sizes: Callable[[int], int] = lambda line: 200) -> list[Request]:
    """Requests whose bodies are of these sizes."""
    return [chat(line, body=b"x" * sizes(line)) for line in range(count)]


class Seen(Struct):
    """What a run left: what the diagnosis says, and from what."""

    findings: list[Finding]
    moments: list[Moment]
    run: Any

    @property
    def guilty(self) -> set[str]:
        return {finding.code for finding in self.findings if finding.verdict == "yes"}

    def of(self, code: str) -> Finding:
        return next(finding for finding in self.findings if finding.code == code)


class _Ward(_Job):
    name = "ward"
    folder = None


def examined(
    course: Course,
    seed: int,
    requests: Sequence[Request] | None = None,
    median: float = 1.0,
    sigma: float = 0.5,
    later: int = 0,
    **options: Any,
) -> Seen:
    """Bring requests to their end in virtual time and ask what was the matter.

    `later`: so many in flight are asked for half a minute after the start, as the live page can.
    """
    requests = list(requests or rows(1500))
    settings = resolve(options, {}, Path("/nowhere")).settings

    async def main() -> Seen:
        job = _Ward(list(requests))
        meter = Meter(asyncio.get_running_loop().time(), len(requests))
        endpoints = [Endpoint("a", "http://a/v1", Limit(settings.concurrency))]
        view = Run(job, meter, endpoints, settings, Prices({}), simulated=True)  # type: ignore[arg-type]
        trail = view.leave_trail({})
        ways: Any = {"a": Patient(course, seed, median, sigma)}
        view.engine = _engine(settings, job, meter, _Lanes(endpoints, ways, None), Hooks(), trail.listeners(), None)  # type: ignore[arg-type]
        view.engine._chance = Random(seed).random
        if later:
            asyncio.get_running_loop().call_later(30.0, view.engine.refit, later)
        await view.engine.run(trail.chores())
        trail.take()
        return Seen(view.diagnose(), view.moments(), view)

    seen: Seen = run_virtual(main)
    return seen
