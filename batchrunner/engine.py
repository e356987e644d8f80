"""The running engine: the only room that creates the tasks of a run.

    source ──► feeder ──offer──► scheduler ──next──► lane ──► attempt task ──► transport
                                     ▲                             │
                                     └──────────── settle ◄────────┘──► Result ──► sink, Event ──► listeners

Rules:

1. One lane per endpoint pulls work when there is capacity; nothing chosen early waits for a slot.
2. An attempt's task settles exactly once, whatever happens to it, and then carries the lane's next attempt itself.
3. A result counts as done, and listeners hear of it, only after the sink has taken it (`outbox`).
4. Stopping has two steps: `drain` sends nothing new and lets attempts end within the grace, `drop` cancels them.
   What has no result stays pending, for the next run; what was cut off is told like any other end, for it may be on the bill.
5. Source, sink, transports, listeners, clock and chance are given; no setting is read here.
"""

import asyncio
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from functools import partial
from typing import Protocol

from msgspec import Struct
from msgspec.structs import replace

from batchrunner.core.classify import broken_off, classify
from batchrunner.core.hedging import BEATEN
from batchrunner.core.model import Attempt, Event, Fault, Kind, Outcome, Phase, Reply, Request, Result, Timing
from batchrunner.core.scheduler import Scheduler
from batchrunner.core.treatment import DROPPED, KILLS
from batchrunner.errors import BatchError
from batchrunner.feeder import Feeder
from batchrunner.hooks import Hooks
from batchrunner.outbox import Deliver, Listener, Outbox, Sink

Review = Callable[[Attempt, Phase, float], float]


class Transport(Protocol):
    """Sends one attempt. Faults come back as values."""

    async def send(self, attempt: Attempt, review: Review) -> Reply | Fault | Outcome:
        """The answer to this attempt, or what became of it; an outcome where the answer was judged elsewhere.

        Cancelled while nothing of it has been sent it raises `CancelledError(Phase.CONNECT)`.
        """


class Chore(Struct, frozen=True):
    """Something to do at intervals while the run goes on: syncing, checkpoints, drawing."""

    every: float
    work: Callable[[], Awaitable[None]]


class Engine:
    """Brings everything the source yields to a result. `await run()` once."""

    def __init__(
        self,
        *,
        source: AsyncIterator[list[Request | Result]],
        scheduler: Scheduler,
        transports: Mapping[str, Transport],
        sink: Sink,
        listeners: Sequence[Listener] = (),
        deliver: Deliver | None = None,
        hooks: Hooks = Hooks(),
        grace: float = 20.0,
        clock: Callable[[], float] | None = None,
        chance: Callable[[], float] = random.random,
    ) -> None:
        self.scheduler = scheduler
        self.stopping = ""  # why the run ends early; empty while it does not
        self.failure: BatchError | None = None  # what of our own broke it off
        self._transports = transports
        self.outbox = Outbox(sink, listeners, self._fail, deliver, hooks.notice, hooks.echo)
        self._hooks = hooks
        self._grace = grace
        self._loop = asyncio.get_running_loop()
        self._clock = clock or self._loop.time
        self.feeder = Feeder(source, scheduler, self.outbox, hooks, self._clock, self._wake_lanes, self._finish_if_idle)
        self._chance = chance
        self.dropped = False
        self._over = asyncio.Event()
        self._wakes = {name: asyncio.Event() for name in transports}
        self._attempts: set[asyncio.Task[None]] = set()
        self._carriers: dict[tuple[int, int], asyncio.Task[None]] = {}  # by line and number; only where there may be twins
        self._grace_timer: asyncio.TimerHandle | None = None

    async def run(self, chores: Sequence[Chore] = ()) -> None:
        """Return when every request has its result, or the run was stopped and its attempts have ended.

        Raises the BatchError that broke the run off, if one did.
        """
        lanes, repeated = map(self._lane, self._transports), map(self._every, chores)
        works: list[Callable[[], Awaitable[None]]] = [
            self._feed,
            partial(self.outbox.empty_for_ever, self._finish_if_idle),
            *lanes,
            *repeated,
        ]
        tasks = [self._loop.create_task(self._guard(work)) for work in works]
        try:
            await self._over.wait()
        finally:
            if self._grace_timer:
                self._grace_timer.cancel()
            self.stopping = self.stopping or ("" if self.feeder.fed and not self.scheduler.open else "cancelled")
            try:
                await end([*tasks, *self._attempts])
            finally:  # also where a program that ends cancels us once more: what was answered is kept
                self.scheduler.reopen()
                self._post_decided()
                await self.outbox.flush()
        if self.failure:
            raise self.failure

    def pause(self, paused: bool) -> None:
        """Send nothing new until told to go on; attempts under way end as usual."""
        self.scheduler.paused = paused
        self._wake_lanes()

    def refit(self, slots: int) -> None:
        """Let so many be in flight at each endpoint from now on, whatever has been found out."""
        for endpoint in self.scheduler.endpoints:
            endpoint.limit.fix(slots)
        self._wake_lanes()

    def repace(self, rpm: int) -> None:
        """Let so many requests a minute go out for each model at each endpoint from now on; 0: as many as are let in."""
        for endpoint in self.scheduler.endpoints:
            endpoint.repace(rpm)
        self._wake_lanes()

    def drain(self, reason: str) -> None:
        """Send nothing new; attempts under way may end within the grace."""
        if self.stopping:
            return
        self.stopping, self.feeder.closed = reason, True
        self._grace_timer = self._loop.call_later(self._grace, self.drop)
        self._finish_if_idle()

    def drain_if(self, reason: str) -> None:
        """Drain when there is a reason to."""
        if reason:
            self.drain(reason)

    def drop(self, reason: str = "dropped") -> None:
        """End now: attempts under way are cancelled, their requests stay pending."""
        self.stopping = self.stopping or reason
        self.dropped = self.feeder.closed = True
        self._over.set()

    async def _guard(self, work: Callable[[], Awaitable[None]]) -> None:
        """Whatever goes wrong in a task of ours ends the run in order: a bug must not leave a silently smaller pool."""
        try:
            await work()
        except BatchError as error:
            self._fail(error)
        except Exception as bug:  # noqa: BLE001 - the last one to hear of it
            failure = BatchError(
                "E901", f"internal error: {type(bug).__name__}", "please report it with BATCHRUNNER_DEBUG=1; nothing is lost"
            )
            failure.__cause__ = bug
            self._fail(failure)

    def _fail(self, error: BatchError) -> None:
        if self.failure is None:
            self.failure = error
        elif error.message not in self.failure.message:
            self.failure.message += f" {error.message}"  # what comes later may be worse
        self.drain(error.message)

    async def _feed(self) -> None:
        await self.feeder.run()
        self._finish_if_idle()

    def _lane(self, name: str) -> Callable[[], Awaitable[None]]:
        async def pull() -> None:
            wake = self._wakes[name]
            while not self.stopping:
                step = self.scheduler.next(name, self._clock())
                if isinstance(step, Attempt):
                    self._start(step)
                else:
                    wake.clear()
                    await self._sleep(wake, step.until)

        return pull

    async def _sleep(self, wake: asyncio.Event, until: float | None) -> None:
        timer = None if until is None else self._loop.call_later(until - self._clock(), wake.set)
        await wake.wait()
        if timer:
            timer.cancel()

    def _start(self, attempt: Attempt) -> None:
        task = self._loop.create_task(self._guard(partial(self._carry, attempt)))
        self._attempts.add(task)
        task.add_done_callback(self._attempts.discard)

    async def _carry(self, attempt: Attempt) -> None:
        """Bring this attempt to its end, and then the next ones of its lane as long as there are any."""
        transport, name = self._transports[attempt.endpoint], attempt.endpoint
        step: Attempt | None = attempt
        try:
            while step:
                self._settle(step, await self._outcome(step, transport))
                if self.outbox.full:
                    await self.outbox.space()
                step = self._fill(name)
        finally:
            self._wake_lanes()
            self._finish_if_idle()

    def _fill(self, name: str) -> Attempt | None:
        """The attempt to carry on with; where the limit has grown, what else fits is started beside it."""
        first: Attempt | None = None
        while not self.stopping and isinstance(step := self.scheduler.next(name, self._clock()), Attempt):
            if first:
                self._start(step)
            first = first or step
        return first

    async def _outcome(self, attempt: Attempt, transport: Transport) -> Outcome:
        if self.scheduler.twins.on and (task := asyncio.current_task()):
            self._carriers[attempt.request.line, attempt.number] = task
        try:
            answer = await transport.send(attempt, self._review)
            outcome = answer if isinstance(answer, Outcome) else classify(attempt, answer)
            return await self._hooks.judge(attempt, outcome) if self._hooks.judge else outcome
        except asyncio.CancelledError as error:
            sent = Phase.CONNECT not in error.args  # the transport says how far it was
            if self._called_off(attempt):
                return self._cut_off(attempt, BEATEN, sent)
            self._drop(attempt, self._cut_off(attempt, DROPPED, sent))
            raise
        except Exception as bug:  # noqa: BLE001 - a bug in one attempt must not make the pool smaller
            return broken_off(bug)

    def _cut_off(self, attempt: Attempt, why: str, sent: bool) -> Outcome:
        waited = self._clock() - attempt.started
        timing = Timing(connect=0.0 if sent else waited, total=waited)
        return Outcome(Kind.CANCELLED, message=why, billed=sent, timing=timing)

    def _drop(self, attempt: Attempt, outcome: Outcome) -> None:
        """The run ends with this attempt under way: its request stays pending."""
        now = self._clock()
        self.scheduler.settle(attempt, outcome, now, 0.0)
        self.outbox.post(Event(now, attempt, outcome))

    def _review(self, attempt: Attempt, phase: Phase, age: float) -> float:
        more = self.scheduler.review(attempt, phase, age, self._clock())
        self._wake_lanes()  # a silence that turns out to be an outage calls for a probe
        return more

    def _settle(self, attempt: Attempt, outcome: Outcome) -> None:
        now, scheduler = self._clock(), self.scheduler
        if scheduler.twins.on and scheduler.twins.beaten(attempt) and outcome.kind is not Kind.CANCELLED:
            outcome = replace(outcome, kind=Kind.CANCELLED, message=BEATEN, billed=True)  # both ended in the same moment
        verdict = scheduler.settle(attempt, outcome, now, self._chance())
        if scheduler.twins.on:
            self._call_off(attempt)
        why = scheduler.in_force(attempt)[2] if outcome.kind in KILLS else ""
        if isinstance(verdict, Result):
            self.outbox.post(Event(now, attempt, outcome, verdict, scheduler.notice, why))
            self.feeder.look()
        else:
            if verdict:
                self.outbox.post(Event(now, attempt, outcome, None, scheduler.notice, why))
            self._wake_lanes()
            if not self.stopping and scheduler.stopped:
                self.drain(scheduler.stopped)
        if scheduler.decided:
            self._post_decided()

    def _post_decided(self) -> None:
        """What has been decided about requests that were held back."""
        decided = self.scheduler.decided.copy()
        self.scheduler.decided.clear()
        for attempt, outcome, result in decided:
            self.outbox.post(Event(self._clock(), attempt, outcome, result))
        self.feeder.look()
        self._wake_lanes()

    def _call_off(self, attempt: Attempt) -> None:
        """An attempt has ended; if that was the answer, end its twin."""
        line = attempt.request.line
        self._carriers.pop((line, attempt.number), None)
        loser = self.scheduler.twins.loser(line)
        task = None if loser is None else self._carriers.pop((line, loser), None)
        if task and task is not asyncio.current_task():
            task.cancel()

    def _called_off(self, attempt: Attempt) -> bool:
        """Whether this task was cancelled for its attempt's sake alone: then it goes on."""
        task = asyncio.current_task()
        return bool(task and self.scheduler.twins.beaten(attempt) and not task.uncancel())

    def _wake_lanes(self) -> None:
        for wake in self._wakes.values():
            wake.set()

    def _finish_if_idle(self) -> None:
        idle = not self.scheduler.in_flight and self.outbox.empty
        if idle and not self.stopping and self.scheduler.stopped:
            self.drain(self.scheduler.stopped)
        if idle:
            self.feeder.look()
        if idle and (self.stopping or (self.feeder.fed and not self.scheduler.open)):
            self._over.set()

    def _every(self, chore: Chore) -> Callable[[], Awaitable[None]]:
        async def repeat() -> None:
            while True:
                await asyncio.sleep(chore.every)
                await chore.work()

        return repeat


async def end(tasks: Sequence[asyncio.Task[object]]) -> None:
    """Cancel, and wait until every task has settled what it held."""
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
