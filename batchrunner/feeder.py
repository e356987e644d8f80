"""From the source to the scheduler: requests are made ready and offered, what is a result already goes straight out.

Rules:

1. No more is read than the scheduler has room for. Room is looked for as requests end (`look`).
2. Every line that the source gives is offered or has its result, but for one that a hook keeps back, or that nobody may serve
   (`core.unplaced`).
3. Once `closed`, nothing more is offered.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence

from batchrunner.core.model import Error, Event, Kind, Request, Result
from batchrunner.core.scheduler import Scheduler
from batchrunner.hooks import Hooks, hook_failed, prepared
from batchrunner.outbox import Outbox


class Feeder:
    """Feeds one scheduler from one source. `wake` is called where something may be sent, `full` where no room is left."""

    def __init__(
        self,
        source: AsyncIterator[list[Request | Result]],
        scheduler: Scheduler,
        outbox: Outbox,
        hooks: Hooks,
        clock: Callable[[], float],
        wake: Callable[[], None],
        full: Callable[[], None],
    ) -> None:
        self.fed = False  # the source has given all it had
        self.closed = False
        self._source = source
        self._scheduler = scheduler
        self._outbox = outbox
        self._hooks = hooks
        self._clock = clock
        self._wake = wake
        self._full = full
        self._room = asyncio.Event()  # not set while it is waited for
        self._room.set()

    async def run(self) -> None:
        """Return when the source has given all it had, or it is closed."""
        plain = not (self._hooks.prepare or self._hooks.admit)
        async for block in self._source:
            for item in block:
                if self.closed:
                    return
                if not (plain and isinstance(item, Request) and self._scheduler.offer(item)):
                    await self._open(item)
            self._wake()
        if self._scheduler.unplaced.stopped:
            return
        await self._fail(self._scheduler.unplaced.rest())
        self.fed = self._scheduler.last = True

    def look(self) -> None:
        """A request has ended: read on, if it is worth it."""
        if not self._room.is_set() and self._scheduler.roomy:
            self._room.set()

    async def _open(self, item: Request | Result) -> None:
        self._wake()  # a hook may take its time, or wait for what was offered before
        if isinstance(item, Request) and self._hooks.prepare:
            item = await self._prepared(item, self._hooks.prepare)
        admitted = await self._hooks.admit(item) if isinstance(item, Request) and self._hooks.admit else item
        if admitted is not None:
            await self._offer(admitted)

    async def _prepared(self, request: Request, prepare: Callable[[Request], Awaitable[object]]) -> Request | Result:
        try:
            return prepared(request, await prepare(request))
        except Exception as error:  # noqa: BLE001 - a user's code may raise anything; it fails one line, not the run
            return hook_failed(request, f"prepare raised {type(error).__name__}: {error}")

    async def _offer(self, item: Request | Result) -> None:
        if isinstance(item, Request) and not self._scheduler.placed(item):
            unplaced = self._scheduler.unplaced
            await self._fail(unplaced.take(unserved(item), bool(self._scheduler.offered)))
            self.closed = self.closed or bool(unplaced.stopped)
            return
        if isinstance(item, Result):
            await self._fail([item])
            return
        while not self._scheduler.offer(item):
            self._room.clear()
            self._wake()
            self._full()  # it may be all that nobody in use serves: then nothing will end that would tell
            await self._room.wait()

    async def _fail(self, results: Sequence[Result]) -> None:
        for result in results:
            self._outbox.post(Event(self._clock(), None, None, result))
            await self._outbox.space()


def unserved(request: Request) -> Result:
    """The result of a line whose model no endpoint has on its map."""
    message = f"no endpoint serves the model {request.model[:80]!r}"
    hint = "add it to the models of an [[endpoint]], then retry"
    return Result(request=request, kind=Kind.CONFIG, error=Error(Kind.CONFIG, "E304", message, hint))
