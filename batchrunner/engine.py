"""The running engine: with `carriers`, the only room that creates the tasks of a run.

    source ──► feeder ──offer──► scheduler ──next──► lane ──► carriers ──► transport
                                     ▲                            │
                                     └─────────── settle ◄────────┘──► Result ──► sink, Event ──► listeners

Rules:

1. One lane per endpoint pulls work when there is capacity; nothing chosen early waits for a slot.
2. A result counts as done, and listeners hear of it, only after the sink has taken it (`outbox`).
3. Stopping has two steps: `drain` sends nothing new and lets attempts end within the grace, `drop` cancels them.
   What has no result stays pending, for the next run; what was cut off is told like any other end, for it may be on the bill.
4. Source, sink, transports, listeners, clock and chance are given; no setting is read here.
"""

import asyncio
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from functools import partial

from msgspec import Struct
from msgspec.structs import replace

from batchrunner.carriers import Carriers, Desk, Transport, Workers
from batchrunner.core.hedging import BEATEN
from batchrunner.core.model import Attempt, Event, Kind, Outcome, Phase, Request, Result
from batchrunner.core.scheduler import Scheduler
from batchrunner.core.treatment import KILLS
from batchrunner.errors import BatchError
from batchrunner.feeder import Feeder
from batchrunner.hooks import Hooks
from batchrunner.outbox import Deliver, Listener, Outbox, Sink


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
        workers: Workers | None = None,
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
        self.outbox = Outbox(sink, listeners, self._fail, deliver, hooks.notice, hooks.echo)
        self._grace = grace
        self._loop = asyncio.get_running_loop()
        self._clock = clock or self._loop.time
        self.feeder = Feeder(source, scheduler, self.outbox, hooks, self._clock, self._wake_lanes, self._finish_if_idle)
        self._chance = chance
        self.dropped = False
        self._over = asyncio.Event()
        self._wakes = {name: asyncio.Event() for name in transports}
        desk = Desk(self._review, self._settle, self._drop, self._following, self._rest, self._break)
        self._carriers = Carriers(scheduler, transports, workers, hooks.judge, self._clock, desk)
        self._grace_timer: asyncio.TimerHandle | None = None

    async def run(self, chores: Sequence[Chore] = ()) -> None:
        """Return when every request has its result, or the run was stopped and its attempts have ended.

        Raises the BatchError that broke the run off, if one did.
        """
        lanes, repeated = map(self._lane, self._wakes), map(self._every, chores)
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
                await end([*tasks, *self._carriers.drop_all()])
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
        except Exception as error:  # noqa: BLE001 - the last one to hear of it
            self._break(error)

    def _break(self, error: Exception) -> None:
        self._fail(_failure(error))

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
                if self.outbox.full:
                    await self.outbox.space()
                step = self.scheduler.next(name, self._clock())
                if isinstance(step, Attempt):
                    self._carriers.start(step)
                else:
                    wake.clear()
                    await self._sleep(wake, step.until)

        return pull

    async def _sleep(self, wake: asyncio.Event, until: float | None) -> None:
        timer = None if until is None else self._loop.call_later(until - self._clock(), wake.set)
        await wake.wait()
        if timer:
            timer.cancel()

    def _following(self, name: str) -> Attempt | None:
        """What to send there now, if anything. When the outbox is full nothing is: the lane waits, and begins anew."""
        if self.stopping or self.outbox.full:
            return None
        step = self.scheduler.next(name, self._clock())
        return step if isinstance(step, Attempt) else None

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
        if scheduler.twins.on:
            self._carriers.call_off(attempt)

    def _post_decided(self) -> None:
        """What has been decided about requests that were held back."""
        decided = self.scheduler.decided.copy()
        self.scheduler.decided.clear()
        for attempt, outcome, result in decided:
            self.outbox.post(Event(self._clock(), attempt, outcome, result))
        self.feeder.look()
        self._wake_lanes()

    def _wake_lanes(self) -> None:
        for wake in self._wakes.values():
            wake.set()

    def _rest(self) -> None:
        self._wake_lanes()
        self._finish_if_idle()

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


def _failure(error: Exception) -> BatchError:
    """What ends the run where this was raised."""
    if isinstance(error, BatchError):
        return error
    hint = "please report it with BATCHRUNNER_DEBUG=1; nothing is lost"
    failure = BatchError("E901", f"internal error: {type(error).__name__}", hint)
    failure.__cause__ = error
    return failure
