"""From an attempt to its outcome, and on to the next one of its lane: by tasks of ours, or by workers.

    engine ──start──► a task ──► transport ──┬──► judge ──► settle ──► what follows
                 └──► a worker ──────────────┘

Rules:

1. An attempt is settled exactly once, whatever happens to it, and the place it had is filled in the same breath.
2. A task goes on with what follows in its lane. What a worker makes needs no task, but where somebody judges it.
3. A task that is cancelled settles what it has in hand. For its twin's sake it is called off, and goes on with what follows;
   else the run ends.
"""

import asyncio
from collections.abc import Callable, Collection, Coroutine, Mapping
from inspect import CORO_CREATED, getcoroutinestate
from typing import Protocol

from msgspec import Struct

from batchrunner.core.classify import broken_off, classify
from batchrunner.core.hedging import BEATEN
from batchrunner.core.model import Attempt, Fault, Kind, Outcome, Phase, Reply, Timing
from batchrunner.core.scheduler import Scheduler
from batchrunner.core.treatment import DROPPED
from batchrunner.hooks import Judge
from batchrunner.wire import Review

Ended = Callable[[Attempt, Outcome], None]


class Transport(Protocol):
    """Sends one attempt. Faults come back as values."""

    async def send(self, attempt: Attempt, review: Review) -> Reply | Fault:
        """The answer to this attempt.

        Cancelled while nothing of it has been sent it raises `CancelledError(Phase.CONNECT)`.
        """


class Workers(Protocol):
    """Processes that make attempts for the run."""

    def serve(self, review: Review, ended: Ended) -> None:
        """From now on ask `review` for more time, and tell `ended` what became of each attempt taken, unless it was dropped."""

    def take(self, attempt: Attempt, in_flight: int) -> bool:
        """Make this attempt, one of so many in flight; False: the run should make it itself."""

    def drop(self, line: int, number: int) -> Attempt | None:
        """Make this attempt no longer; None: it was not theirs, or has ended."""

    def drop_all(self) -> list[Attempt]:
        """Make none of them any longer."""


class Desk(Struct, frozen=True):
    """Where attempts come from, and what becomes of them goes to."""

    review: Review
    settle: Ended
    drop: Ended  # the run ends with this attempt under way
    following: Callable[[str], Attempt | None]  # what to send to this endpoint now, if anything
    rest: Callable[[], None]  # nothing took the place of an attempt
    fail: Callable[[Exception], None]  # a bug of ours


class Carriers:
    """All attempts under way. `transports` are by endpoint."""

    def __init__(
        self,
        scheduler: Scheduler,
        transports: Mapping[str, Transport],
        workers: Workers | None,
        judge: Judge | None,
        clock: Callable[[], float],
        desk: Desk,
    ) -> None:
        self._scheduler = scheduler
        self._transports = transports
        self._workers = workers
        self._judge = judge
        self._clock = clock
        self._desk = desk
        self._loop = asyncio.get_running_loop()
        self._tasks: dict[asyncio.Task[None], tuple[Attempt, bool]] = {}  # what each began with, and whether that was sent before
        self._by_attempt: dict[tuple[int, int], asyncio.Task[None]] = {}  # line and number; only where there may be twins
        if workers:
            workers.serve(desk.review, self._returned)

    def start(self, attempt: Attempt) -> None:
        """Have this attempt made."""
        if not self._taken(attempt):
            self._begin(attempt)

    def call_off(self, attempt: Attempt) -> None:
        """An attempt has ended; if that was the answer, end its twin."""
        line = attempt.request.line
        self._by_attempt.pop((line, attempt.number), None)
        loser = self._scheduler.twins.loser(line)
        if loser is None:
            return
        task = self._by_attempt.pop((line, loser), None)
        if task and task is not asyncio.current_task():
            task.cancel()
        elif self._workers and (beaten := self._workers.drop(line, loser)):
            self._replace(beaten, self._cut_off(beaten, BEATEN, sent=True))

    def drop_all(self) -> Collection["asyncio.Task[None]"]:
        """Drop what workers make, and what no task has begun with. The others, these, drop theirs when they are cancelled."""
        under_way = [(attempt, True) for attempt in self._workers.drop_all()] if self._workers else []
        unbegun = [begun for task, begun in self._tasks.items() if _unbegun(task)]
        for attempt, sent in under_way + unbegun:
            self._desk.drop(attempt, self._cut_off(attempt, DROPPED, sent))
        return self._tasks.keys()

    def _taken(self, attempt: Attempt) -> bool:
        return bool(self._workers and self._workers.take(attempt, self._scheduler.in_flight))

    def _begin(self, attempt: Attempt, answer: Outcome | None = None) -> None:
        task = self._loop.create_task(self._carry(attempt, answer))
        self._tasks[task] = attempt, answer is not None
        task.add_done_callback(self._tasks.pop)

    async def _carry(self, attempt: Attempt, answer: Outcome | None) -> None:
        """Bring this attempt to its end, and then those that follow. `answer`: what a worker brought of it."""
        step: Attempt | None = attempt
        try:
            while step:
                self._desk.settle(step, await self._outcome(step, answer))
                answer, step = None, self._fill(step.endpoint)
        except Exception as bug:  # noqa: BLE001 - it must not leave a silently smaller pool
            self._desk.fail(bug)
        finally:
            self._desk.rest()

    async def _outcome(self, attempt: Attempt, answer: Reply | Fault | Outcome | None) -> Outcome:
        if self._scheduler.twins.on and (task := asyncio.current_task()):
            self._by_attempt[attempt.request.line, attempt.number] = task
        try:
            answer = answer or await self._transports[attempt.endpoint].send(attempt, self._desk.review)
            outcome = answer if isinstance(answer, Outcome) else classify(attempt, answer)
            return await self._judge(attempt, outcome) if self._judge else outcome
        except asyncio.CancelledError as error:
            sent = Phase.CONNECT not in error.args  # the transport says how far it was
            if self._called_off(attempt):
                return self._cut_off(attempt, BEATEN, sent)
            self._desk.drop(attempt, self._cut_off(attempt, DROPPED, sent))
            raise
        except Exception as bug:  # noqa: BLE001 - a bug in one attempt must not make the pool smaller
            return broken_off(bug)

    def _returned(self, attempt: Attempt, outcome: Outcome) -> None:
        """A worker has made this attempt."""
        try:
            if self._judge:
                self._begin(attempt, outcome)
            else:
                self._replace(attempt, outcome)
        except Exception as bug:  # noqa: BLE001 - the channel to the worker could do nothing about it
            self._desk.fail(bug)

    def _replace(self, attempt: Attempt, outcome: Outcome) -> None:
        """Settle what no task carries, and send what follows."""
        sent = self._scheduler.sent
        self._desk.settle(attempt, outcome)
        if step := self._fill(attempt.endpoint):
            self._begin(step)
        if self._scheduler.sent == sent:
            self._desk.rest()

    def _fill(self, endpoint: str) -> Attempt | None:
        """The attempt to carry on with; where the limit has grown, what else fits is started beside it."""
        first = self._following(endpoint)
        while first and (more := self._following(endpoint)):
            self._begin(more)
        return first

    def _following(self, endpoint: str) -> Attempt | None:
        """What follows for a task of ours; what workers take on the way is theirs."""
        step = self._desk.following(endpoint)
        while step and self._taken(step):
            step = self._desk.following(endpoint)
        return step

    def _called_off(self, attempt: Attempt) -> bool:
        """Whether this task was cancelled for its attempt's sake alone: then it goes on."""
        task = asyncio.current_task()
        return bool(task and self._scheduler.twins.beaten(attempt) and not task.uncancel())

    def _cut_off(self, attempt: Attempt, why: str, sent: bool) -> Outcome:
        waited = self._clock() - attempt.started
        timing = Timing(connect=0.0 if sent else waited, total=waited)
        return Outcome(Kind.CANCELLED, message=why, billed=sent, timing=timing)


def _unbegun(task: "asyncio.Task[None]") -> bool:
    """Whether no line of the task has run: cancelled now, none will."""
    coroutine = task.get_coro()
    return isinstance(coroutine, Coroutine) and getcoroutinestate(coroutine) == CORO_CREATED
