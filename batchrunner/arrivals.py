"""Results as they arrive, for the program that reads them.

Rules:

1. A slow reader slows the run: no more than so many results wait for him.
2. Whoever closes a stream, is cancelled while he waits for it, or lets go of it, ends its run as a cancelling does: nothing more
   is sent, what is under way stays pending, the files are left in order. Who reads on after a wait of his was cancelled gets what
   had come, and then a StopError: nobody takes a stream that was cut off for one at its end.
3. `break` lets go only because the loop alone holds the stream: nothing here may refer to it, the run least of all.
4. A run that was let go ends on its own. The next one that writes where it does waits for that (`vacated`).
"""

import asyncio
import weakref
from collections.abc import Callable, Coroutine
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any, Self

from batchrunner.core.model import Result
from batchrunner.engine import end
from batchrunner.errors import StopError
from batchrunner.outbox import Deliver

READ_AHEAD = 256  # results that wait for a reader before the run does

Task = asyncio.Task[BaseException | None]
_left: dict[Task, Path | None] = {}  # that nobody reads any more, until they have ended; a loop holds tasks but weakly


class Arrivals:
    """The results that `start` delivers, once: `async for result in arrivals`. The run begins with the first that is asked for.

    It is among `runs` while it goes on, and writes to `folder`, if anywhere. What `start` raises is raised after the last result,
    and a StopError where somebody else has cancelled the run.
    """

    def __init__(
        self, start: Callable[[Deliver], Coroutine[Any, Any, object]], runs: set[Task], folder: Path | None = None
    ) -> None:
        queue: asyncio.Queue[Result | BaseException | None] = asyncio.Queue()
        room = asyncio.Semaphore(READ_AHEAD)

        async def deliver(result: Result) -> None:
            await room.acquire()
            queue.put_nowait(result)

        def ended(run: Task) -> None:
            runs.discard(run)
            _left.pop(run, None)
            queue.put_nowait(_cut_off() if run.cancelled() else run.exception() or run.result())

        self._start, self._ended = partial(start, deliver), ended
        self._queue, self._room = queue, room
        self._runs, self._folder = runs, folder and folder.resolve()
        self._run: Task | None = None
        self._closed = False

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Result:
        if self._closed:
            raise StopAsyncIteration
        if not self._run:
            self._begin()
        try:
            item = await self._queue.get()
        except asyncio.CancelledError:
            await self._end()
            raise
        if isinstance(item, Result):
            self._room.release()
            return item
        self._queue.put_nowait(None)  # for whoever else waits, or asks again
        raise StopAsyncIteration if self._closed or not item else item

    async def aclose(self) -> None:
        """End the run, and return when it has ended. Nothing can be read any more. Closing again does nothing."""
        self._closed = True
        await self._end()

    async def _end(self) -> None:
        if self._run:
            await end([self._run])

    def _begin(self) -> None:
        self._run = asyncio.get_running_loop().create_task(_contained(self._start()))
        self._runs.add(self._run)
        self._run.add_done_callback(self._ended)
        weakref.finalize(self, _leave, self._run, self._folder)


async def _contained(run: Coroutine[Any, Any, object]) -> BaseException | None:
    """A run to its end. What is raised to end the program is for the reader: out of a task it would end the loop at once."""
    try:
        await run
    except (KeyboardInterrupt, SystemExit) as error:
        return error
    return None


def _cut_off() -> StopError:
    message = "the runner was left, or a wait for a result was cancelled, while this run still went on"
    hint = "read to the end inside `async with`; asyncio.wait(tasks, timeout=...) waits for a time and cancels nothing"
    return StopError("E303", message, hint)


def _leave(run: Task, folder: Path | None) -> None:
    """Nobody reads any more. The thread may be any, that of a collector, and the loop may have gone, and the run with it."""
    if not run.done():
        _left[run] = folder
        with suppress(RuntimeError):
            run.get_loop().call_soon_threadsafe(run.cancel)


async def vacated(folder: Path) -> None:
    """Wait for the end of a run that was let go and writes there. That of another loop may need this very thread: it is not."""
    here = asyncio.get_running_loop()
    if runs := [run for run, place in list(_left.items()) if place == folder.resolve() and run.get_loop() is here]:
        await asyncio.wait(runs)
