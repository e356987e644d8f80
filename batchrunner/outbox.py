"""What was settled, on its way to the sink and to those who listen.

Rules:

1. One task empties it, group by group: all that has gathered since the last time is one write.
2. Listeners hear of a result only after the sink has taken it, and of every result that it has taken.
3. It is bounded: when it is full, attempts wait, and with them the run.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Protocol

from batchrunner.core.model import Event, Result
from batchrunner.errors import BatchError

MOST = 1000  # events that may wait for the sink

Listener = Callable[[Event], None]
Deliver = Callable[[Result], Awaitable[None]]
Notice = Callable[[Event], Awaitable[None]]
Echo = Callable[[Result], Sequence[Result]]


class Sink(Protocol):
    """Takes final results. Once `put` has returned, they are safe."""

    async def put(self, results: Sequence[Result]) -> None:
        """Keep these results. FileError when it cannot; what it was given is saved elsewhere first."""


class Outbox:
    """Events between the attempts and the sink. `fail` is told what the sink could not do; `deliver` gets each result."""

    def __init__(
        self,
        sink: Sink,
        listeners: Sequence[Listener],
        fail: Callable[[BatchError], None],
        deliver: Deliver | None = None,
        notice: Notice | None = None,
        echo: Echo | None = None,
    ) -> None:
        self.listeners = list(listeners)
        self._sink = sink
        self._fail = fail
        self._deliver = deliver
        self._notice = notice
        self._echo = echo
        self._waiting: list[Event] = []
        self._busy = False
        self._stir = asyncio.Event()
        self._space = asyncio.Event()

    @property
    def empty(self) -> bool:
        """Whether everything posted has been taken and told."""
        return not (self._waiting or self._busy)

    @property
    def full(self) -> bool:
        """Whether whoever posts should wait for `space`."""
        return len(self._waiting) >= MOST

    def post(self, event: Event) -> None:
        """Something was settled."""
        if not self._waiting:
            self._stir.set()
        self._waiting.append(event)

    async def space(self) -> None:
        """Wait until there is room again."""
        while self.full:
            self._space.clear()
            await self._space.wait()

    async def empty_for_ever(self, emptied: Callable[[], None]) -> None:
        """Pass on what is posted, as it comes; `emptied` is called whenever nothing is left."""
        while True:
            await self._stir.wait()
            self._stir.clear()
            await self.flush(read=True)
            emptied()

    async def flush(self, read: bool = False) -> None:
        """Pass on what is there. When a run is cut off nobody reads any more: then it is kept and counted, and no hook called."""
        while self._waiting:
            group, self._waiting = self._waiting, []
            if self._echo:
                group = self._echoed(group, self._echo)
            self._busy = True
            try:
                await self._pass_on(group, read)
            except BatchError as error:
                self._fail(error)
            finally:
                self._busy = False
                self._space.set()

    def _echoed(self, group: list[Event], echo: Echo) -> list[Event]:
        """With the results that others bring with them: they are kept in the same write."""
        brought = (Event(event.at, None, None, twin) for event in group if event.result for twin in echo(event.result))
        return [*group, *brought]

    async def _pass_on(self, group: list[Event], read: bool) -> None:
        results = [event.result for event in group if event.result]
        try:
            if results:
                await self._sink.put(results)
        except asyncio.CancelledError:
            self._tell(group)  # the sink has them: it was only waiting for the disk
            raise
        self._tell(group)
        for event in group if read and self._notice else ():
            await self._notice(event)  # type: ignore[misc]
        for result in results if read and self._deliver else ():
            await self._deliver(result)  # type: ignore[misc]

    def _tell(self, group: list[Event]) -> None:
        """The whole group without a pause: a run that is cut off must not have told half of what it kept."""
        for listener in self.listeners:
            for event in group:
                listener(event)
